"""The first dashboard to look at: how far a run is, how well it learns, and whether anything is wrong."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.panels import Panel, Query
from monitoring.dashboards.parts import CLIENTS, MEAN_ROUND, OPEN_SECONDS, ROUNDS_LEFT, mean, total

_SIDES = (("clients", "blue"), ("servers", "orange"))
_STATS = Row(
    "",
    4,
    (
        Panel(
            kind="stat",
            title="Round",
            what="The round that is open, or was last, and how many rounds the run has. In a round every client trains on its own "
            "data and the servers train on what the clients send; then the servers' layers are averaged.",
            normal="it goes up until both numbers are the same; then the run is finished.",
            otherwise="look at *How long the open round lasts* and at *What is wrong*.",
            unit="none",
            width=4,
            decimals=0,
            queries=(
                Query("max(last_over_time(splitee_round[$__range]))", "now"),
                Query("max(last_over_time(splitee_run_rounds[$__range]))", "in all"),
            ),
            empty="no run yet",
        ),
        Panel(
            kind="stat",
            title="Time left",
            what="An estimate: the rounds that are left, at the mean length of those that are closed.",
            normal="it falls as fast as the clock runs. Nothing is shown before the first round is closed and after the run.",
            otherwise="when it grows, rounds have become slower: see *How long the open round lasts*.",
            unit="s",
            width=4,
            decimals=0,
            queries=(Query(f"clamp_min({ROUNDS_LEFT} * {MEAN_ROUND} - ({OPEN_SECONDS} or vector(0)), 0)", "left"),),
            empty="not known",
        ),
        Panel(
            kind="stat",
            title="Clients taking part",
            what="Devices that train in this run now.",
            normal="the number of devices that were started. Clients leave when they have finished the last round.",
            otherwise="see *Clients by state*, and the log of a client that is missing; started again, it joins the next round.",
            unit="none",
            width=4,
            decimals=0,
            queries=(Query('sum(splitee_clients{state="active"})', "taking part"),),
            steps=((None, "red"), (1, "green")),
            empty="none yet",
        ),
        Panel(
            kind="stat",
            title="Samples a second",
            what="How fast the clients train their halves of the network, and the servers theirs, on what clients sent.",
            normal="over a round both are the same. Clients run ahead at the beginning, servers catch up.",
            otherwise="when both are 0 while a round is open nothing goes on: see *What is wrong*, then the pipeline dashboard.",
            unit="none",
            width=4,
            decimals=0,
            queries=(
                Query(total("splitee_client_samples_total", CLIENTS), "clients"),
                Query(total("splitee_server_samples_total"), "servers"),
            ),
            empty="none",
        ),
        Panel(
            kind="stat",
            title="Accuracy, last evaluated",
            what="Share of the test split that is answered right, mean over the cuts: by the clients' own exits, and by the "
            "servers.",
            normal="it rises, and the servers, which have the deeper network, are above the clients. Evaluated every "
            "`training.evaluate_every` rounds.",
            otherwise="see the curves below. 1 divided by the number of classes is what guessing gives.",
            unit="percentunit",
            width=4,
            decimals=1,
            queries=(Query("avg by (place) (last_over_time(splitee_evaluation_accuracy[$__range]))", "{{place}}"),),
            empty="not evaluated yet",
        ),
        Panel(
            kind="stat",
            title="Is anything wrong?",
            what="How many alerts are firing.",
            normal="nothing is wrong, or: no run is seen, because none is on, or Prometheus does not reach its coordinator.",
            otherwise="*What is wrong* names the alerts; docs/operations.md says what to do about each.",
            unit="suffix: firing",
            width=4,
            decimals=0,
            queries=(
                Query(
                    'count(ALERTS{alertstate="firing", system="splitee"}) or (0 * max(splitee_run_rounds)) or vector(-1)', "alerts"
                ),
            ),
            steps=((None, "blue"), (0, "green"), (1, "red")),
            texts=((-1, "no run is seen"), (0, "nothing is wrong")),
        ),
    ),
)
_LEARNING = Row(
    "",
    8,
    (
        Panel(
            title="Accuracy on the test split",
            what="Share of the test split that is answered right, as last evaluated: by each cut's own exit (client), and by the "
            "server layers above that cut (server). A cut is the layer after which a client's half ends. A baseline has a "
            "whole network.",
            normal="it rises in steps, one at each evaluation, and flattens; server above client, deeper cuts above shallower "
            "ones.",
            otherwise="flat near guessing: the learning rate, or the data. Falling: the loss beside shows whether training "
            "diverges.",
            unit="percentunit",
            width=12,
            high=1,
            stairs=True,
            dashed="^client",
            queries=(
                Query('max by (cut) (splitee_evaluation_accuracy{place="client"})', "client, cut {{cut}}"),
                Query('max by (place, cut) (splitee_evaluation_accuracy{place!="client"})', "{{place}}, cut {{cut}}"),
            ),
            empty="not evaluated yet",
        ),
        Panel(
            title="Loss in training",
            what="Mean cross-entropy of the batches being trained, by cut: at the clients' exits, and at the servers' end.",
            normal="all fall, steeply at first; the servers' are lower.",
            otherwise="when one rises for several rounds, lower its `training.client.lr` or `training.server.lr`; if one alone "
            "does, look at the data of the clients at that cut.",
            unit="suffix: nats",
            width=12,
            joined=True,
            dashed="^client",
            queries=(
                Query(mean("splitee_client_loss_total", "splitee_client_samples_total", CLIENTS, "cut"), "client, cut {{cut}}"),
                Query(mean("splitee_server_loss_total", "splitee_server_samples_total", "", "cut"), "server, cut {{cut}}"),
            ),
        ),
    ),
)
_FLOW = Row(
    "",
    8,
    (
        Panel(
            title="Samples trained a second",
            what="How fast clients and servers train.",
            normal="clients run ahead in bursts, servers follow evenly; both pause between rounds.",
            otherwise="servers below clients for long: add workers, as long as streams wait for one. Both 0: see *What is wrong*.",
            unit="suffix: samples/s",
            colours=_SIDES,
            queries=(
                Query(total("splitee_client_samples_total", CLIENTS), "clients"),
                Query(total("splitee_server_samples_total"), "servers"),
            ),
        ),
        Panel(
            title="Clients by state",
            what="active: taking part. closing: being given up. gone: given up, because silent or too slow. left: has finished.",
            normal="all are active, and all have left at the end.",
            otherwise="a client that is gone joins again when it is started again; look at its log, its network, its power.",
            unit="none",
            decimals=0,
            stacked=True,
            stairs=True,
            colours=(("active", "green"), ("closing", "yellow"), ("gone", "red"), ("left", "blue")),
            queries=(Query("max by (state) (splitee_clients) > 0", "{{state}}"),),
        ),
        Panel(
            kind="table",
            title="What is wrong",
            what="Alerts that are firing now. critical: somebody has to do something, or the run ends or stands still. warning: "
            "look at it in the day.",
            normal="empty.",
            otherwise="docs/operations.md says for each alert what it means and what to do.",
            unit="none",
            queries=(Query('max by (alertname, severity) (ALERTS{alertstate="firing", system="splitee"})', ""),),
            empty="nothing",
            link="pipeline",
        ),
    ),
)
_ROUNDS = Row(
    "Rounds and clients",
    8,
    (
        Panel(
            title="How long the open round lasts",
            what="Seconds since the open round was opened, and the mean length of all rounds closed since the coordinator started.",
            normal="a saw whose teeth are about as high as the mean.",
            otherwise="a tooth that grows on: a client or a server holds the round up. `splitee status --run NAME` shows which "
            "stream; `clients.round_timeout` gives such clients up.",
            unit="s",
            queries=(Query(OPEN_SECONDS, "open for"), Query(MEAN_ROUND, "mean of closed rounds")),
        ),
        Panel(
            title="Rounds closed",
            what="The open round's number, and the number of rounds of the run.",
            normal="an even stair up to the upper line.",
            otherwise="a long step is a long round. A step down: the store lost its last writes, and rounds are trained again.",
            unit="none",
            decimals=0,
            stairs=True,
            queries=(Query("max(splitee_round)", "round"), Query("max(splitee_run_rounds)", "of")),
        ),
        Panel(
            title="Clients given up",
            what="Dropouts, counted from the coordinator's start. silent: not heard for `transport.heartbeat_timeout`. overdue: "
            "beyond `clients.round_timeout`. replaced: a new start of the same client without its state.",
            normal="flat.",
            otherwise="silent: the device, its network, or too short a timeout. overdue: it is slower than the others. replaced: "
            "its `--state` folder was lost, or two processes share one id.",
            unit="none",
            decimals=0,
            stairs=True,
            queries=(Query("sum by (kind) (splitee_dropouts_total)", "{{kind}}"),),
        ),
    ),
)
_CUTS = Row(
    "By cut",
    8,
    (
        Panel(
            title="Accuracy in training, by cut",
            what="Share of the batches' samples that were answered right before each step: by exits, and by the servers.",
            normal="it rises, and ends above the test split's.",
            otherwise="far above the test split's: too few data for that network. Not rising: the learning rate.",
            unit="percentunit",
            width=12,
            high=1,
            joined=True,
            dashed="^client",
            queries=(
                Query(mean("splitee_client_correct_total", "splitee_client_samples_total", CLIENTS, "cut"), "client, cut {{cut}}"),
                Query(mean("splitee_server_correct_total", "splitee_server_samples_total", "", "cut"), "server, cut {{cut}}"),
            ),
        ),
        Panel(
            title="Samples a second, by cut",
            what="How fast the clients at each cut train.",
            normal="in proportion to how many clients there are at each cut, and how strong.",
            otherwise="0 for one cut while a round is open: its clients are gone, or wait. See *What clients do* of the pipeline.",
            unit="suffix: samples/s",
            width=12,
            queries=(Query(total("splitee_client_samples_total", CLIENTS, "cut"), "cut {{cut}}"),),
            link="pipeline",
        ),
    ),
)
TRAINING = Dashboard(
    name="training",
    title="Splitee: training",
    description="How far a run is, how well it learns, and whether anything is wrong.",
    rows=(_STATS, _LEARNING, _FLOW, _ROUNDS, _CUTS),
)

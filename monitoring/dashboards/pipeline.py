"""The dashboard of the way from clients to servers: queues, latency, back-pressure, workers, bytes, the store, and faults."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.panels import Panel, Query
from monitoring.dashboards.parts import ACTIVATIONS, ACTIVE, CLIENTS, WORKERS, mean, quantile, total
from monitoring.dashboards.pipeline_store import BYTES, FAULTS

_NO_RABBITMQ = "RabbitMQ is not scraped"
_REACHED = ((0, "gone"), (1, "reached"))
_WAITING_FOR_SERVERS = '{awaited="servers", job!="client"}'
_STATS = Row(
    "",
    4,
    (
        Panel(
            kind="stat",
            title="Messages waiting",
            what="Batches of features, of all clients, that RabbitMQ holds for the servers. Read from RabbitMQ itself.",
            normal="up and down in each round, 0 when servers keep up. Each client stops at `transport.run_ahead_bytes`.",
            otherwise="only growing: the servers are slower than the clients; see *What server workers do*.",
            unit="short",
            width=4,
            decimals=0,
            queries=(Query(f"sum(rabbitmq_detailed_queue_messages_ready{ACTIVATIONS})", "waiting"),),
            empty=_NO_RABBITMQ,
        ),
        Panel(
            kind="stat",
            title="Server processes",
            what="Processes with server workers that Prometheus reaches.",
            normal="as many as were started; `splitee train` in one process is one.",
            otherwise="start `splitee server --run NAME` anywhere: workers take what nobody has.",
            unit="none",
            width=4,
            decimals=0,
            queries=(Query(WORKERS, "processes"),),
            steps=((None, "red"), (1, "green")),
            empty="none",
        ),
        Panel(
            kind="stat",
            title="Waiting for servers",
            what="Share of the clients' time in which they have sent as much as they may and the servers must catch up.",
            normal="0 to a half; with strategy `sequential` more, because one stream trains all clients in turn.",
            otherwise="add workers, if streams wait for one; else this is what the servers can do.",
            unit="percentunit",
            width=4,
            decimals=0,
            queries=(
                Query(
                    f"({total('splitee_client_waiting_seconds_total', _WAITING_FOR_SERVERS)} or vector(0)) / {ACTIVE}", "waiting"
                ),
            ),
            steps=((None, "green"), (0.5, "yellow"), (0.9, "orange")),
        ),
        Panel(
            kind="stat",
            title="Messages refused",
            what="Dead letters in the time range shown: messages that were not trained, for a recorded reason.",
            normal="0.",
            otherwise="`splitee dead list --run NAME` shows where and why; see *Messages refused, by kind*.",
            unit="none",
            width=4,
            decimals=0,
            queries=(Query("sum(increase(splitee_dead_letters_total[$__range]))", "refused"),),
            steps=((None, "green"), (0.5, "red")),
        ),
        Panel(
            kind="stat",
            title="RabbitMQ",
            what="Whether any role reached RabbitMQ when it last tried.",
            normal="reached.",
            otherwise="look at RabbitMQ's log. Roles connect again by themselves, and nothing is lost.",
            unit="none",
            width=4,
            queries=(Query('max(splitee_reachable{server="broker"})', "broker"),),
            steps=((None, "red"), (1, "green")),
            texts=_REACHED,
        ),
        Panel(
            kind="stat",
            title="Redis",
            what="Whether any role reached Redis when it last tried.",
            normal="reached.",
            otherwise="look at Redis' log. Roles try again by themselves; rounds stand still meanwhile.",
            unit="none",
            width=4,
            queries=(Query('max(splitee_reachable{server="store"})', "store"),),
            steps=((None, "red"), (1, "green")),
            texts=_REACHED,
        ),
    ),
)
_PRESSURE = Row(
    "",
    8,
    (
        Panel(
            title="What clients do",
            what="A mean client's second: how much of it it trains, and how much it waits: for the broker to confirm, for servers "
            "to catch up, for the next round. The rest is encoding, sending and evaluating. A wait is told in pieces: a peak "
            "above 100 % belongs to the time before it.",
            normal="training at the beginning of a round, then waiting for the round, while the slowest end theirs.",
            otherwise="waiting for the broker: RabbitMQ or the network is slow, or `transport.unconfirmed_bytes` too small. "
            "Waiting for servers: they are slower than the clients.",
            unit="percentunit",
            stacked=True,
            queries=(
                Query(f"{total('splitee_client_step_seconds_total', CLIENTS)} / {ACTIVE}", "training"),
                Query(
                    f"{total('splitee_client_waiting_seconds_total', CLIENTS, 'awaited')} / on () group_left () {ACTIVE}",
                    "waiting: {{awaited}}",
                ),
            ),
        ),
        Panel(
            title="What server workers do",
            what="A mean server process's second: how much of it it trains, and how much it waits: for its stream's client, for a "
            "stream to take. The rest is loading and saving. Processes with several workers reach more than 100 %.",
            normal="mostly training while a round is open, waiting for a stream between rounds.",
            otherwise="always training, and clients wait: add workers. Waiting for a client: that client is the slow one. Waiting "
            "for a stream: there are more workers than streams.",
            unit="percentunit",
            stacked=True,
            queries=(
                Query(f"{total('splitee_server_step_seconds_sum')} / {WORKERS}", "training"),
                Query(
                    f"{total('splitee_server_waiting_seconds_total', by='awaited')} / on () group_left () {WORKERS}",
                    "waiting: {{awaited}}",
                ),
            ),
        ),
        Panel(
            title="How full the clients' windows are",
            what="Share of `transport.run_ahead_bytes` that a client has sent and that is not durably trained; mean over batches.",
            normal="anything below 1. It rises in a round and falls when the servers save a checkpoint.",
            otherwise="at 1 clients stop until the servers catch up: see *What server workers do*.",
            unit="percentunit",
            high=1,
            joined=True,
            queries=(
                Query(mean("splitee_client_window_ratio_sum", "splitee_client_window_ratio_count", CLIENTS, "cut"), "cut {{cut}}"),
            ),
        ),
    ),
)
_LATENCY = Row(
    "",
    8,
    (
        Panel(
            title="Messages waiting, and being trained",
            what="Over all clients' queues: ready, nobody has them yet; unacknowledged, a worker holds them until they are "
            "durably trained.",
            normal="ready rises while clients run ahead and falls to 0; unacknowledged falls at every checkpoint.",
            otherwise="ready, but no worker: start one. Unacknowledged for minutes: checkpoints are slow, see *Time to save*.",
            unit="short",
            width=12,
            queries=(
                Query(f"sum(rabbitmq_detailed_queue_messages_ready{ACTIVATIONS})", "ready"),
                Query(f"sum(rabbitmq_detailed_queue_messages_unacked{ACTIVATIONS})", "unacknowledged"),
            ),
            empty=_NO_RABBITMQ,
        ),
        Panel(
            title="From publishing to the confirm, and to being trained",
            what="Mean time from publishing a message to the broker's confirm (it is safe there), and to the servers' word that "
            "it is durably trained. Logarithmic.",
            normal="confirms take milliseconds; training as long as a checkpoint is away: up to `transport.checkpoint_seconds`, "
            "60 s.",
            otherwise="slow confirms: RabbitMQ's disk or the network. Slow training: messages wait, see the panel beside.",
            unit="s",
            width=12,
            logarithmic=True,
            low=None,
            joined=True,
            queries=(
                Query(
                    mean("splitee_client_confirm_seconds_sum", "splitee_client_confirm_seconds_count", CLIENTS, "cut"),
                    "confirm, cut {{cut}}",
                ),
                Query(
                    mean("splitee_client_acknowledge_seconds_sum", "splitee_client_acknowledge_seconds_count", CLIENTS, "cut"),
                    "trained, cut {{cut}}",
                ),
            ),
        ),
    ),
)
_QUEUES = Row(
    "Queues, as RabbitMQ sees them",
    8,
    (
        Panel(
            kind="bargauge",
            title="The longest queues of clients",
            what="The ten clients' queues with the most messages that nobody has yet.",
            normal="short, and in turn another one.",
            otherwise="always the same: nobody trains that client's stream; `splitee status --run NAME` shows who holds it.",
            unit="short",
            decimals=0,
            queries=(Query(f"topk(10, sum by (queue) (rabbitmq_detailed_queue_messages_ready{ACTIVATIONS}))", "{{queue}}"),),
            empty=_NO_RABBITMQ,
        ),
        Panel(
            title="Queues that a worker reads",
            what="How many consumers the clients' queues have; one worker trains one stream at a time, so one or a few queues "
            "each.",
            normal="about one for each worker while a round is open, 0 between rounds.",
            otherwise="0 while messages wait: no worker is there, or none reaches RabbitMQ.",
            unit="none",
            decimals=0,
            stairs=True,
            queries=(Query(f"sum(rabbitmq_detailed_queue_consumers{ACTIVATIONS})", "consumers"),),
            empty=_NO_RABBITMQ,
        ),
        Panel(
            title="Other queues",
            what="Messages in the run's other queues: control messages to the coordinator, offers of work, requests for "
            "inference, dead letters.",
            normal="0, but for offers when all workers have work, and for dead letters, which stay until somebody looks.",
            otherwise="coordinator: it is down or overloaded. inference: see the inference dashboard.",
            unit="short",
            decimals=0,
            queries=(
                Query(
                    "sum by (queue) (rabbitmq_detailed_queue_messages_ready"
                    '{queue=~"splitee[.].+[.](coordinator|offers|inference|dead)"})',
                    "{{queue}}",
                ),
            ),
            empty=_NO_RABBITMQ,
            link="inference",
        ),
    ),
)
_WORK = Row(
    "Work",
    8,
    (
        Panel(
            title="Time of a client's step",
            what="Mean time in which a client trains its half on one batch, by cut.",
            normal="even; deeper cuts take longer.",
            otherwise="rising: the devices are busy with other work, or too hot. `splitee profile` measures a device.",
            unit="s",
            width=6,
            joined=True,
            queries=(
                Query(mean("splitee_client_step_seconds_total", "splitee_client_batches_total", CLIENTS, "cut"), "cut {{cut}}"),
            ),
        ),
        Panel(
            title="Time of a server's step",
            what="Time in which a server worker trains its layers on one batch: of half of the steps at most the one, of 99 % at "
            "most the other.",
            normal="even; 99 % within a few times the half.",
            otherwise="rising: too many workers on one machine, or the machine is busy with other work.",
            unit="s",
            width=6,
            queries=(
                Query(quantile(0.5, "splitee_server_step_seconds"), "half"),
                Query(quantile(0.99, "splitee_server_step_seconds"), "99 %"),
            ),
        ),
        Panel(
            kind="heatmap",
            title="How the times of servers' steps are spread",
            what="How many steps a second took how long.",
            normal="one dark band for each kind of machine.",
            otherwise="a second band far above: some worker is much slower than the others.",
            unit="s",
            width=6,
            queries=(Query("sum by (le) (rate(splitee_server_step_seconds_bucket[$__rate_interval]))", "{{le}}"),),
        ),
        Panel(
            title="Streams",
            what="What workers did with streams: claimed; reclaimed, taken again in mid-round; committed, finished; lost to "
            "another worker.",
            normal="as many committed as claimed. Reclaimed now and then: workers take turns at streams for which nothing comes.",
            otherwise="lost, or reclaimed all the time: workers die or are paused longer than `transport.lease_seconds`; see "
            "their logs.",
            unit="none",
            width=6,
            decimals=0,
            stacked=True,
            bars=True,
            queries=(Query("sum by (change) (increase(splitee_streams_total[$__rate_interval]))", "{{change}}"),),
        ),
    ),
)
PIPELINE = Dashboard(
    name="pipeline",
    title="Splitee: pipeline",
    description="The way from clients to servers: queues, latency, back-pressure, workers, bytes, the store, and faults.",
    rows=(_STATS, _PRESSURE, _LATENCY, _QUEUES, _WORK, BYTES, FAULTS),
)

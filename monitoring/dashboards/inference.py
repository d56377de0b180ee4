"""The dashboard of inference: who answers, how fast, and whether the servers keep up."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.panels import Panel, Query
from monitoring.dashboards.parts import REQUESTS, mean, quantile, total

_NO_DEVICE = "no device that answers is scraped"
_NO_RABBITMQ = "RabbitMQ is not scraped"
_WHERE = "client: by the device's own exit. server: by the servers. degraded: by the exit, because no server answered in time."


def _share(where: str) -> str:
    name = "splitee_inference_samples_total"
    return f'sum(rate({name}{{where="{where}"}}[$__rate_interval])) / ({total(name)} > 0)'


_STATS = Row(
    "",
    4,
    (
        Panel(
            kind="stat",
            title="Samples answered a second",
            what="By all devices that Prometheus reaches.",
            normal="what the devices are asked.",
            otherwise="0: nobody asks, or devices are not scraped; docs/metrics.md shows how a program serves its metrics.",
            unit="suffix: samples/s",
            width=4,
            decimals=1,
            queries=(Query(total("splitee_inference_samples_total"), "samples"),),
            empty=_NO_DEVICE,
        ),
        Panel(
            kind="stat",
            title="Answered by the device itself",
            what="Share of the samples for which the device's exit was sure enough (`max_entropy`).",
            normal="as `splitee calibrate` promised for that bound, if the data is like what it was calibrated on.",
            otherwise="falling: the data has drifted away from the training data. Raise `max_entropy` if the servers have too "
            "much to do.",
            unit="percentunit",
            width=4,
            decimals=0,
            queries=(Query(_share("client"), "by the device"),),
            empty=_NO_DEVICE,
        ),
        Panel(
            kind="stat",
            title="Degraded answers",
            what="Share of the samples that a server should have answered and did not in time: the exit's own answer was taken.",
            normal="0.",
            otherwise="no worker is there (`splitee server --run NAME --stay`), too few, RabbitMQ away, or `--patience` too short.",
            unit="percentunit",
            width=4,
            decimals=1,
            queries=(Query(_share("degraded"), "degraded"),),
            steps=((None, "green"), (0.001, "yellow"), (0.2, "red")),
            empty=_NO_DEVICE,
        ),
        Panel(
            kind="stat",
            title="99 % of batches within",
            what="Time from a batch's first layer at the device to its last answer, of 99 % at most so long.",
            normal="milliseconds when devices answer themselves; the way to the servers and back when they ask.",
            otherwise="see *How long answers take*, and whether requests wait.",
            unit="s",
            width=4,
            queries=(Query(quantile(0.99, "splitee_inference_seconds"), "99 %"),),
            empty=_NO_DEVICE,
        ),
        Panel(
            kind="stat",
            title="Requests waiting",
            what="Requests for inference that RabbitMQ holds for the servers. Read from RabbitMQ itself.",
            normal="0, or a few for a moment.",
            otherwise="growing: add workers. They answer one batch of requests between any two training steps.",
            unit="short",
            width=4,
            decimals=0,
            queries=(Query(f"sum(rabbitmq_detailed_queue_messages_ready{REQUESTS})", "waiting"),),
            empty=_NO_RABBITMQ,
        ),
        Panel(
            kind="stat",
            title="Workers that answer",
            what="Consumers of the queue of requests. Read from RabbitMQ itself.",
            normal="one for each server worker.",
            otherwise="none: start `splitee server --run NAME --stay`.",
            unit="none",
            width=4,
            decimals=0,
            queries=(Query(f"sum(rabbitmq_detailed_queue_consumers{REQUESTS})", "workers"),),
            steps=((None, "red"), (1, "green")),
            empty=_NO_RABBITMQ,
        ),
    ),
)
_ANSWERS = Row(
    "",
    8,
    (
        Panel(
            title="Who answers",
            what=f"Samples answered a second. {_WHERE}",
            normal="client and server in an even proportion, no degraded ones.",
            otherwise="degraded: servers are away or late; see *Requests waiting, and those that came too late* and *Workers that "
            "answer*.",
            unit="suffix: samples/s",
            width=12,
            stacked=True,
            queries=(Query(total("splitee_inference_samples_total", by="where"), "{{where}}"),),
            empty=_NO_DEVICE,
        ),
        Panel(
            title="How long answers take",
            what="Time from a batch's first layer at the device to its last answer: of a half, 90 % and 99 % of the batches at "
            "most so long.",
            normal="even. With servers asked it is the way there and back, and a step of training in between.",
            otherwise="rising together: the devices are busy. Only 99 %: requests wait for workers that train.",
            unit="s",
            width=12,
            queries=tuple(
                Query(quantile(share, "splitee_inference_seconds"), name)
                for share, name in ((0.5, "half"), (0.9, "90 %"), (0.99, "99 %"))
            ),
            empty=_NO_DEVICE,
        ),
    ),
)
_SPREAD = Row(
    "",
    8,
    (
        Panel(
            kind="heatmap",
            title="How the times of answers are spread",
            what="How many batches a second took how long at the devices.",
            normal="two bands: answered by the device, and by the servers.",
            otherwise="a band at `--patience`: servers do not answer.",
            unit="s",
            width=12,
            queries=(Query("sum by (le) (rate(splitee_inference_seconds_bucket[$__rate_interval]))", "{{le}}"),),
            empty=_NO_DEVICE,
        ),
        Panel(
            title="Requests waiting, and those that came too late",
            what="Requests in RabbitMQ that no worker has yet, and requests a second that workers dropped because nobody waited "
            "for the answer any more.",
            normal="both 0.",
            otherwise="add workers, or give devices more `--patience`.",
            unit="short",
            width=12,
            queries=(
                Query(f"sum(rabbitmq_detailed_queue_messages_ready{REQUESTS})", "waiting"),
                Query(total("splitee_inference_late_total"), "too late, a second"),
            ),
        ),
    ),
)
_WORKERS = Row(
    "At the server workers",
    8,
    (
        Panel(
            title="Samples computed at once",
            what="Mean number of samples of waiting requests that a worker put into one pass, and what 99 % of the passes had at "
            "most.",
            normal="small when little is asked; up to `transport.inference_batch` under load.",
            otherwise="always at the bound: add workers.",
            unit="none",
            queries=(
                Query(mean("splitee_inference_batch_samples_sum", "splitee_inference_batch_samples_count"), "mean"),
                Query(quantile(0.99, "splitee_inference_batch_samples"), "99 %"),
            ),
        ),
        Panel(
            title="Time of a worker for its answers",
            what="From taking up requests to sending the answers: of a half and of 99 % of the passes at most so long.",
            normal="even, about a forward pass of the server layers.",
            otherwise="rising: the machine is busy, or batches have become larger.",
            unit="s",
            queries=(
                Query(quantile(0.5, "splitee_inference_batch_seconds"), "half"),
                Query(quantile(0.99, "splitee_inference_batch_seconds"), "99 %"),
            ),
        ),
        Panel(
            title="Samples answered by workers",
            what="Samples a second that the server workers computed.",
            normal="as many as devices do not answer themselves.",
            otherwise="0 while devices ask: see *Workers that answer*.",
            unit="suffix: samples/s",
            queries=(Query(total("splitee_inference_batch_samples_sum"), "samples"),),
        ),
    ),
)
INFERENCE = Dashboard(
    name="inference",
    title="Splitee: inference",
    description="Who answers, how fast, and whether the servers keep up.",
    rows=(_STATS, _ANSWERS, _SPREAD, _WORKERS),
)

"""All metrics in one table; `python -m cli.metrics_page` prints it as docs/metrics.md."""

from monitoring.metric_table import DEFINITIONS
from monitoring.series import Definition

_PREFACE = """\
# Metrics

Every role serves `/metrics` for Prometheus and `/healthz` on a port of its own, when one is asked for: `--metrics-port PORT` or
`SPLITEE_METRICS_PORT`; 0 takes any free one, which is said in a line. Only this machine can ask, unless `--metrics-address` says
otherwise: whoever can reach the port can read it.

`/healthz` answers 200 or 503 with one line of JSON: `role`, `healthy`, and `reason`. A role is well when its loop has turned within
two minutes and RabbitMQ and Redis could be reached when they were last needed; it is not yet while it starts.

`splitee train` in one process has one port for all. With servers it starts processes: the coordinator takes PORT, server workers
PORT + 1, PORT + 2 and so on; with 0 each takes a free one, and tells it in a line. Its clients have none.

Clients behind NAT need not be scraped: what they count travels in their heartbeats, and the coordinator exports it by cut. A
client's own port has the same metrics, of itself: add up one of the two. With `--metrics-by-client` those of the coordinator have a
label `client` as well, and as many series as there are clients. What a client computes again, after it was killed, counts again.

| in `roles` | is |
|---|---|
| coordinator, server, client | `splitee coordinator`, `server`, `client`; with servers, `splitee train` starts them |
| train | `splitee train` in one process; a baseline has the metrics of rounds |
| inference | a program that uses `InferenceClient`, below |

Means come from two counters, or from a summary's sum and count:

    rate(splitee_client_loss_total[1m]) / rate(splitee_client_samples_total[1m])
    rate(splitee_client_confirm_seconds_sum[1m]) / rate(splitee_client_confirm_seconds_count[1m])
    histogram_quantile(0.99, sum by (le) (rate(splitee_server_step_seconds_bucket[5m])))

"""
_AFTERWORD = """
A program that answers samples itself listens with the same classes:

```python
import time
from pathlib import Path

from monitoring.exporter import Exporter, Health
from monitoring.metrics import Metrics
from workers.inference_client import InferenceClient

metrics, health = Metrics("inference"), Health("inference")
with Exporter("127.0.0.1", 9109, metrics.registry, health):
    with InferenceClient.open(Path("runs/digits"), max_entropy=0.5, emit=metrics) as client:
        health.watch(time.monotonic, {})  # ready to answer
        ...
```

In place of `time.monotonic`, a function that returns when a loop of the program last turned lets `/healthz` tell if it still does.
`splitee predict` ends with its images and has no port.

This page is generated: `make docs`.
"""


def markdown() -> str:
    """Return the page of all metrics."""
    rows = "".join(map(_row, DEFINITIONS))
    return f"{_PREFACE}| metric | type | labels | roles | what it is |\n|---|---|---|---|---|\n{rows}{_AFTERWORD}"


def _row(one: Definition) -> str:
    labels = ", ".join(f"`{name}`" + (f" ({', '.join(values)})" if values else "") for name, values in one.labels.items())
    return f"| `{one.name}` | {one.kind} | {labels} | {', '.join(one.roles)} | {one.help} |\n"


if __name__ == "__main__":
    print(markdown(), end="")

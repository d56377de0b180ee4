"""All metrics that dashboards and alerts may ask for, with their labels: ours, RabbitMQ's and Prometheus' own."""

from monitoring.metric_table import DEFINITIONS

PARTS = {"counter": ("",), "gauge": ("",), "summary": ("_sum", "_count"), "histogram": ("_sum", "_count", "_bucket")}
_TARGET = {"job", "instance"}
QUEUES = ("messages_ready", "messages_unacked", "consumers")  # of /metrics/detailed?family=...
ALARMS = ("memory_used_watermark", "free_disk_space_watermark")
LABELS: dict[str, set[str]] = {
    "up": _TARGET,
    "ALERTS": {"alertname", "alertstate", "severity", "system"},
    **{f"rabbitmq_detailed_queue_{name}": {"queue", "vhost", *_TARGET} for name in QUEUES},
    **{f"rabbitmq_alarms_{name}": _TARGET for name in ALARMS},
}
for one in DEFINITIONS:
    for part in PARTS[one.kind]:
        LABELS[one.name + part] = {*one.labels, *_TARGET} | ({"le"} if part == "_bucket" else set())

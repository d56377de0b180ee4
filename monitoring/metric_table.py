"""The table of all metrics; `monitoring.metrics` moves them. Names follow Prometheus' conventions."""

from collections.abc import Mapping
from typing import Literal, get_args

from broker import events
from monitoring.series import LONG_SECONDS, SAMPLES, SECONDS, Definition

# train: all roles in one process. inference: whoever uses an InferenceClient.
Role = Literal["coordinator", "server", "client", "train", "inference"]

_NONE: Mapping[str, tuple[str, ...]] = {}
_CUT: Mapping[str, tuple[str, ...]] = {"cut": ()}
STATES = ("active", "closing", "gone", "left")
_CHANGES = ("claimed", "reclaimed", "committed", "lost")
_CLIENT, _SERVER, _COORDINATOR = ("client", "coordinator", "train"), ("server", "train"), ("coordinator", "train")
_INFERENCE = ("inference",)


def _define(
    name: str,
    kind: Literal["counter", "gauge", "histogram", "summary"],
    roles: tuple[str, ...],
    labels: Mapping[str, tuple[str, ...]],
    help: str,
    buckets: tuple[float, ...] = (),
) -> Definition:
    return Definition(name=f"splitee_{name}", kind=kind, roles=roles, labels=labels, help=help, buckets=buckets)


DEFINITIONS: tuple[Definition, ...] = (
    _define("client_samples_total", "counter", _CLIENT, _CUT, "Samples trained by client halves."),
    _define("client_batches_total", "counter", _CLIENT, _CUT, "Batches trained by client halves."),
    _define("client_correct_total", "counter", _CLIENT, _CUT, "Samples that the exit got right in training: accuracy, by samples."),
    _define("client_loss_total", "counter", _CLIENT, _CUT, "Local loss added up over samples: mean loss, by samples."),
    _define("client_raw_bytes_total", "counter", _CLIENT, _CUT, "Bytes of features as float32 and of labels, before encoding."),
    _define("client_wire_bytes_total", "counter", _CLIENT, _CUT, "Bytes of the messages that batches were published as."),
    _define("client_step_seconds_total", "counter", _CLIENT, _CUT, "Seconds in training steps: mean step time, by batches."),
    _define(
        "client_waiting_seconds_total",
        "counter",
        _CLIENT,
        {"cut": (), "awaited": ("broker", "servers", "round")},
        "Seconds for which a client waited: for the broker to confirm, for servers to catch up, for the next round.",
    ),
    _define("client_confirm_seconds", "summary", _CLIENT, _CUT, "From publishing a message to the broker's confirm."),
    _define(
        "client_acknowledge_seconds", "summary", _CLIENT, _CUT, "From publishing a message to hearing that it is durably trained."
    ),
    _define("client_window_ratio", "summary", _CLIENT, _CUT, "Share of transport.run_ahead_bytes in use, seen at each batch."),
    _define("server_samples_total", "counter", _SERVER, _CUT, "Samples trained by server halves."),
    _define("server_correct_total", "counter", _SERVER, _CUT, "Samples that server halves got right in training."),
    _define("server_loss_total", "counter", _SERVER, _CUT, "Server loss added up over samples: mean loss, by samples."),
    _define("server_bytes_total", "counter", _SERVER, _CUT, "Bytes of features and labels that were trained, as they came."),
    _define(
        "server_step_seconds", "histogram", _SERVER, _CUT, "Time of a training step; its count is the number of batches.", SECONDS
    ),
    _define(
        "server_waiting_seconds_total",
        "counter",
        _SERVER,
        {"awaited": ("client", "stream")},
        "Seconds for which a worker waited: for its stream's client, or for a stream.",
    ),
    _define(
        "streams_total",
        "counter",
        _SERVER,
        {"change": _CHANGES},
        "Streams that workers claimed, claimed again in mid-round, committed, or lost to another worker.",
    ),
    _define(
        "checkpoint_seconds",
        "histogram",
        _SERVER,
        {"kind": ("checkpoint", "commit")},
        "Time to write a checkpoint or a commit.",
        SECONDS,
    ),
    _define(
        "checkpoint_bytes_total",
        "counter",
        _SERVER,
        {"kind": ("checkpoint", "commit")},
        "Bytes of replicas and optimizer states written.",
    ),
    _define("duplicates_total", "counter", _SERVER, _NONE, "Messages that came again and were dropped."),
    _define("gaps_total", "counter", _SERVER, _NONE, "Times that a client was asked for a message that later ones had overtaken."),
    _define(
        "dead_letters_total",
        "counter",
        ("coordinator", "server", "train"),
        {"kind": get_args(events.RefusalKind)},
        "Refused messages: no message of the run; without a place there; not fitting it; not finite; killers of workers.",
    ),
    _define(
        "replicas_set_back_total",
        "counter",
        _SERVER,
        _NONE,
        "Replicas that became non-finite and were set back to before the clients being trained.",
    ),
    _define(
        "reconnects_total",
        "counter",
        ("coordinator", "server", "client", "train"),
        {"role": get_args(events.Role)},
        "Times that a role's consumer was connected to the broker anew.",
    ),
    _define(
        "reachable",
        "gauge",
        ("coordinator", "server", "client"),
        {"server": ("broker", "store")},
        "1 where the last try reached RabbitMQ (broker) or Redis (store, which clients do not use), else 0.",
    ),
    _define("store_bytes", "gauge", _COORDINATOR, _NONE, "Memory that the store uses: all of Redis, whoever fills it."),
    _define(
        "store_limit_bytes", "gauge", _COORDINATOR, _NONE, "The most memory that the store may use, Redis' maxmemory; 0: no bound."
    ),
    _define("round", "gauge", _COORDINATOR, _NONE, "The round that is open, or was last."),
    _define(
        "round_opened_timestamp_seconds",
        "gauge",
        _COORDINATOR,
        _NONE,
        "Unix time at which the round that is open was opened; 0: none is.",
    ),
    _define("run_rounds", "gauge", _COORDINATOR, _NONE, "Rounds of the run."),
    _define("round_seconds", "histogram", _COORDINATOR, _NONE, "From opening a round to closing it.", LONG_SECONDS),
    _define(
        "clients",
        "gauge",
        _COORDINATOR,
        {"state": STATES},
        "Clients by state: taking part, being given up, given up, left at the end.",
    ),
    _define(
        "dropouts_total",
        "counter",
        _COORDINATOR,
        {"kind": get_args(events.DropoutKind)},
        "Clients given up: silent, holding a round up, replaced by a new start of theirs.",
    ),
    _define(
        "evaluation_accuracy",
        "gauge",
        _COORDINATOR,
        {"cut": (), "place": ("client", "server", "network")},
        "Accuracy on the test split, last evaluated.",
    ),
    _define(
        "inference_samples_total",
        "counter",
        _INFERENCE,
        {"where": ("client", "server", "degraded")},
        "Samples by who answered; degraded: the exit, because no server did in time.",
    ),
    _define("inference_seconds", "histogram", _INFERENCE, _NONE, "From a batch's first layer to its last answer.", SECONDS),
    _define("inference_batch_samples", "histogram", _SERVER, _NONE, "Samples of requests that a worker computed at once.", SAMPLES),
    _define(
        "inference_batch_seconds", "histogram", _SERVER, _NONE, "From taking up such requests to sending the answers.", SECONDS
    ),
    _define("inference_late_total", "counter", _SERVER, _NONE, "Requests dropped because nobody waited for the answer any more."),
)

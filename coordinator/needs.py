"""What a run will need of its store and broker, computed before it starts."""

import math
from dataclasses import dataclass

from torch import nn

from broker.messages import ITEM_SIZES
from coordinator.errors import RunFailed
from coordinator.experiment import Experiment
from coordinator.store.interface import Usage
from learning.halves import client_modules
from learning.layers import Network
from learning.strategies import averaged, group, is_split

MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1}
_HEADERS = 33 / 32  # of safetensors, and an optimizer's step counts; on a small network they are some 3 %


@dataclass(frozen=True)
class Needs:
    """Bytes at the worst moment. None: not known, because any client may join."""

    store: int | None
    broker: int | None
    replicas: int | None
    backlog_fits: bool  # whether a client can have a whole round waiting at the broker

    def __str__(self) -> str:
        if self.store is None or self.broker is None:
            return "store and broker needs grow with the clients that join"
        return f"store up to {_mib(self.store)}, broker up to {_mib(self.broker)} for {self.replicas} replicas"


def compute_needs(experiment: Experiment, network: Network, samples: int | None) -> Needs:
    """Return what a run needs; samples: of the whole training split, None if unknown.

    The store holds, for each replica, layers and optimizer state of its last checkpoint and of one on its way and, where a stream
    has several clients, savepoints; where the next round starts from a replica's own, that of two closed rounds, too; and the
    shared layers of two versions. Where
    clients' halves are averaged, those of the round and the averages of two versions are there too, and a half of each client
    may be on its way up and another down. Baselines use neither store nor broker.
    """
    entries = experiment.clients.roster()
    training, transport = experiment.training, experiment.transport
    if not entries:
        return Needs(None, None, None, True)
    if not is_split(training):
        return Needs(0, 0, 0, True)
    sizes = {number: _layer_bytes(network, number) for number in range(2, network.depth + 1)}
    cuts = {entry.id: entry.cut for entry in entries}
    streams = group([(index, entry.id) for index, entry in enumerate(entries)], training)
    closed = 2 if training.optimizer_state == "keep" or not averaged(training) else 0
    replicas = 0
    for members in streams.values():
        first = min(cuts[member] for member in members) + 1
        layers = sum(sizes[number] for number in range(first, network.depth + 1))
        copies = 2 + closed + min(len(members) - 1, 2)
        replicas += layers * (1 + MOMENTS[training.server.name]) * copies
    shared = 2 * sum(sizes[number] for number in range(min(cuts.values()) + 1, network.depth + 1))
    batch = max(math.prod(network.feature_shape(cut)) for cut in cuts.values()) * ITEM_SIZES[str(transport.wire_dtype)]
    per_client = math.ceil((samples or 0) / len(entries)) * training.local_epochs * batch
    backlog = min(per_client, transport.run_ahead_bytes) if samples else transport.run_ahead_bytes
    kept, sent = _halves(experiment, network) if training.average == "all" else (0, 0)
    fits = per_client <= transport.run_ahead_bytes
    return Needs(math.ceil(_HEADERS * (replicas + shared)) + kept, backlog * len(entries) + 2 * sent, len(streams), fits)


def check_store(needs: Needs, usage: Usage) -> None:
    """Raise RunFailed if the store's bound leaves too little, naming the way out."""
    if usage.limit is None or needs.store is None or usage.used + needs.store <= usage.limit:
        return
    raise RunFailed(
        f"the store needs {_mib(needs.store)} for {needs.replicas} replicas, but {_mib(max(usage.limit - usage.used, 0))} of its "
        f"maxmemory {_mib(usage.limit)} are free; raise maxmemory, or set training.streams to fewer replicas or "
        "training.optimizer_state to reset"
    )


def _halves(experiment: Experiment, network: Network) -> tuple[int, int]:
    """Return the bytes that averaged halves take in the store, and those of one half of each client.

    What a stream has committed is kept as long as its optimizer's state is; the average is there by layer and exit in two versions,
    and after the last round by cut.
    """
    cuts = [entry.cut for entry in experiment.clients.roster()]
    sizes = {cut: _bytes(client_modules(network, cut)) for cut in cuts}
    exits = {cut: _bytes(network.build_exit(cut)) for cut in cuts}
    given = sum(sizes[cut] for cut in cuts)
    averages = sizes[max(cuts)] - exits[max(cuts)] + sum(exits.values())
    rounds = 3 if experiment.training.optimizer_state == "keep" else 1
    return rounds * given + 2 * averages + sum(sizes.values()), given


def _layer_bytes(network: Network, number: int) -> int:
    return _bytes(network.build_layer(number))


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"

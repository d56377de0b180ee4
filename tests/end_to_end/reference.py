"""The method once more, as plain loops: what a distributed run must compute. Slow to scale, easy to check by eye.

Shares with the program only how layers are built, which batches a client has, and the settings; training, replicas,
averaging and schedules are written anew with torch alone.
"""

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import nn

from coordinator.experiment import Experiment
from learning.data import ClientData, load_dataset
from learning.layers import Network, build_network
from learning.partition import partition
from learning.settings import OptimizerSettings
from learning.tensors import State

TOLERANCE = 1e-6  # of values around 0.1 to 1
Batch = tuple[torch.Tensor, torch.Tensor]  # features at the cut, labels


@dataclass
class Client:
    """A client's half, whole in memory."""

    name: str
    cut: int
    data: ClientData
    layers: nn.Sequential
    exit: nn.Module
    optimizer: torch.optim.Optimizer
    samples: int = 0  # that it trained in the round


@dataclass
class Replica:
    """A server replica: layer number -> module, and who trains it."""

    clients: list[Client]
    layers: dict[int, nn.Module]
    optimizer: torch.optim.Optimizer
    samples: dict[str, int] = field(default_factory=dict)  # by client, in the round


def train_reference(
    experiment: Experiment, left: dict[str, tuple[int, int]] | None = None, joined: dict[str, int] | None = None
) -> dict[str, State]:
    """Return the final layers under the names of a run's files.

    left: client -> the round in which it was given up, and how many of its batches in that round count. joined: client -> its
    first round, where that is not 1.
    """
    left, joined = left or {}, joined or {}
    torch.set_num_threads(1)
    training = experiment.training
    dataset = load_dataset(experiment.data, training.seed)
    network = build_network(experiment.model, tuple(dataset.sample_shape), dataset.classes, training.seed)
    roster = experiment.clients.roster()
    parts = partition(dataset.train.labels, len(roster), experiment.data, training.seed)
    clients = [
        _client(network, entry.id, entry.cut, ClientData(dataset, part, experiment.data, training, entry.id), training.client)
        for entry, part in zip(roster, parts, strict=True)
    ]
    replicas = [_replica(network, members, training.server) for members in _streams(clients, experiment)]
    shared = {number: network.build_layer(number) for number in range(4, network.depth + 1)}  # the smallest cut is 3
    for turn in range(1, training.rounds + 1):
        rate = _rate(training.client, turn, training.rounds)
        here = [client for client in clients if turn >= joined.get(client.name, 1)]
        batches: dict[str, list[Batch]] = {client.name: [] for client in clients}
        batches |= {client.name: _train_client(client, turn, rate)[: _kept(client, turn, left)] for client in here}
        for replica in replicas:
            for number, layer in replica.layers.items():
                layer.load_state_dict(shared[number].state_dict())
            if training.optimizer_state == "reset":
                replica.optimizer = _adam(training.server, _parameters(replica.layers))
            _train_replica(replica, batches, _rate(training.server, turn, training.rounds), interleave=training.interleave)
        for number, layer in shared.items():
            mean = _mean(number, replicas, by_samples=training.weighting == "samples")
            layer.load_state_dict(mean or layer.state_dict())
        if training.average == "all":
            ended = [client for client in here if _kept(client, turn, left) is None]
            _average_clients(clients, ended, by_samples=training.weighting == "samples")
    return {f"server-layer{number}": layer.state_dict() for number, layer in shared.items()} | {
        f"client-{client.name}": _half_state(client) for client in clients if client.name not in left
    }


def _kept(client: Client, turn: int, left: dict[str, tuple[int, int]]) -> int | None:
    last, batches = left.get(client.name, (turn + 1, 0))
    return None if turn < last else batches if turn == last else 0


def _client(network: Network, name: str, cut: int, data: ClientData, settings: OptimizerSettings) -> Client:
    layers = nn.Sequential(*(network.build_layer(number) for number in range(1, cut + 1)))
    head = network.build_exit(cut)
    return Client(name, cut, data, layers, head, _adam(settings, [*layers.parameters(), *head.parameters()]))


def _replica(network: Network, clients: list[Client], settings: OptimizerSettings) -> Replica:
    first = min(client.cut for client in clients) + 1
    layers = {number: network.build_layer(number) for number in range(first, network.depth + 1)}
    return Replica(clients, layers, _adam(settings, _parameters(layers)))


def _parameters(layers: dict[int, nn.Module]) -> list[nn.Parameter]:
    return [parameter for layer in layers.values() for parameter in layer.parameters()]


def _adam(settings: OptimizerSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    # fused as in the program: otherwise it rounds differently, and where a gradient is almost zero Adam makes a step of that
    return torch.optim.Adam(parameters, lr=settings.lr, fused=True)


def _streams(clients: list[Client], experiment: Experiment) -> list[list[Client]]:
    training = experiment.training
    if training.strategy == "sequential":
        return [clients]
    count = training.streams or len(clients)
    return [clients[stream::count] for stream in range(count)]


def _rate(settings: OptimizerSettings, round: int, rounds: int) -> float:
    if settings.schedule == "cosine":
        return settings.lr * (1 + math.cos(math.pi * (round - 1) / rounds)) / 2
    if settings.schedule == "step":
        drops = (round - 1) // settings.step_rounds
        return float(settings.lr * settings.step_factor**drops)
    return settings.lr


def _train_client(client: Client, round: int, rate: float) -> list[Batch]:
    """Train a client for one round; return what it publishes."""
    client.optimizer.param_groups[0]["lr"] = rate
    published = []
    for sequence in range(client.data.batches_in_round()):
        images, labels = client.data.batch(round, sequence)
        features = client.layers(images)
        published.append((features.detach().clone(), labels))
        loss = nn.functional.cross_entropy(client.exit(features), labels)
        client.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        client.optimizer.step()
    client.samples = sum(len(labels) for _, labels in published)
    return published


def _train_replica(replica: Replica, batches: dict[str, list[Batch]], rate: float, *, interleave: bool) -> None:
    replica.optimizer.param_groups[0]["lr"] = rate
    order = [(client, turn) for client in replica.clients for turn in range(len(batches[client.name]))]
    if interleave:
        order.sort(key=lambda place: place[1])  # stable: in each turn the clients keep their order
    for client in replica.clients:
        replica.samples[client.name] = sum(len(labels) for _, labels in batches[client.name])
    for client, turn in order:
        x, labels = batches[client.name][turn]
        for number, layer in replica.layers.items():
            if number > client.cut:
                x = layer(x)
        replica.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(x, labels).backward()
        replica.optimizer.step()


def _mean(number: int, replicas: list[Replica], *, by_samples: bool) -> State:
    """Return the mean of one layer over the replicas that trained it, each weighted by its clients or its samples."""
    weighted: list[tuple[int, State]] = []
    for replica in replicas:
        through = [client for client in replica.clients if client.cut < number]
        through = [client for client in through if replica.samples[client.name]]
        weight = sum(replica.samples[client.name] for client in through) if by_samples else len(through)
        if weight:
            weighted.append((weight, replica.layers[number].state_dict()))
    return _mean_of(weighted)


def _average_clients(clients: list[Client], ended: list[Client], *, by_samples: bool) -> None:
    """Give every client, also one that comes later, the mean of each of its layers and of its exit over those that trained it."""

    def mean(states: list[tuple[Client, State]]) -> State:
        return _mean_of([(client.samples if by_samples else 1, state) for client, state in states if client.samples])

    deepest = max(client.cut for client in clients)
    layers = [mean([(one, one.layers[at].state_dict()) for one in ended if at < one.cut]) for at in range(deepest)]
    exits = {cut: mean([(one, one.exit.state_dict()) for one in ended if one.cut == cut]) for cut in {one.cut for one in clients}}
    for client in clients:
        for layer, state in zip(client.layers, layers, strict=False):
            layer.load_state_dict(state or layer.state_dict())
        client.exit.load_state_dict(exits[client.cut] or client.exit.state_dict())


def _mean_of(weighted: list[tuple[int, State]]) -> State:
    """Return the weighted mean of states, of counters the maximum; of nothing, nothing."""
    if not weighted:
        return {}
    total = sum(weight for weight, _ in weighted)
    mean = copy.deepcopy(weighted[0][1])
    for name, tensor in mean.items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(max(int(state[name]) for _, state in weighted))
        else:
            exact = sum(state[name].double() * weight for weight, state in weighted) / total
            tensor.copy_(torch.as_tensor(exact))
    return mean


def _half_state(client: Client) -> State:
    state = {f"exit.{name}": tensor for name, tensor in client.exit.state_dict().items()}
    for number, layer in enumerate(client.layers, 1):
        state |= {f"layer{number}.{name}": tensor for name, tensor in layer.state_dict().items()}
    return state


def assert_equal(trained: dict[str, State], expected: dict[str, State]) -> None:
    """Fail unless the files of a run hold what plain loops give."""
    assert trained.keys() == expected.keys()
    for file, state in expected.items():
        assert trained[file].keys() == state.keys(), file
        for name, tensor in state.items():
            found = trained[file][name]
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), f"{file} {name}"
            if not tensor.is_floating_point():
                assert torch.equal(found, tensor), f"{file} {name} is {found}, plain loops give {tensor}"
                continue
            apart = (found - tensor).abs().max().item()
            assert apart <= TOLERANCE, f"{file} {name} is off by {apart:.2g}"

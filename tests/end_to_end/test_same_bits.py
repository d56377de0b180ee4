"""The same experiment and seed give the same parameters, wherever and however they are trained."""

import functools
from contextlib import suppress
from pathlib import Path

import pytest

from broker.memory import MemoryBroker, MemoryTransport
from broker.transport import Delivery, Reopened, Sink, Subscription
from cli import embedded
from learning.tensors import State
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import Setup, final_layers, summary, tiny, train

STRATEGIES = {
    "averaging": (),
    "sequential": ("training.strategy=sequential",),
    "three streams": ("training.streams=3",),
    "interleaved": ("training.strategy=sequential", "training.interleave=true"),
}


class Reopening(MemoryTransport):
    """A connection whose channels for activations break once, in mid-round: what was not acknowledged comes again."""

    AFTER = 2  # deliveries
    broken = 0

    def subscribe(self, queue: str, prefetch: int, sink: Sink) -> Subscription:
        if ".activations." not in queue:
            return super().subscribe(queue, prefetch, sink)
        whole: list[Subscription] = []
        seen = 0

        def count(item: Delivery | Reopened) -> None:
            nonlocal seen
            sink(item)
            seen += isinstance(item, Delivery)
            break_once()

        def break_once() -> None:
            if seen >= self.AFTER:
                with suppress(IndexError):  # it is broken already, or not there yet: deliveries can come before it
                    whole.pop().reopen()
                    Reopening.broken += 1

        subscription = super().subscribe(queue, prefetch, count)
        whole.append(subscription)
        break_once()
        return subscription


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_over_rabbitmq_and_redis(strategy: str, workers: int, deploy: Deploy, undisturbed: Undisturbed) -> None:
    deployment = deploy(*STRATEGIES[strategy])
    coordinator = deployment.coordinator()
    servers = [deployment.server() for _ in range(workers)]
    clients = deployment.clients()
    assert coordinator.wait() == 0, coordinator.text()
    for node in (*servers, *clients.values()):
        assert node.wait() == 0, node.text()
    found, expected = summary(deployment.output), undisturbed(*STRATEGIES[strategy])
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    assert found["accuracy"] == expected["accuracy"]
    assert (found["samples_trained"], found["bytes_published"]) == (expected["samples_trained"], expected["bytes_published"])
    assert (found["refused"], found["divergent_replay"], found["dropouts"]) == (0, 0, [])


def test_the_train_command_with_servers(deploy: Deploy, undisturbed: Undisturbed) -> None:
    deployment = deploy()
    command = deployment.train("--servers", "2")
    assert command.wait() == 0, command.text()
    assert summary(deployment.output)["parameters_sha256"] == undisturbed()["parameters_sha256"]


@pytest.mark.parametrize("strategy", ["averaging", "three streams", "interleaved"])
def test_with_channels_that_break_and_redelivery_out_of_order(
    strategy: str, tmp_path: Path, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "MemoryBroker", functools.partial(MemoryBroker, scramble=1))
    monkeypatch.setattr(embedded, "MemoryTransport", Reopening)
    monkeypatch.setattr(Reopening, "broken", 0)
    found = train(tiny(tmp_path, *STRATEGIES[strategy]), tmp_path / "output")
    assert Reopening.broken >= 6, "hardly a channel broke: the test does not test what it says"
    assert found["parameters_sha256"] == undisturbed(*STRATEGIES[strategy])["parameters_sha256"]


def test_features_in_parts_give_the_same_bits(tmp_path: Path, undisturbed: Undisturbed) -> None:
    setup = Setup.write(tmp_path, "transport.message_limit=8192")  # the smallest features have as many bytes, before labels
    found = train(setup.experiment(), tmp_path / "output")
    assert found["bytes_published"] == undisturbed()["bytes_published"], "bytes that took effect do not count frames"
    assert found["parameters_sha256"] == undisturbed()["parameters_sha256"]


@pytest.mark.parametrize("strategy", ["averaging", "interleaved"])
def test_tight_bounds_give_the_same_bits(strategy: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Clients that may be only a few batches ahead, workers that may hold only a few: they wait, nothing else."""
    bounds = {"unconfirmed_bytes": 20_000, "held_bytes": 60_000, "run_ahead_bytes": 40_000, "queue_bytes": 50_000}
    overrides = [f"transport.{name}={size}" for name, size in bounds.items()]
    setup = tiny(tmp_path, *STRATEGIES[strategy], *overrides, "transport.starved_seconds=0.1")
    assert train(setup, tmp_path / "output")["parameters_sha256"] == undisturbed(*STRATEGIES[strategy])["parameters_sha256"]


def test_clients_halves_hear_nothing_from_the_servers(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Their training is the same under every strategy; what differs are the servers' layers."""
    train(tiny(tmp_path, "training.strategy=distributed"), tmp_path / "output")
    distributed = clients_halves(tmp_path / "output")
    for strategy in ("averaging", "sequential"):
        assert_same(clients_halves(undisturbed(*STRATEGIES[strategy])["folder"]), distributed)
    shas = {undisturbed(*STRATEGIES[strategy])["parameters_sha256"] for strategy in STRATEGIES}
    assert len(shas) == len(STRATEGIES), "strategies that differ gave the same parameters"


def test_averaged_halves_hear_nothing_from_the_servers_either(undisturbed: Undisturbed) -> None:
    one, other = (undisturbed(*STRATEGIES[strategy], "training.average=all") for strategy in ("averaging", "sequential"))
    assert one["parameters_sha256"] != other["parameters_sha256"]
    halves = clients_halves(one["folder"])
    assert_same(clients_halves(other["folder"]), halves)
    for name in (name for name in halves["client-client-01"] if not name.startswith("exit.")):
        assert len({half[name].numpy().tobytes() for half in halves.values()}) == 1, f"{name} is not what all start from"
    alone = clients_halves(undisturbed()["folder"])
    assert not alone["client-client-01"]["layer1.0.weight"].equal(halves["client-client-01"]["layer1.0.weight"])


def clients_halves(folder: Path) -> dict[str, State]:
    halves = {file: state for file, state in final_layers(folder).items() if file.startswith("client-")}
    assert len(halves) == 6
    return halves


def assert_same(halves: dict[str, State], others: dict[str, State]) -> None:
    assert halves.keys() == others.keys()
    for file, state in halves.items():
        assert state.keys() == others[file].keys()
        assert all(others[file][name].equal(tensor) for name, tensor in state.items()), file


def test_another_seed_gives_other_parameters(tmp_path: Path, undisturbed: Undisturbed) -> None:
    found = train(tiny(tmp_path, "training.seed=1"), tmp_path / "output")
    assert found["parameters_sha256"] != undisturbed()["parameters_sha256"]

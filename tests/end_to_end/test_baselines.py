"""The baselines: whole networks without servers, against plain loops, interrupted, and what they leave behind."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from broker.events import Event, NetworkStep, RoundClosed, ignore
from cli.embedded import train_baseline
from cli.prepare import prepare
from coordinator.baseline_state import BaselineState
from coordinator.errors import RunConflict, StoreError
from coordinator.experiment import Experiment
from learning.data import ClientData, evaluation_batches, load_dataset
from learning.errors import LearningError
from learning.halves import ServerHalf
from learning.layers import build_network
from learning.partition import partition
from learning.tensors import State
from monitoring.display import Display, results_table
from monitoring.lines import line
from tests.end_to_end.conftest import Undisturbed
from tests.end_to_end.harness import final_layers, summary, tiny
from workers.trained_run import RunFolderError, TrainedRun

SMALL = (
    "data.train_limit=70", "data.augment=crop-flip", "clients.count=3", "training.rounds=3", "training.evaluate_every=2",
    "training.client.lr=0.1", "training.server.lr=0.002", "training.server.schedule=step", "training.server.step_rounds=1",
)  # fmt: skip
LISTED = ("clients.count=none", "clients.cuts=none")
Baseline = Callable[..., Path]


def experiment_of(folder: Path, strategy: str, *overrides: str) -> Experiment:
    return tiny(folder, *SMALL, f"training.strategy={strategy}", *overrides)


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    """Return the folder of a baseline, trained undisturbed, once for all tests."""
    known: dict[tuple[str, ...], Path] = {}

    def folder(*arguments: str) -> Path:
        if arguments not in known:
            known[arguments] = tmp_path_factory.mktemp("baseline") / "output"
            train_baseline(prepare(experiment_of(known[arguments].parent, *arguments)), known[arguments], ignore)
        return known[arguments]

    return folder


def plain_loops(experiment: Experiment) -> dict[str, State]:
    """Return the final networks by name, trained with torch alone on the batches that the program would have taken."""
    training = experiment.training
    dataset = load_dataset(experiment.data, training.seed)
    network = build_network(experiment.model, tuple(dataset.sample_shape), dataset.classes, training.seed)
    roster = experiment.clients.roster()
    parts = dict(
        zip((e.id for e in roster), partition(dataset.train.labels, len(roster), experiment.data, training.seed), strict=True)
    )
    if training.strategy == "centralized":
        parts = {"all": torch.arange(len(dataset.train))}
    found: dict[str, State] = {}
    for name, indices in parts.items():
        data = ClientData(dataset, indices, experiment.data, training, name)
        layers = nn.ModuleDict({f"layer{number}": network.build_layer(number) for number in range(1, network.depth + 1)})
        optimizer = torch.optim.Adam(layers.parameters(), fused=True)
        for turn in range(training.rounds):
            optimizer.param_groups[0]["lr"] = 0.002 * 0.1**turn
            if training.optimizer_state == "reset":
                optimizer.state.clear()
            for sequence in range(data.batches_in_round()):
                x, labels = data.batch(turn + 1, sequence)
                x = x.clone(memory_format=torch.contiguous_format)
                for layer in layers.values():
                    x = layer(x)
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(x, labels).backward()
                optimizer.step()
        found[f"network-{name}"] = dict(layers.state_dict())
    return found


@pytest.mark.parametrize("arguments", [("alone",), ("centralized",), ("alone", "training.optimizer_state=reset")], ids=" ".join)
def test_a_baseline_computes_what_plain_loops_compute(arguments: tuple[str, ...], tmp_path: Path, baseline: Baseline) -> None:
    expected = plain_loops(experiment_of(tmp_path, *arguments))
    found = final_layers(baseline(*arguments))
    assert found.keys() == expected.keys()
    for name, state in expected.items():
        assert found[name].keys() == state.keys()
        assert all(torch.equal(found[name][key], tensor) for key, tensor in state.items()), name


def test_centralized_is_one_client_alone_with_all_data(baseline: Baseline) -> None:
    one = baseline("alone", *LISTED, "clients.list=[{id='all',cut=4}]")
    whole = baseline("centralized")
    assert summary(one)["parameters_sha256"] == summary(whole)["parameters_sha256"]
    assert summary(one)["accuracy"]["4"] == summary(whole)["accuracy"]["all"]


def test_its_loss_is_told_by_cut(baseline: Baseline) -> None:
    assert all(one["loss_by_cut"] == {"all": {"network": one["server_loss"]}} for one in lines_of(baseline("centralized")))
    output = baseline("alone", "clients.cuts=[5,3]")
    state = BaselineState(output / "state", "tiny", summary(output)["fingerprint"])
    last = {f"client-0{number}": state.trained(f"client-0{number}") for number in (1, 2, 3)}
    state.close()
    five = last["client-01"].tallies + last["client-02"].tallies
    expected = {"3": {"network": last["client-03"].tallies.server_loss}, "5": {"network": five.server_loss}}
    assert lines_of(output)[-1]["loss_by_cut"] == expected
    assert expected["3"] != expected["5"]


def test_rounds_closed_before_loss_was_kept_by_cut_go_on(tmp_path: Path) -> None:
    prepared, output = prepare(experiment_of(tmp_path, "centralized")), tmp_path / "output"
    with pytest.raises(KeyboardInterrupt):
        train_baseline(prepared, output, Interrupt(between_rounds))
    path = output / "state" / "rounds.json"
    document = json.loads(path.read_text())
    for closed in document["rounds"]:
        del closed["by_cut"]
    path.write_text(json.dumps(document))
    train_baseline(prepared, output, ignore)
    assert [list(one["loss_by_cut"]) for one in lines_of(output)] == [[], [], ["all"]]


def test_the_roster_does_not_matter_to_centralized(baseline: Baseline) -> None:
    found, expected = summary(baseline("centralized", "clients.cuts=[5]", "clients.count=60")), summary(baseline("centralized"))
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    assert found["samples_trained"] == expected["samples_trained"] == 70 * 3


class Interrupt:
    """A listener that interrupts a run as soon as something is said."""

    def __init__(self, at: Callable[[Event], bool]) -> None:
        self._at = at

    def __call__(self, event: Event) -> None:
        if self._at(event):
            raise KeyboardInterrupt


def between_rounds(event: Event) -> bool:
    return isinstance(event, RoundClosed) and event.round == 2


def within_a_round(event: Event) -> bool:
    return isinstance(event, NetworkStep) and (event.round, event.place) == (2, event.networks) and event.batches == event.of


@pytest.mark.parametrize("strategy", ["alone", "centralized"])
@pytest.mark.parametrize("at", [between_rounds, within_a_round])
def test_an_interrupted_baseline_goes_on(at: Callable[[Event], bool], strategy: str, tmp_path: Path, baseline: Baseline) -> None:
    prepared, output = prepare(experiment_of(tmp_path, strategy)), tmp_path / "output"
    with pytest.raises(KeyboardInterrupt):
        train_baseline(prepared, output, Interrupt(at))
    assert not (output / "summary.json").exists()
    heard: list[Event] = []
    train_baseline(prepare(experiment_of(tmp_path, strategy)), output, heard.append)
    again = {(event.round, event.place) for event in heard if isinstance(event, NetworkStep)}
    networks = 3 if strategy == "alone" else 1
    third = {(3, place + 1) for place in range(networks)}
    assert again == (third if at is between_rounds else {(2, networks), *third}), "what was complete is trained again, or not all"
    expected = baseline(strategy)
    changing = {"seconds", "samples_per_second"}
    assert {k: v for k, v in summary(output).items() if k not in changing} == {
        k: v for k, v in summary(expected).items() if k not in changing
    }
    assert [{**one, "seconds": 0} for one in lines_of(output)] == [{**one, "seconds": 0} for one in lines_of(expected)]
    assert not list(output.rglob("*.partial"))


@pytest.mark.parametrize("strategy", ["alone", "centralized"])
def test_its_accuracy_is_that_of_the_layers_it_leaves(strategy: str, tmp_path: Path, baseline: Baseline) -> None:
    experiment = prepare(experiment_of(tmp_path, strategy)).experiment
    dataset = load_dataset(experiment.data, experiment.training.seed)
    network = build_network(experiment.model, tuple(dataset.sample_shape), dataset.classes, experiment.training.seed)
    own: dict[str, float] = {}
    for file, state in final_layers(baseline(strategy)).items():
        half = ServerHalf(network, 1, experiment.training)
        half.modules.load_state_dict(state)
        batches = list(evaluation_batches(dataset, experiment.data, experiment.training.seed, 100, whole=True))
        right = sum(int((half.predict(images, 0).argmax(dim=1) == labels).sum()) for images, labels in batches)
        own[file.removeprefix("network-")] = right / 360
    found = summary(baseline(strategy))
    assert found["accuracy_by_client"] == {name: {"network": share} for name, share in own.items()}
    cuts = {"all": list(own)} if strategy == "centralized" else {"3": ["client-01"], "4": ["client-02"], "5": ["client-03"]}
    for cut, members in cuts.items():
        assert found["accuracy"][cut]["network"] == pytest.approx(statistics.mean(own[name] for name in members))
    assert list(found["accuracy"]) == list(cuts)


@pytest.mark.parametrize("strategy", ["alone", "centralized"])
def test_it_leaves_the_same_files_with_the_same_keys(strategy: str, baseline: Baseline, undisturbed: Undisturbed) -> None:
    output, other = baseline(strategy), undisturbed()["folder"]
    assert {path.name for path in output.iterdir()} == {path.name for path in other.iterdir()}
    assert summary(output).keys() == summary(other).keys()
    metrics = lines_of(output)
    assert [one.keys() for one in metrics] == [lines_of(other)[0].keys()] * 3
    assert [one["accuracy"] is not None for one in metrics] == [False, True, True]
    assert metrics[2]["accuracy"] == summary(output)["accuracy"]
    assert summary(output)["samples_dropped"] == 0


@pytest.mark.parametrize("strategy", ["alone", "centralized"])
def test_what_a_person_sees_of_it(strategy: str, tmp_path: Path) -> None:
    heard: list[Event] = []
    console = Console(record=True, width=200, force_terminal=True, file=(tmp_path / "terminal").open("w"))
    with Display(console) as display:

        def listen(event: Event) -> None:
            heard.append(event)
            display(event)

        train_baseline(prepare(experiment_of(tmp_path, strategy, "training.rounds=2")), tmp_path / "output", listen)
    text = "\n".join(filter(None, map(line, heard)))
    name = "cut 3" if strategy == "alone" else "all"
    found = summary(tmp_path / "output")
    first = next(iter(found["accuracy"].values()))["network"]
    assert f"round 2 accuracy of networks: {name} {first:.3f}" in text
    assert "round 1: 3 networks" in text or "round 1: 1 network\n" in text
    assert "clients," in text or "1 client," in text
    console.print(results_table(found))
    shown = console.export_text()
    assert "network accuracy" in shown
    assert f"{first:.3f}" in shown
    assert " batches" in (tmp_path / "terminal").read_text(), "nobody sees how far a round is"


def test_a_folder_of_whole_networks_is_no_split_run(baseline: Baseline) -> None:
    with pytest.raises(RunFolderError, match="holds whole networks, of strategy alone"):
        TrainedRun.open(baseline("alone"))


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    prepared, output = prepare(experiment_of(tmp_path, "centralized")), tmp_path / "output"
    with pytest.raises(KeyboardInterrupt):
        train_baseline(prepared, output, Interrupt(between_rounds))
    network, rounds = output / "state" / "networks" / "all.safetensors", output / "state" / "rounds.json"
    whole = {path: path.read_bytes() for path in (network, rounds)}

    def refused(path: Path, data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises((StoreError, RunConflict, LearningError)) as refusal:
            train_baseline(prepared, output, ignore)
        path.write_bytes(whole[path])
        return str(refusal.value)

    assert "all.safetensors is damaged: its tensors do not match their digest" in refused(network, whole[network][:-1] + b"\x01")
    assert "all.safetensors is damaged" in refused(network, b"no tensors")
    assert "rounds.json is damaged" in refused(rounds, whole[rounds][:-5])
    assert "of another experiment" in refused(rounds, whole[rounds].replace(b'"fingerprint":"', b'"fingerprint":"0'))
    assert "network all is not at round 1" in refused(
        rounds, b'{"run":"tiny","fingerprint":"%s"}' % prepared.record.fingerprint.encode()
    )
    train_baseline(prepared, output, ignore)


def test_a_network_that_diverges_is_named(tmp_path: Path) -> None:
    wild = experiment_of(tmp_path, "centralized", "training.server.lr=1e30", "training.server.name=sgd")
    with pytest.raises(LearningError, match=r"network all diverges in round 1, batch \d: .*lower training\.server\.lr, now 1e\+30"):
        train_baseline(prepare(wild), tmp_path / "output", ignore)

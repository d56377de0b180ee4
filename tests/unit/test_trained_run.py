"""A finished run's folder: what it holds is what was trained, and what is wrong with it is said."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cli.embedded import train_embedded
from cli.prepare import prepare
from coordinator.experiment import load_experiment
from learning.data import evaluation_batches, load_dataset
from learning.errors import LearningError
from monitoring.display import Display
from workers.features import from_wire, to_wire
from workers.trained_run import RunFolderError, TrainedRun

SMALL = (
    "model.width=4", "data.image_size=8", "data.train_limit=200", "clients.count=3", "training.rounds=1",
    "training.device=cpu", "training.precision=float32", "transport.wire_dtype=float32",
)  # fmt: skip


def train(folder: Path, *overrides: str) -> Path:
    prepared = prepare(load_experiment(None, [*SMALL, *overrides], {}))
    with Display() as display:
        train_embedded(prepared, folder, 2, display)
    return folder


@pytest.fixture(scope="module")
def averaging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("averaging"))


@pytest.mark.parametrize("override", [None, "training.strategy=distributed", "transport.wire_dtype=uint8", "training.average=all"])
def test_its_halves_have_the_accuracy_of_the_run(override: str | None, tmp_path: Path, averaging: Path) -> None:
    folder = averaging if override is None else train(tmp_path, override)
    run = TrainedRun.open(folder)
    dataset = load_dataset(run.settings.data, 0)
    assert dataset.test is not None
    images = dataset.test.images(torch.arange(len(dataset.test)))
    expected = json.loads((folder / "summary.json").read_text())["accuracy_by_client"]
    assert run.cuts() == {3: ["client-01"], 4: ["client-02"], 5: ["client-03"]}
    batches = list(evaluation_batches(dataset, run.settings.data, 0, 100, whole=True))
    for client, member in run.clients.items():
        half, server = run.client_half(client), run.server_half(client)
        correct = {"client": 0, "server": 0}
        for samples, labels in batches:
            logits, features = half.evaluate(samples)
            correct["client"] += int((logits.argmax(1) == labels).sum())
            sent = from_wire(to_wire(features, run.settings.wire_dtype)[0])
            correct["server"] += int((server.predict(sent, member.cut).argmax(1) == labels).sum())
        assert {where: count / len(dataset.test) for where, count in correct.items()} == expected[client]
    assert torch.equal(run.normalise(images), dataset.normalise(images))


def test_what_is_wrong_is_said_in_a_line(averaging: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no finished run: there is no experiment\.json"):
        TrainedRun.open(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(averaging, copy)
    with pytest.raises(RunFolderError, match="no layers of client 'client-99'; it has those of client-01, client-02, client-03"):
        TrainedRun.open(copy).client_half("client-99")
    (copy / "layers" / "server-layer7.safetensors").write_bytes(b"no tensors")
    with pytest.raises(LearningError, match=r"server-layer7\.safetensors: not safetensors"):
        TrainedRun.open(copy).server_half("client-01")
    (copy / "layers" / "server-layer7.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"server-layer7\.safetensors cannot be read: No such file"):
        TrainedRun.open(copy).server_half("client-01")
    (copy / "layers" / "client-client-01.safetensors").unlink()
    assert list(TrainedRun.open(copy).clients) == ["client-02", "client-03"]
    (copy / "run.json").write_text('{"sample_shape": [1, 8, 8], "classes": "ten", "clients": {}}')
    with pytest.raises(RunFolderError, match=r"run\.json is damaged: classes"):
        TrainedRun.open(copy)

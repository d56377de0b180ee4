"""A run's final parameters against the method written as plain loops."""

from pathlib import Path

import pytest
import torch

from coordinator.experiment import Experiment
from tests.end_to_end.harness import final_layers, summary, tiny, train
from tests.end_to_end.reference import train_reference

TOLERANCE = 1e-6  # of values around 0.1 to 1

CASES = {
    "averaging, uniform": ("training.weighting=uniform",),
    "averaging, by samples": ("training.weighting=samples", "training.local_epochs=2"),
    "sequential, optimizers start anew": ("training.strategy=sequential", "training.optimizer_state=reset"),
    "three streams, uniform": ("training.streams=3",),
    "three streams, by samples": ("training.streams=3", "training.weighting=samples"),
}
COMMON = (
    "training.rounds=3",
    "training.client.schedule=cosine",
    "training.server.schedule=step",
    "training.server.step_rounds=1",
    "training.server.step_factor=0.5",
)


@pytest.fixture(scope="module", params=CASES)
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return tiny(tmp_path_factory.mktemp("reference"), *COMMON, *CASES[request.param])


def test_a_run_computes_what_plain_loops_compute(experiment: Experiment, tmp_path: Path) -> None:
    train(experiment, tmp_path)
    assert summary(tmp_path)["samples_trained"] > 0
    trained, expected = final_layers(tmp_path), train_reference(experiment)
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

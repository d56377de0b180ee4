"""A run's final parameters against the method written as plain loops."""

from pathlib import Path

import pytest

from coordinator.experiment import Experiment
from tests.end_to_end.harness import final_layers, summary, tiny, train
from tests.end_to_end.reference import assert_equal, train_reference

CASES = {
    "averaging, uniform": ("training.weighting=uniform",),
    "averaging, by samples": ("training.weighting=samples", "training.local_epochs=2"),
    "sequential, optimizers start anew": ("training.strategy=sequential", "training.optimizer_state=reset"),
    "three streams, uniform": ("training.streams=3",),
    "sequential, interleaved": ("training.strategy=sequential", "training.interleave=true"),
    "two streams, interleaved": ("training.streams=2", "training.interleave=true", "data.partition=dirichlet"),
    "three streams, by samples": ("training.streams=3", "training.weighting=samples"),
    "clients' halves too": ("training.average=all",),
    "clients' halves too, sequential, by samples": (
        "training.average=all",
        "training.strategy=sequential",
        "training.weighting=samples",
    ),
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
    assert_equal(final_layers(tmp_path), train_reference(experiment))

"""Runs in which roles, servers and connections fail at random end as if nothing had happened. ``make chaos`` runs more of them."""

from collections.abc import Iterator

import pytest

from tests.chaos.plan import make_plan
from tests.chaos.run import PATIENCE, Servers, run_seed, started_servers
from tests.end_to_end.conftest import undisturbed as undisturbed
from tests.end_to_end.undisturbed import Undisturbed
from tests.services import installed

SEEDS = (0, 3, 100, 103)  # one of each strategy, and all kinds of faults


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with installed(started_servers(tmp_path_factory.mktemp("servers"))) as servers:
        yield servers


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_under_faults(
    seed: int, servers: Servers, undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(f"seed-{seed}")
    result = run_seed(make_plan(seed), servers, undisturbed, folder)
    assert not result.differs, f"{result}\nlogs are in {folder}"

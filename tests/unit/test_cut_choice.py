"""The choice of a cut: the deepest within every bound, and what is said when there is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.cut_choice import Budget, CutProfile, recommend, shortfall


def row(cut: int, step_ms: float = 10, memory_mb: float = 10, mbps: float = 10) -> CutProfile:
    return CutProfile(
        cut=cut,
        layer=f"layer{cut}",
        feature_shape=(1,),
        step_ms=step_ms,
        step_ms_fastest=step_ms,
        step_ms_slowest=step_ms,
        inference_ms=1,
        memory_bytes=int(memory_mb * 1e6),
        parameter_bytes=0,
        optimizer_bytes=0,
        sample_bytes=125_000,  # a million bits: samples a second are Mbit/s
        samples_per_second=mbps,
    )


# as networks are: time and memory grow with depth, what is sent shrinks
ROWS = [row(1, 10, 100, 80), row(2, 20, 150, 40), row(3, 30, 180, 30), row(4, 40, 190, 8)]


def chosen(budget: Budget, rows: list[CutProfile] = ROWS) -> int | None:
    found = recommend(rows, budget)
    return found.cut if found else None


def test_upload_is_samples_a_second_times_bits_a_sample() -> None:
    assert row(1, mbps=8).upload_mbps == 8


@pytest.mark.parametrize(
    ("budget", "cut"),
    [
        (Budget(max_step_ms=25), 2),
        (Budget(max_memory_mb=185), 3),
        (Budget(max_mbps=50), 4),
        (Budget(max_step_ms=35, max_memory_mb=160), 2),  # memory binds
        (Budget(max_step_ms=15, max_memory_mb=160), 1),  # time binds
        (Budget(max_step_ms=35, max_mbps=50), 3),
        (Budget(max_step_ms=35, max_memory_mb=185, max_mbps=30), 3),
        (Budget(max_step_ms=1000, max_memory_mb=1000, max_mbps=1000), 4),
    ],
)
def test_the_deepest_cut_within_all_bounds_is_recommended(budget: Budget, cut: int) -> None:
    assert chosen(budget) == cut
    assert chosen(budget, ROWS[::-1]) == cut


def test_what_just_reaches_a_bound_is_within() -> None:
    assert chosen(Budget(max_step_ms=30, max_memory_mb=180, max_mbps=30)) == 3


def test_a_deeper_cut_may_fit_where_a_shallower_does_not() -> None:
    assert chosen(Budget(max_step_ms=25), [row(1, 30), row(2, 20), row(3, 30)]) == 2


def test_without_a_budget_nothing_is_recommended() -> None:
    assert chosen(Budget()) is None


def test_a_bound_that_no_cut_satisfies_is_named_with_what_the_nearest_needs() -> None:
    budget = Budget(max_step_ms=35, max_mbps=5)
    assert chosen(budget) is None
    assert shortfall(ROWS, budget) == "no cut satisfies --max-mbps 5; cut 4 comes nearest and needs 8 Mbit/s"
    assert shortfall(ROWS, Budget(max_step_ms=5)) == "no cut satisfies --max-step-ms 5; cut 1 comes nearest and needs 10 ms a step"
    assert (
        shortfall(ROWS, Budget(max_memory_mb=9.5)) == "no cut satisfies --max-memory-mb 9.5; cut 1 comes nearest and needs 100 MB"
    )


def test_each_of_several_bounds_that_no_cut_satisfies_is_named() -> None:
    assert shortfall(ROWS, Budget(max_step_ms=5, max_memory_mb=1000, max_mbps=5)) == (
        "no cut satisfies --max-step-ms 5; cut 1 comes nearest and needs 10 ms a step; "
        "no cut satisfies --max-mbps 5; cut 4 comes nearest and needs 8 Mbit/s"
    )


def test_bounds_that_only_together_cannot_be_satisfied() -> None:
    budget = Budget(max_step_ms=25, max_mbps=25)  # over by: 3.2, 1.6, 1.2, 1.6
    assert chosen(budget) is None
    assert shortfall(ROWS, budget) == (
        "no cut satisfies --max-step-ms 25 and --max-mbps 25 together; cut 3 comes nearest and needs 30 ms a step and 30 Mbit/s"
    )


def test_of_cuts_that_are_equally_near_the_deepest_is_named() -> None:
    assert "cut 3 comes nearest" in shortfall([row(1, 30), row(3, 20), row(2, 20)], Budget(max_step_ms=10))


def test_what_is_needed_is_rounded_up() -> None:
    assert shortfall([row(1, 10.01)], Budget(max_step_ms=10)).endswith("needs 10.1 ms a step")


figures = st.floats(0.1, 1000)
limits = st.none() | figures


@given(st.lists(st.tuples(figures, figures, figures), min_size=1, max_size=8), limits, limits, limits)
def test_a_recommended_cut_fits_and_no_deeper_one_does(
    found: list[tuple[float, float, float]], step: float | None, memory: float | None, mbps: float | None
) -> None:
    rows = [row(cut, *figures) for cut, figures in enumerate(found, 1)]
    budget = Budget(max_step_ms=step, max_memory_mb=memory, max_mbps=mbps)
    bounds = budget.bounds()
    best = recommend(rows, budget)
    fitting = [one for one in rows if all(bound.holds(one) for bound in bounds)]
    if best:
        assert best in fitting
        assert best.cut == max(one.cut for one in fitting)
    else:
        assert not bounds or not fitting
        if bounds:
            assert "comes nearest and needs" in shortfall(rows, budget)

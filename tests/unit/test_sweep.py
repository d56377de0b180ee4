"""The figures of a sweep: by hand, and what holds of any records."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.errors import TensorError
from learning.records import Records
from learning.sweep import ALL, BOUNDS, Costs, Point, sweep

COSTS = {3: Costs(2048, 0.001, 0.004), 4: Costs(1024, 0.002, 0.003)}


def records(cuts: list[int], entropy: list[list[float]], client: list[list[int]], server: list[list[int]]) -> Records:
    """Records of samples whose label is always 1."""
    samples = len(entropy[0])
    labels = torch.ones(samples, dtype=torch.int64)
    return Records(
        tuple(cuts), torch.arange(samples), labels, torch.tensor(client), torch.tensor(server), torch.tensor(entropy).float()
    )


def at(points: list[Point], bound: float) -> Point:
    return next(point for point in points if point.max_entropy == bound)


@st.composite
def any_records(draw: st.DrawFn) -> Records:
    cuts = draw(st.lists(st.sampled_from([3, 4]), min_size=1, max_size=4))
    samples = draw(st.integers(1, 8))

    def rows(of: st.SearchStrategy[object]) -> list[list[object]]:
        return draw(st.lists(st.lists(of, min_size=samples, max_size=samples), min_size=len(cuts), max_size=len(cuts)))

    entropies = st.sampled_from([0.0, 0.05, 0.3, 2.0, 4.0, 5.0, math.nan]) | st.floats(0, 3, width=32)
    return records(cuts, rows(entropies), rows(st.integers(0, 1)), rows(st.integers(0, 1)))  # type: ignore[arg-type]


def test_the_bounds_are_the_papers_and_both_ends() -> None:
    assert {0.0, 4.0, math.inf, *(step / 10 for step in range(41))} <= set(BOUNDS)
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_figures_by_hand() -> None:
    found = sweep(
        records(
            [4, 3, 4],
            [[0.1, 0.5, 1.0, 2.0], [0.0, 0.0, 0.0, 3.0], [0.3, 0.3, 0.3, 0.3]],
            [[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]],
            [[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]],
        ),
        COSTS,
    )
    assert list(found) == ["3", "4", ALL]
    # 0.5 is not below 0.5: client 1 answers the first sample alone, client 3 all
    four = at(found["4"], 0.5)
    assert (four.accuracy, four.adoption) == (5 / 8, 5 / 8)
    assert four.bytes_per_sample == 3 / 8 * 1024
    assert four.seconds_per_sample == pytest.approx(0.002 + 3 / 8 * 0.003)
    three = at(found["3"], 0.5)
    assert (three.accuracy, three.adoption, three.bytes_per_sample) == (3 / 4, 3 / 4, 512.0)
    both = at(found[ALL], 0.5)
    assert (both.accuracy, both.adoption) == (8 / 12, 8 / 12)
    assert both.bytes_per_sample == pytest.approx((3 * 1024 + 2048) / 12)
    assert both.seconds_per_sample == pytest.approx((0.001 + 0.004 / 4 + 0.002 + 0.003 * 3 / 4 + 0.002) / 3)
    assert [point.max_entropy for point in found["3"] if point.pareto] == [0.0, 0.0001, 3.05]


@given(any_records())
@settings(max_examples=30, deadline=None)
def test_ends_are_all_offload_and_all_local_and_adoption_grows(any_one: Records) -> None:
    found = sweep(any_one, COSTS)
    groups = {str(cut): own for cut, own in any_one.by_cut().items()} | {ALL: any_one}
    assert found.keys() == groups.keys()
    for name, points in found.items():
        assert [point.max_entropy for point in points] == list(BOUNDS)
        answers = groups[name].entropy.numel()
        assert (points[0].accuracy, points[0].adoption) == (int(groups[name].server_correct().sum()) / answers, 0.0)
        last = points[-1]
        assert (last.accuracy, last.adoption, last.bytes_per_sample) == (
            int(groups[name].client_correct().sum()) / answers,
            1.0,
            0.0,
        )
        assert [point.adoption for point in points] == sorted(point.adoption for point in points)
        assert [point.bytes_per_sample for point in points] == sorted((point.bytes_per_sample for point in points), reverse=True)
        for point in points:
            figures = (point.accuracy, point.adoption, point.bytes_per_sample, point.seconds_per_sample)
            assert all(math.isfinite(figure) for figure in figures)


@given(any_records())
@settings(max_examples=30, deadline=None)
def test_pareto_points_are_those_that_nothing_beats(any_one: Records) -> None:
    for points in sweep(any_one, COSTS).values():
        figures = [(point.accuracy, -point.bytes_per_sample) for point in points]
        for place, (point, own) in enumerate(zip(points, figures, strict=True)):
            beaten = any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in figures)
            assert point.pareto == (not beaten and own not in figures[:place])


def test_records_survive_their_tensors_and_what_is_no_record_is_refused() -> None:
    kept = records([3, 4], [[0.1, math.nan], [0.0, 2.0]], [[1, 0], [2, 1]], [[1, 1], [0, 1]])
    again = Records.from_state(kept.state(), kept.cuts, classes=3)
    assert all(torch.equal(again.state()[name], tensor) for name, tensor in kept.state().items() if name != "entropy")
    assert again.by_cut()[4].entropy.tolist() == [[0.0, 2.0]]
    assert again.take(torch.tensor([1])).client_predicted.tolist() == [[0], [1]]

    def refusal(classes: int = 3, **changes: torch.Tensor) -> str:
        with pytest.raises(TensorError) as refused:
            Records.from_state({**kept.state(), **changes}, kept.cuts, classes)
        return str(refused.value)

    assert refusal(classes=2) == "client_predicted are 0 to 2, there are 2 classes"
    assert "records have the tensors samples" in refusal(extra=torch.zeros(1))
    assert "expected torch.int64 (2, 2)" in refusal(server_predicted=torch.zeros(2, 2))
    assert "expected torch.float32 (2, 2)" in refusal(entropy=torch.zeros(2, 3))
    assert refusal(entropy=torch.full((2, 2), -1.0)) == "an entropy is negative"
    assert refusal(samples=torch.tensor([1, 1])) == "samples are not ascending indices"
    assert refusal(samples=torch.tensor(3)).startswith("samples is torch.int64 ()")
    empty = {name: tensor[..., :0] for name, tensor in kept.state().items()}
    assert refusal(**empty) == "records of no sample, or of no client"

"""Tests of a mean by betting: the arithmetic against a loop, and how often it is wrong and right on drawn values."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from learning.betting import mean_is_below

TESTS = 4000


def one_by_one(values: list[float], limit: float, confidence: float) -> bool:
    """The gambler of the docstring, value by value."""
    goal = math.log(1 / (1 - confidence))
    wealth, richest = 1.0, 1.0
    total, squares = limit, 0.25
    for seen, value in enumerate(values, start=1):
        stake = min(math.sqrt(2 * goal / (len(values) * (squares / seen))), 0.75 / (1 - limit))
        wealth *= 1 + stake * (limit - value)
        assert wealth > 0
        richest = max(richest, wealth)
        total += value
        squares += (value - total / (seen + 1)) ** 2
    return math.log(richest) >= goal


@given(
    rows=st.integers(1, 60).flatmap(
        lambda samples: st.lists(st.lists(st.floats(-1, 1, width=32), min_size=samples, max_size=samples), min_size=1, max_size=3)
    ),
    limit=st.sampled_from([0.01, 0.3, 0.9]),
    confidence=st.sampled_from([0.5, 0.95]),
)
def test_each_row_is_bet_on_value_by_value(rows: list[list[float]], limit: float, confidence: float) -> None:
    expected = [one_by_one(row, limit, confidence) for row in rows]
    assert mean_is_below(torch.tensor(rows), limit, confidence).tolist() == expected


def test_without_a_single_loss_it_takes_as_many_samples_as_worked_out() -> None:
    # A stake s below its cap grows as sqrt(24 t / n) here, above it each sample multiplies by 1 + 0.75 * 0.1 / 0.9 = 13/12.
    enough = next(n for n in range(1, 200) if bool(mean_is_below(torch.zeros(1, n), 0.1, 0.95)))
    assert one_by_one([0.0] * enough, 0.1, 0.95)
    assert not one_by_one([0.0] * (enough - 1), 0.1, 0.95)
    assert (
        math.log(20) / math.log(1 / 0.9) < enough < 1.5 * math.log(20) / math.log(13 / 12)
    )  # no valid test needs fewer than the left


def bernoulli(mean: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda uniform: (uniform < mean).double()


def both_ways(mean: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """+1 and -1, mostly 0: what an accuracy loss looks like."""
    return lambda uniform: (uniform < 0.05 + mean).double() - (uniform > 0.95).double()


DRAWN = {
    "rare": (bernoulli(0.02), 0.02, 30),  # mostly no loss at all: a normal approximation takes that for certainty
    "half": (bernoulli(0.5), 0.5, 100),
    "nearly always": (bernoulli(0.97), 0.97, 200),
    "loss": (both_ways(0.03), 0.03, 400),
    "uniform": (lambda uniform: uniform, 0.5, 100),
}


@pytest.mark.parametrize("what", DRAWN)
def test_a_mean_at_the_limit_is_rarely_taken_for_one_below(what: str) -> None:
    draw, limit, samples = DRAWN[what]
    values = draw(torch.rand(TESTS, samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    wrong = int(mean_is_below(values, limit, 0.9).sum())
    assert wrong <= binom.ppf(0.999, TESTS, 0.1)


def test_a_test_by_normal_approximation_is_wrong_far_more_often() -> None:
    draw, limit, samples = DRAWN["rare"]
    values = draw(torch.rand(TESTS, samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    below = values.mean(dim=1) + 1.2816 * values.std(dim=1) / math.sqrt(samples) < limit
    assert int(below.sum()) > 2 * binom.ppf(0.999, TESTS, 0.1)


@pytest.mark.parametrize("what", ["half", "loss"])
def test_a_mean_below_the_limit_is_found_with_little_more_than_a_normal_test_needs(what: str) -> None:
    draw = DRAWN[what][0]
    samples = 2000
    values = draw(torch.rand(1000, samples, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    above = float(values.mean()) + (1.645 + 1.645) * float(values.std()) / math.sqrt(samples)  # there a normal test finds 95 %
    assert mean_is_below(values, above, 0.95).double().mean() > 0.7

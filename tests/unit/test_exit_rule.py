"""Which samples a client answers itself, on cases worked out by hand and on any logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning.errors import SettingsError
from learning.exit_rule import answers_itself, entropy

INF, NAN = math.inf, math.nan

# p, and its entropy in nats worked out by hand
BY_HAND = [
    ([0.5, 0.5], math.log(2)),
    ([0.25, 0.25, 0.25, 0.25], math.log(4)),
    ([0.5, 0.25, 0.25], 1.5 * math.log(2)),
    ([0.9, 0.1], -0.9 * math.log(0.9) - 0.1 * math.log(0.1)),
    ([1.0, 0.0, 0.0], 0.0),
    ([0.5, 0.5, 0.0], math.log(2)),
]

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
rows = st.integers(2, 12).flatmap(
    lambda classes: st.lists(st.lists(finite, min_size=classes, max_size=classes), min_size=1, max_size=8)
)
bounds = st.floats(0, 4) | st.just(INF)


@pytest.mark.parametrize(("probabilities", "expected"), BY_HAND)
def test_entropy_by_hand(probabilities: list[float], expected: float) -> None:
    logits = torch.tensor([probabilities]).log()  # a probability of 0 is a logit of minus infinity
    assert entropy(logits).item() == pytest.approx(expected, abs=1e-6)
    assert entropy(logits + 3).item() == pytest.approx(expected, abs=1e-6)


def test_probabilities_that_vanish_in_float32_are_no_nan() -> None:
    assert entropy(torch.tensor([[0.0, -1e4, -3e38], [3e38, -3e38, 0.0]])).tolist() == [0.0, 0.0]


def test_bfloat16_logits_are_taken_in_float32() -> None:
    logits = torch.tensor([[1.0, 0.5, -2.0]], dtype=torch.bfloat16)  # exact in both
    assert torch.equal(entropy(logits), entropy(logits.float()))


def test_the_decision_is_each_samples_own() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.99, 0.01]]).log()  # 0.325, 0.693 and 0.056 nats
    assert answers_itself(logits, 0.05).tolist() == [False, False, False]
    assert answers_itself(logits, 0.3).tolist() == [False, False, True]
    assert answers_itself(logits, 0.4).tolist() == [True, False, True]
    assert answers_itself(logits, 0.7).tolist() == [True, True, True]


def test_a_sample_at_the_bound_is_offloaded() -> None:
    logits = torch.tensor([[0.3, -1.2, 0.8]])
    assert not answers_itself(logits, entropy(logits).item())


@given(rows)
def test_the_ends(values: list[list[float]]) -> None:
    logits = torch.tensor(values)
    assert not answers_itself(logits, 0).any()
    assert answers_itself(logits, INF).all()


@given(rows, bounds, bounds)
def test_a_higher_bound_answers_no_sample_less(values: list[list[float]], one: float, other: float) -> None:
    logits = torch.tensor(values)
    low, high = sorted((one, other))
    assert (answers_itself(logits, low) <= answers_itself(logits, high)).all()


@given(rows)
def test_entropy_lies_between_0_and_that_of_equal_classes(values: list[list[float]]) -> None:
    found = entropy(torch.tensor(values))
    assert ((found >= 0) & (found <= math.log(len(values[0])) + 1e-5)).all()


@given(rows)
def test_what_else_is_in_the_batch_does_not_matter(values: list[list[float]]) -> None:
    logits = torch.tensor(values)
    alone = torch.cat([entropy(row[None]) for row in logits])
    assert torch.allclose(entropy(logits), alone, atol=1e-6)


def test_logits_that_are_no_numbers_are_offloaded_while_anything_is() -> None:
    logits = torch.tensor([[NAN, 0.0], [9.0, 0.0]])
    assert answers_itself(logits, 4.0).tolist() == [False, True]
    assert answers_itself(logits, INF).tolist() == [True, True]


@pytest.mark.parametrize("bound", [-0.1, -INF, NAN])
def test_what_is_no_bound_is_refused(bound: float) -> None:
    with pytest.raises(SettingsError, match="max_entropy"):
        answers_itself(torch.zeros(1, 2), bound)

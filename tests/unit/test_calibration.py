"""The promise of calibration, kept on populations whose true figures are known; and that it is not kept by asking for little."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import binom

from learning.calibration import Choice, Target, choose
from learning.errors import SettingsError
from learning.records import Records
from learning.sweep import BOUNDS

POPULATION = 20_000
DRAWS, SAMPLES = 200, 400
CONFIDENCE = 0.9
ALLOWED = binom.ppf(0.999, DRAWS, 1 - CONFIDENCE)  # violations of a promise that is kept


def population() -> Records:
    """Three clients that find the same images hard, and often err on the same ones; servers that err less, on hard ones."""
    random = torch.Generator().manual_seed(5)
    hard = torch.rand(POPULATION, generator=random) ** 2
    shared, together = torch.rand(POPULATION, generator=random), torch.rand(3, POPULATION, generator=random) < 0.6
    luck = torch.where(together, shared, torch.rand(3, POPULATION, generator=random))
    noise = 0.2 * torch.rand(3, POPULATION, generator=random)
    wrong_at_client = luck < 0.8 * hard
    wrong_at_server = torch.rand(3, POPULATION, generator=random) < 0.02 + 0.3 * hard
    labels = torch.zeros(POPULATION, dtype=torch.int64)
    return Records(
        (3, 3, 3),
        torch.arange(POPULATION),
        labels,
        wrong_at_client.long(),
        wrong_at_server.long(),
        2.3 * (0.8 * hard + noise),
    )


ALL = population()
LOSS = torch.stack([(ALL.server_correct().double() - ALL.correct(ALL.answered(bound)).double()).mean(dim=0) for bound in BOUNDS])
OFFLOAD = torch.stack([1 - ALL.answered(bound).double().mean(dim=0) for bound in BOUNDS])
VALUES = {"max_accuracy_loss": LOSS, "max_offload": OFFLOAD}
TRUE = {target: values.mean(dim=1) for target, values in VALUES.items()}


def draw(seed: int, samples: int = SAMPLES) -> torch.Tensor:
    """Samples drawn independently, so that the population's means are their expectations."""
    return torch.randint(POPULATION, (samples,), generator=torch.Generator().manual_seed(seed))


def just_broken(target: Target, about: float) -> float:
    """Return a value that a bound of the grid breaks by next to nothing: the hardest case of all."""
    return float(TRUE[target][(TRUE[target] - about).abs().argmin()]) - 1e-6


def breaks(target: Target, chosen: float, value: float) -> bool:
    return float(TRUE[target][BOUNDS.index(chosen)]) > value


def plug_in(target: Target, drawn: torch.Tensor, value: float) -> float:
    """Choose in the same order by the mean of the samples alone, without any confidence."""
    means = VALUES[target][:, drawn].mean(dim=1)
    order = range(len(BOUNDS)) if target == "max_accuracy_loss" else range(len(BOUNDS) - 1, -1, -1)
    chosen = next(iter(order))
    for place in order:
        if means[place] > value:
            break
        chosen = place
    return BOUNDS[chosen]


@pytest.mark.parametrize(("target", "about"), [("max_accuracy_loss", 0.02), ("max_offload", 0.3)])
def test_the_promise_is_kept_on_fresh_samples_and_by_the_mean_alone_it_is_not(target: Target, about: float) -> None:
    value = just_broken(target, about)
    broken = naive = 0
    for seed in range(DRAWS):
        drawn = draw(seed)
        broken += breaks(target, choose(ALL.take(drawn), target, value, CONFIDENCE, seed).max_entropy, value)
        naive += breaks(target, plug_in(target, drawn, value), value)
    assert broken <= ALLOWED
    assert naive > 2 * ALLOWED


@pytest.mark.parametrize(("target", "value"), [("max_accuracy_loss", 0.02), ("max_accuracy_loss", 0.1), ("max_offload", 0.3)])
def test_with_many_samples_it_comes_close_to_the_best_bound_there_is(target: Target, value: float) -> None:
    places = [place for place in range(len(BOUNDS)) if TRUE[target][place] <= value]
    best = max(places) if target == "max_accuracy_loss" else min(places)
    chosen = choose(ALL.take(draw(0, 40_000)), target, value, 0.95, 0)
    assert chosen.promised
    assert abs(BOUNDS.index(chosen.max_entropy) - best) <= 1
    assert not breaks(target, chosen.max_entropy, value)


def test_its_figures_are_those_of_the_samples_that_chose() -> None:
    drawn = ALL.take(draw(1))
    chosen = choose(drawn, "max_accuracy_loss", 0.1, 0.95, 0)
    right = torch.where(drawn.entropy < chosen.max_entropy, drawn.client_correct(), drawn.server_correct()).double().mean()
    assert 0 < chosen.max_entropy < math.inf
    assert chosen.accuracy == pytest.approx(float(right))
    assert chosen.accuracy_loss == pytest.approx(float(drawn.server_correct().double().mean() - right))
    assert chosen.offload == pytest.approx(float((drawn.entropy >= chosen.max_entropy).double().mean()))
    assert choose(drawn, "max_accuracy_loss", 0.1, 0.95, 0) == chosen


def test_too_few_samples_promise_the_safe_end_alone() -> None:
    few = ALL.take(draw(2, 20))
    offload_all = choose(few, "max_accuracy_loss", 0.01, 0.95, 0)
    assert (offload_all.max_entropy, offload_all.promised, offload_all.accuracy_loss, offload_all.offload) == (0.0, False, 0.0, 1.0)
    offload_none = choose(few, "max_offload", 0.01, 0.95, 0)
    assert (offload_none.max_entropy, offload_none.promised, offload_none.offload) == (math.inf, False, 0.0)


def test_a_higher_confidence_or_a_smaller_value_never_chooses_a_bolder_bound() -> None:
    drawn = ALL.take(draw(3))

    def bounds(of: list[Choice]) -> list[float]:
        return [one.max_entropy for one in of]

    for value in (0.02, 0.1):
        by_confidence = bounds([choose(drawn, "max_accuracy_loss", value, confidence, 0) for confidence in (0.999, 0.95, 0.5)])
        assert by_confidence == sorted(by_confidence)
    by_value = bounds([choose(drawn, "max_accuracy_loss", value, 0.95, 0) for value in (0.01, 0.05, 0.1, 0.5)])
    assert by_value == sorted(by_value)
    assert by_value[0] < by_value[-1] == math.inf
    by_share = bounds([choose(drawn, "max_offload", value, 0.95, 0) for value in (0.9, 0.5, 0.2)])
    assert by_share == sorted(by_share)


def test_a_trial_that_fails_ends_the_sequence_even_if_later_ones_would_succeed() -> None:
    # Answers below 0.5 nats are all wrong, those above right where the servers err: the loss rises to 1/2, then falls to 0.
    half = torch.arange(1000) % 2 == 0
    entropy = torch.where(half, 0.4, 1.0)
    kept = Records(
        (3,), torch.arange(1000), torch.zeros(1000, dtype=torch.int64), half.long()[None], (~half).long()[None], entropy[None]
    )
    assert (kept.client_correct().double().mean(), kept.server_correct().double().mean()) == (0.5, 0.5)
    assert choose(kept, "max_accuracy_loss", 0.2, 0.95, 0).max_entropy == 0.4


def test_clients_of_one_cut_count_as_one_value_a_sample() -> None:
    """A hundred clients that all say the same are no more evidence than one."""
    one = dataclasses.replace(ALL.take(draw(4)))
    row = {name: getattr(one, name)[:1] for name in ("client_predicted", "server_predicted", "entropy")}
    alone = dataclasses.replace(one, cuts=(3,), **row)
    crowd = dataclasses.replace(one, cuts=(3,) * 100, **{name: rows.expand(100, -1) for name, rows in row.items()})
    assert choose(crowd, "max_accuracy_loss", 0.1, 0.95, 0) == choose(alone, "max_accuracy_loss", 0.1, 0.95, 0)


@pytest.mark.parametrize(("value", "confidence"), [(0.0, 0.9), (1.0, 0.9), (math.nan, 0.9), (0.1, 0.0), (0.1, 1.0)])
def test_what_cannot_be_promised_is_refused(value: float, confidence: float) -> None:
    with pytest.raises(SettingsError, match="must be above 0 and below 1"):
        choose(ALL, "max_offload", value, confidence, 0)

"""Tests of a mean that hold for any number of samples and any bounded distribution, by betting against it."""

import math

import torch

_MOST_OF_WEALTH = 0.75  # that one sample can lose
_FIRST_VARIANCE = 0.25  # the guess before any sample, as if it were one


def mean_is_below(values: torch.Tensor, limit: float, confidence: float) -> torch.Tensor:
    """Return of each row of values (tests, samples) whether its distribution's mean can be taken to be below limit; bool (tests,).

    Values are at most 1; limit is below 1. Samples of a row must be independent draws of one distribution; rows may depend
    on each other in any way. A row whose mean is limit or more is taken for one below with a probability of at most
    1 - confidence, whatever the number of samples.

    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (arXiv 2010.09686), one-sided and for a
    known number of samples: a gambler who begins with 1 stakes the fraction s_t on the next value being below the limit, and
    then has K_t = prod (1 + s_i (limit - x_i)). The stake follows from the values before alone, and leaves K positive, so that
    for a mean of limit or more K is a nonnegative supermartingale: that it ever reaches 1 / (1 - confidence) has a probability of
    at most 1 - confidence (Ville). s_t = sqrt(2 ln(1 / (1 - confidence)) / (n v)) with the variance v of the values before is
    the best one for a mean that n samples can just tell from limit (their predictable plug-in); it is what makes the test sharp
    where values vary little, as here.
    """
    values = values.double()
    samples = values.shape[-1]
    goal = -math.log1p(-confidence)
    stakes = (2 * goal / (samples * _variance_before(values, limit))).sqrt().clamp(max=_MOST_OF_WEALTH / (1 - limit))
    wealth = torch.log1p(stakes * (limit - values)).cumsum(dim=-1)
    return wealth.amax(dim=-1) >= goal


def _variance_before(values: torch.Tensor, limit: float) -> torch.Tensor:
    """Return for each value the variance of those before it, as (tests, samples): the first guess counts as one of them."""
    seen = torch.arange(2, values.shape[-1] + 2, dtype=values.dtype)
    mean = (limit + values.cumsum(dim=-1)) / seen
    variance = (_FIRST_VARIANCE + (values - mean).square().cumsum(dim=-1)) / seen
    return torch.cat([torch.full_like(variance[..., :1], _FIRST_VARIANCE), variance[..., :-1]], dim=-1)

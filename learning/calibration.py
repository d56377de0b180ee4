"""The entropy bound that recorded answers allow to promise: fixed-sequence testing over a grid fixed in advance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from learning.betting import mean_is_below
from learning.errors import SettingsError
from learning.records import Records
from learning.seeds import generator
from learning.sweep import BOUNDS

Target = Literal["max_accuracy_loss", "max_offload"]


@dataclass(frozen=True)
class Choice:
    """A bound, and its figures on the samples that it was chosen on: of these nothing is promised.

    accuracy_loss: against the servers answering everything; negative where clients and servers together are better.
    promised: whether samples decided it; else it is the end of the grid that keeps the promise by itself.
    """

    max_entropy: float
    accuracy: float
    accuracy_loss: float
    offload: float
    promised: bool


def choose(records: Records, target: Target, value: float, confidence: float, seed: int) -> Choice:
    """Return the bound of BOUNDS for these clients that uses the servers least, or loses least, and keeps a promise.

    max_accuracy_loss: the highest bound with which the expected accuracy is at most ``value`` below that of offloading
    everything. max_offload: the lowest bound with which the expected share of samples offloaded is at most ``value``. Accuracy
    and share are means over the clients of ``records``, over fresh samples from the distribution that the recorded ones were
    drawn from. The promise is kept with a probability of at least ``confidence`` over the draw of the recorded samples.

    Learn then Test (Angelopoulos et al., arXiv 2110.01052), fixed-sequence testing: from the end of the grid that keeps the
    promise by construction, bounds are tried one by one while "this one breaks it" is rejected at level 1 - confidence. The
    promise is broken only if the first bound that breaks it is rejected too, so trying many costs nothing. A sample's value is
    the mean over the clients, which see the same samples and are not independent; the order in which samples are looked at is
    random under the seed. Raises SettingsError unless value and confidence are above 0 and below 1.
    """
    for what, share in ((target, value), ("confidence", confidence)):
        if not 0 < share < 1:
            raise SettingsError(f"{what} = {share}: it must be above 0 and below 1")
    order = torch.randperm(len(records), generator=generator(seed, "calibration"))
    shuffled = records.take(order)
    bounds = BOUNDS if target == "max_accuracy_loss" else BOUNDS[::-1]
    values = torch.stack(
        [_loss(shuffled, bound) if target == "max_accuracy_loss" else _offload(shuffled, bound) for bound in bounds]
    )
    kept = _leading(mean_is_below(values[1:], value, confidence).tolist())
    return _figures(records, bounds[kept], promised=kept > 0)


def _leading(rejected: Sequence[bool]) -> int:
    """Return how many are rejected before the first that is not."""
    return next((index for index, one in enumerate(rejected) if not one), len(rejected))


def _loss(records: Records, bound: float) -> torch.Tensor:
    """Return by how much less of each sample's answers are right under a bound than if all were the servers'; -1..1, (samples,)."""
    return (records.server_correct().double() - records.correct(records.answered(bound)).double()).mean(dim=0)


def _offload(records: Records, bound: float) -> torch.Tensor:
    """Return the share of clients that offload each sample under a bound; 0..1, (samples,)."""
    return 1 - records.answered(bound).double().mean(dim=0)


def _figures(records: Records, bound: float, *, promised: bool) -> Choice:
    answered = records.answered(bound)
    answers = answered.numel()
    right, servers_right = int(records.correct(answered).sum()), int(records.server_correct().sum())
    return Choice(
        max_entropy=bound,
        accuracy=right / answers,
        accuracy_loss=(servers_right - right) / answers,
        offload=(answers - int(answered.sum())) / answers,
        promised=promised,
    )

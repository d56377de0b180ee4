"""Which samples a client answers itself: those of which its early exit is sure enough."""

import math

import torch

from learning.errors import SettingsError


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return H = -sum p ln p of the softmax of logits (batch, classes), in nats, as float32 (batch,).

    It is 0 where one class has all of the probability and ln(classes) where all have the same. Classes of probability 0
    add nothing, also where their logit is minus infinity. A sample with logits that are no numbers has an entropy that is none.
    """
    logarithms = torch.log_softmax(logits.float(), dim=1)
    terms = logarithms.exp() * logarithms
    return -terms.masked_fill(logarithms == -math.inf, 0.0).sum(dim=1)


def check_max_entropy(max_entropy: float) -> None:
    """Raise SettingsError unless it is a bound: a number of nats, 0 or more, or infinity."""
    if not max_entropy >= 0:
        raise SettingsError(f"max_entropy = {max_entropy}: it is 0 (offload all) or more, in nats, or inf (offload nothing)")


def answers_itself(logits: torch.Tensor, max_entropy: float) -> torch.Tensor:
    """Return for each sample of logits (batch, classes) whether the exit's answer is taken: H < max_entropy; bool (batch,).

    The paper states this rule on the confidence C = -H. A bound of 0 offloads every sample, infinity none; in between, samples
    whose logits are no numbers are offloaded. Raises SettingsError if the bound is negative or no number.
    """
    return is_answered(entropy(logits), max_entropy)


def is_answered(entropies: torch.Tensor, max_entropy: float) -> torch.Tensor:
    """Return the same from entropies of any shape, in nats; bool of that shape."""
    check_max_entropy(max_entropy)
    if max_entropy == math.inf:
        return torch.ones_like(entropies, dtype=torch.bool)
    return entropies < max_entropy

"""Cross-layer averaging: the mean of one layer over the replicas that trained it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from learning.tensors import State


@dataclass(frozen=True)
class Trained:
    """What one client contributed to a replica in a round."""

    cut: int
    samples: int


def layer_weight(layer: int, clients: Iterable[Trained], weighting: Literal["uniform", "samples"]) -> int:
    """Return a replica's weight in the mean of one layer, over its clients in C_l = {i : l_i < l}.

    uniform: how many of them trained it; samples: how many samples went through it. 0: it is not in the mean.
    """
    through = [client.samples for client in clients if client.cut < layer and client.samples > 0]
    return len(through) if weighting == "uniform" else sum(through)


class WeightedMean:
    """The weighted mean of states of one layer, in float64, in the order in which they are added, cast back.

    Floating tensors (weights and BatchNorm's running statistics) are averaged; counters
    (``num_batches_tracked``) take their maximum. Holds the sums alone, however many states are added.
    """

    def __init__(self) -> None:
        self._sums: State = {}
        self._dtypes: Mapping[str, torch.dtype] = {}
        self._total = 0

    def add(self, state: State, weight: int) -> None:
        """Add one state, with the names and shapes of those before it."""
        self._total += weight
        if not self._sums:
            self._dtypes = {name: tensor.dtype for name, tensor in state.items()}
            self._sums = {
                name: tensor.double() * weight if tensor.is_floating_point() else tensor.clone() for name, tensor in state.items()
            }
            return
        for name, tensor in state.items():
            if tensor.is_floating_point():
                self._sums[name].add_(tensor.double(), alpha=weight)
            else:
                self._sums[name] = torch.maximum(self._sums[name], tensor)

    def value(self) -> State:
        """Return the mean of all that was added."""
        return {
            name: (value / self._total).to(self._dtypes[name]) if self._dtypes[name].is_floating_point else value
            for name, value in self._sums.items()
        }


def weighted_mean(states: Iterable[tuple[State, int]]) -> State:
    """Return the ``WeightedMean`` of states and their weights. Holds one state and the sums, however many there are."""
    mean = WeightedMean()
    for state, weight in states:
        mean.add(state, weight)
    return mean.value()

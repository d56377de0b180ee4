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


def weighted_mean(states: Iterable[tuple[State, int]]) -> State:
    """Return the weighted mean of states of one layer, in float64, in the order given, cast back.

    Floating tensors (weights and BatchNorm's running statistics) are averaged; counters
    (``num_batches_tracked``) take their maximum. Holds one state and the sums, however many there are.
    """
    sums: State = {}
    dtypes: Mapping[str, torch.dtype] = {}
    total = 0
    for state, weight in states:
        total += weight
        if not sums:
            dtypes = {name: tensor.dtype for name, tensor in state.items()}
            sums = {
                name: tensor.double() * weight if tensor.is_floating_point() else tensor.clone() for name, tensor in state.items()
            }
            continue
        for name, tensor in state.items():
            if tensor.is_floating_point():
                sums[name].add_(tensor.double(), alpha=weight)
            else:
                sums[name] = torch.maximum(sums[name], tensor)
    return {name: (value / total).to(dtypes[name]) if dtypes[name].is_floating_point else value for name, value in sums.items()}

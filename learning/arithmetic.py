"""How the arithmetic of training is divided between a device and the servers."""

from itertools import accumulate

import torch
from torch.utils.flop_counter import FlopCounterMode

from learning.layers import Network
from learning.seeds import seeded

_BATCH = 2  # samples; some layers take no single one


def device_shares(network: Network, seed: int) -> list[float] | None:
    """Return, for each cut 1..L-1, the part of the network's training arithmetic that its first layers have, in 0..1.

    Counted are convolutions and matrix products, forward and backward, of the undivided network without exits: nearly all of
    the arithmetic, and not all of the time. None if torch finds nothing to count.
    """
    operations = [_operations(network, number, seed) for number in range(1, network.depth + 1)]
    total = sum(operations)
    return [done / total for done in accumulate(operations[:-1])] if total else None


def _operations(network: Network, number: int, seed: int) -> int:
    """Return the floating-point operations of one layer's training on a small batch; the first gives no gradient to its input."""
    shape = network.feature_shape(number - 1) if number > 1 else network.sample_shape
    features = torch.zeros(_BATCH, *shape, requires_grad=number > 1).clone()  # a layer may change its input in place
    layer = network.build_layer(number).eval()
    with seeded(seed, "operations", number), FlopCounterMode(display=False) as counter:
        result = layer(features)
        if result.requires_grad:
            result.sum().backward()
    return int(counter.get_total_flops())

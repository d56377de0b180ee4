"""A client goes on from averaged layers: what they name is replaced, and nothing if it does not fit."""

import pytest
import torch

from learning.errors import TensorError
from learning.halves import ClientHalf
from learning.layers import Network, build_network
from learning.settings import ModelSettings
from tests.unit.test_halves import CUT, DRAW, changed, everything, images, settings


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(ModelSettings(width=4), (1, 8, 8), 10, seed=0)


def test_what_a_half_loads_it_trains_on_with_its_own_optimizer_state(network: Network) -> None:
    half, other = ClientHalf(network, CUT, settings()), ClientHalf(network, CUT, settings())
    for client in (half, other):
        client.step(*images(), DRAW)
    other.step(*images(seed=1), DRAW)
    before = everything(half)
    named = {name: tensor for name, tensor in other.state().items() if name.startswith(("layer2.", "exit."))}
    half.load_modules(named)
    assert all(torch.equal(half.state()[name], tensor) for name, tensor in named.items())
    assert changed(before, everything(half)) <= {f"module/{name}" for name in named}
    loaded = everything(half)
    half.step(*images(seed=1), DRAW)
    assert changed(loaded, everything(half)) >= {"module/layer2.conv1.weight", "optimizer/layer2.conv1.weight/exp_avg"}


@pytest.mark.parametrize("odd", ["layer2.conv1.weight", "layer4.conv1.weight", "exit.surplus", "nothing", ""])
def test_what_does_not_fit_changes_nothing(network: Network, odd: str) -> None:
    half = ClientHalf(network, CUT, settings())
    before, zero = everything(half), torch.zeros(1)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in half.state().items()}
    with pytest.raises(TensorError, match="averaged half: "):
        half.load_modules({**zeros, odd: zero})
    with pytest.raises(TensorError, match="averaged half: tensors missing"):
        half.load_modules({"layer1.0.weight": zeros["layer1.0.weight"]})
    with pytest.raises(TensorError, match="has a value that is not finite"):
        half.load_modules({**zeros, "exit.2.bias": zeros["exit.2.bias"] / 0})
    assert not changed(before, everything(half))

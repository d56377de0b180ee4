import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from learning.errors import ModelError, SettingsError
from learning.exits import automatic_exit
from learning.layers import Layer, Network, build_network
from learning.settings import ModelSettings

_serial = itertools.count()


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module into the current directory and return its name, new each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])

    def write(source: str) -> str:
        name = f"own_model_{next(_serial)}"
        Path(f"{name}.py").write_text("import torch\nfrom torch import nn\n" + textwrap.dedent(source))
        return name

    return write


def small(seed: int = 0) -> Network:
    return build_network(ModelSettings(width=4), (3, 16, 16), 10, seed)


def bits(module: nn.Module) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in module.state_dict().values()]


def linear_network(*layers: Layer, classes: int = 3) -> Network:
    return Network(layers, (5,), classes, 0, automatic_exit)


def test_layers_are_numbered_from_one_and_know_their_shapes() -> None:
    network = small()
    assert network.depth == 10
    assert network.name(1) == "stem"
    assert network.name(10) == "head"
    assert [network.feature_shape(cut) for cut in (1, 3, 4, 10)] == [(4, 16, 16), (4, 16, 16), (8, 8, 8), (10,)]
    with pytest.raises(ModelError, match=r"no layer 0: resnet18 has layers 1\.\.10"):
        network.name(0)


def test_built_layers_give_the_announced_shapes() -> None:
    network = small()
    features = torch.randn(2, 3, 16, 16)
    for number in range(1, network.depth + 1):
        features = network.build_layer(number)(features)
        assert tuple(features.shape[1:]) == network.feature_shape(number)


def test_a_layers_initialisation_depends_on_seed_and_number_alone() -> None:
    first = [bits(small().build_layer(number)) for number in range(1, 11)]
    network = small()
    torch.manual_seed(99)
    second = [bits(network.build_layer(number)) for number in reversed(range(1, 11))][::-1]
    assert first == second
    assert bits(small(seed=1).build_layer(3)) != first[2]
    assert first[1] != first[2], "two blocks of one shape must differ"


def test_an_exits_initialisation_depends_on_seed_and_cut_alone() -> None:
    network = small()
    before = bits(network.build_exit(3))
    network.build_exit(2)
    assert bits(network.build_exit(3)) == before
    assert bits(network.build_exit(2)) != before


def test_building_leaves_the_global_generator_alone() -> None:
    network = small()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    network.build_layer(4)
    network.build_exit(4)
    small()
    assert torch.equal(torch.rand(3), expected)


def test_layers_and_exits_come_in_training_mode_and_untouched() -> None:
    network = small()
    assert all(module.training for module in network.build_exit(2).modules())
    layer = network.build_layer(1)
    assert layer.training
    assert layer.state_dict()["1.num_batches_tracked"] == 0


@pytest.mark.parametrize("cut", [10, 12, 1000])
def test_cuts_beyond_the_network(cut: int) -> None:
    with pytest.raises(ModelError, match=rf"^cut {cut} is beyond the network: resnet18 has 10 layers, a cut is 1\.\.9$"):
        small().check_cut(cut)


@pytest.mark.parametrize("cut", [0, -1])
def test_cuts_before_the_network(cut: int) -> None:
    with pytest.raises(ModelError, match=rf"^cut {cut} is before the network"):
        small().build_exit(cut)


def test_a_layer_that_does_not_fit_is_named() -> None:
    layers = Layer("wide", lambda: nn.Linear(5, 8)), Layer("narrow", lambda: nn.Linear(7, 3))
    with pytest.raises(ModelError, match=r"layer 2 \(narrow\) does not accept features of shape \(2, 8\): RuntimeError: .+"):
        linear_network(*layers)


def test_a_last_layer_that_does_not_classify_is_named() -> None:
    layers = Layer("a", lambda: nn.Linear(5, 8)), Layer("b", lambda: nn.Linear(8, 4))
    with pytest.raises(ModelError, match=r"layer 2 \(b\), gives \(2, 4\) .* \(2, 3\)"):
        linear_network(*layers)


def test_layers_that_give_no_batch_of_floats_are_named() -> None:
    class Pair(nn.Module):
        def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return features, features

    class Total(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features.sum()

    last = Layer("last", lambda: nn.Linear(5, 3))
    with pytest.raises(ModelError, match=r"layer 1 \(pair\) gives tuple"):
        linear_network(Layer("pair", Pair), last)
    with pytest.raises(ModelError, match=r"layer 1 \(total\) gives \(\)"):
        linear_network(Layer("total", Total), last)
    with pytest.raises(ModelError, match=r"layer 1 \(lazy\) has lazy parameters"):
        linear_network(Layer("lazy", lambda: nn.LazyLinear(5)), last)


def test_one_layer_cannot_be_cut() -> None:
    with pytest.raises(ModelError, match="at least 2 layers"):
        linear_network(Layer("only", lambda: nn.Linear(5, 3)))


def test_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'resnet50': use resnet18, resnet34 or module:function"):
        build_network(ModelSettings(name="resnet50"), (3, 32, 32), 10, 0)


OWN = """
    def mixed(sample_shape, classes):
        return [
            ("flat", nn.Flatten),
            nn.Linear(sample_shape[0] * sample_shape[1], 6),
            lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 6)),
            ("head", nn.Linear(6, classes)),
        ]
"""


def test_an_own_model_may_mix_modules_factories_and_names(write_module: Callable[[str], str]) -> None:
    reference = f"{write_module(OWN)}:mixed"
    network = build_network(ModelSettings(name=reference), (4, 2), 3, 0)
    assert [network.name(number) for number in range(1, 5)] == ["flat", "Linear", "layer3", "head"]
    assert [network.feature_shape(number) for number in range(1, 5)] == [(8,), (6,), (6,), (3,)]


def test_an_own_models_built_layers_are_seeded_one_by_one(write_module: Callable[[str], str]) -> None:
    source = """
        def shallow(sample_shape, classes):
            return [nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, classes)]
        def same(sample_shape, classes):
            return shallow(sample_shape, classes)
    """
    name = write_module(source)
    networks = [build_network(ModelSettings(name=f"{name}:{f}"), (4,), 3, 0) for f in ("shallow", "same")]
    built = [bits(networks[0].build_layer(number)) for number in (1, 2, 3)]
    assert [bits(networks[1].build_layer(number)) for number in (3, 2, 1)] == built[::-1]
    assert built[0] != built[1]
    assert networks[0].build_layer(1).weight is not networks[0].build_layer(1).weight


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return KEPT", r"gave the same layer 1 twice"),
        ("return [lambda: KEPT[0], nn.Linear(4, 3)]", r"gave the same layer 1 twice"),
        ("tied = nn.Linear(4, 4); return [tied, nn.Sequential(tied, nn.Linear(4, 3))]", r"layers 1 and 2 .* share a parameter"),
        ("return [nn.Linear(4, 4), 'relu']", r"layer 2 of model .* is a str"),
        ("return nn.Linear(4, 3)", r"returned a Linear, not a list"),
        ("KEPT.append(nn.ReLU()); return [nn.Linear(4, 3) for _ in KEPT]", r"returned 3 layers, then 4"),
    ],
)
def test_own_models_that_cannot_be_used(write_module: Callable[[str], str], body: str, message: str) -> None:
    name = write_module(f"KEPT = [nn.Linear(4, 4), nn.Linear(4, 3)]\ndef model(sample_shape, classes):\n    {body}\n")
    with pytest.raises(ModelError, match=message):
        build_network(ModelSettings(name=f"{name}:model"), (4,), 3, 0)


def test_an_own_model_that_raises_is_named(write_module: Callable[[str], str]) -> None:
    name = write_module("def model(sample_shape, classes):\n    raise KeyError('depth')\n")
    with pytest.raises(SettingsError, match=rf"model '{name}:model' failed: KeyError: 'depth'"):
        build_network(ModelSettings(name=f"{name}:model"), (4,), 3, 0)

from pathlib import Path

import pytest
import torch
from torch import nn

from learning.errors import ModelError, SettingsError
from learning.exits import automatic_exit, exit_factory
from learning.imports import load
from learning.layers import Layer, Network, build_network
from learning.settings import ModelSettings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    return tmp_path


def test_feature_maps_are_pooled() -> None:
    module = automatic_exit((6, 4, 5), 3)
    features = torch.randn(2, 6, 4, 5)
    linear = module[-1]
    torch.testing.assert_close(module(features), linear(features.mean(dim=(2, 3))))
    assert sum(parameter.numel() for parameter in module.parameters()) == 6 * 3 + 3


def test_tokens_are_averaged() -> None:
    module = automatic_exit((7, 6), 3)
    features = torch.randn(2, 7, 6)
    torch.testing.assert_close(module(features), module[-1](features.mean(dim=1)))


def test_vectors_are_taken_as_they_are() -> None:
    module = automatic_exit((6,), 3)
    features = torch.randn(2, 6)
    assert torch.equal(module(features), module[-1](features))


@pytest.mark.parametrize("shape", [(), (3, 4, 4, 4)])
def test_other_shapes_have_no_automatic_exit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"no automatic exit for features of shape .* model\.exit"):
        automatic_exit(shape, 3)


def test_an_own_exit_is_built_for_its_cut(here: Path) -> None:
    (here / "own_exit.py").write_text(
        "from torch import nn\n"
        "def wide(feature_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(feature_shape[0] * 16 * 16, classes))\n"
        "def wrong(feature_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(feature_shape[0] * 16 * 16, classes + 1))\n"
        "def narrow(feature_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3, classes))\n"
        "def text(feature_shape, classes):\n"
        "    return 'linear'\n"
    )

    def network(name: str) -> Network:
        return build_network(ModelSettings(width=4, exit=f"own_exit:{name}"), (3, 16, 16), 10, 0)

    assert network("wide").build_exit(2)(torch.randn(5, 4, 16, 16)).shape == (5, 10)
    with pytest.raises(ModelError, match=r"exit at cut 2 gives \(2, 11\) .* \(2, 10\)"):
        network("wrong").build_exit(2)
    with pytest.raises(ModelError, match=r"exit at cut 2 does not accept features of shape \(2, 4, 16, 16\)"):
        network("narrow").build_exit(2)
    with pytest.raises(ModelError, match=r"returned a str, not an nn.Module"):
        network("text").build_exit(2)


def test_an_exit_that_cannot_be_loaded_fails_before_anything_is_built() -> None:
    with pytest.raises(SettingsError, match="exit 'max' is not of the form module:function"):
        build_network(ModelSettings(exit="max"), (3, 16, 16), 10, 0)


def test_the_networks_exit_fits_every_cut() -> None:
    layers = [Layer(f"l{n}", lambda: nn.Sequential(nn.Linear(5, 5), nn.ReLU())) for n in range(3)]
    network = Network([*layers, Layer("head", lambda: nn.Linear(5, 4))], (5,), 4, 0, exit_factory("auto"))
    for cut in (1, 2, 3):
        assert network.build_exit(cut)(torch.randn(2, 5)).shape == (2, 4)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_colon", "not of the form module:function"),
        (":function", "not of the form module:function"),
        ("module:", "not of the form module:function"),
        ("not_there_at_all:f", "there is no module 'not_there_at_all'"),
        ("torch.not_there:f", r"there is no module 'torch\.not_there'"),
        ("reference_target:absent", r"reference_target\.py has no 'absent'"),
        ("reference_target:NUMBER", "'NUMBER' is of type int, not a function"),
        ("reference_broken:f", "importing 'reference_broken' failed: SyntaxError"),
        ("reference_needy:f", "importing 'reference_needy' failed: ModuleNotFoundError: No module named 'surely_absent'"),
    ],
)
def test_references_that_cannot_be_loaded(here: Path, reference: str, message: str) -> None:
    (here / "reference_target.py").write_text("NUMBER = 3\n")
    (here / "reference_broken.py").write_text("def f(:\n")
    (here / "reference_needy.py").write_text("import surely_absent\n")
    with pytest.raises(SettingsError, match=message):
        load(reference, "model")


def test_a_reference_is_found_in_the_current_directory(here: Path) -> None:
    (here / "reference_good.py").write_text("def double(x):\n    return 2 * x\n")
    assert load("reference_good:double", "model")(4) == 8

import pytest
import torch
import torchvision
from torch import nn

from learning.errors import ModelError
from learning.resnet import resnet


def build(*arguments, **options) -> tuple[list[str], nn.Sequential]:
    torch.manual_seed(0)
    named = resnet(*arguments, **options)
    return [name for name, _ in named], nn.Sequential(*(factory() for _, factory in named))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_resnet18_for_cifar_has_the_known_number_of_parameters() -> None:
    names, network = build("resnet18", (3, 32, 32), 10)
    assert parameters(network) == 11_173_962
    assert len(names) == 10
    assert names[0] == "stem"
    assert names[3] == "stage2.block1"
    assert names[9] == "head"


@pytest.mark.parametrize(
    ("name", "granularity", "depth"), [("resnet34", "block", 18), ("resnet18", "stage", 6), ("resnet34", "stage", 6)]
)
def test_depths(name: str, granularity: str, depth: int) -> None:
    names, _ = build(name, (3, 32, 32), 10, width=4, granularity=granularity)
    assert len(names) == depth


def test_stages_and_blocks_are_the_same_network() -> None:
    _, blocks = build("resnet18", (3, 16, 16), 10, width=4)
    _, stages = build("resnet18", (3, 16, 16), 10, width=4, granularity="stage")
    stages.load_state_dict(dict(zip(stages.state_dict(), blocks.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(blocks.eval()(images), stages.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_large_images_go_through_torchvisions_network(name: str) -> None:
    _, network = build(name, (3, 96, 96), 10)
    reference = getattr(torchvision.models, name)(num_classes=10)
    state = zip(reference.state_dict(), network.state_dict().values(), strict=True)
    reference.load_state_dict(dict(state))
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(network.eval()(images), reference.eval()(images))


def test_convolutions_keep_torchs_own_initialisation() -> None:
    _, network = build("resnet18", (3, 32, 32), 10)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 5000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((1 / (3 * fan_in)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("side", "features"), [(8, 8), (64, 64), (65, 17), (96, 24)])
def test_the_stem_shrinks_large_images_only(side: int, features: int) -> None:
    _, network = build("resnet18", (3, side, side), 10, width=4)
    assert network[0](torch.zeros(1, 3, side, side)).shape == (1, 4, features, features)


def test_channels_and_width_follow_the_settings() -> None:
    _, network = build("resnet18", (1, 8, 8), 7, width=16)
    assert network[0](torch.zeros(2, 1, 8, 8)).shape == (2, 16, 8, 8)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


def test_samples_that_are_no_images_are_refused() -> None:
    with pytest.raises(ModelError, match=r"resnet18 takes images .*\(64,\)"):
        resnet("resnet18", (64,), 10)

"""ResNet-18 and ResNet-34 as numbered layers, from torchvision's basic block.

He et al., arXiv 1512.03385; for images up to 64 pixels with the 3x3 stem of their CIFAR networks. Convolutions keep
torch's own initialisation: with He's (fan-out) the exits of the shallow halves learn markedly slower.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn
from torchvision.models.resnet import BasicBlock

from learning.errors import ModelError

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
SMALL_IMAGE = 64  # pixels up to which the stem does not shrink the image

NamedFactory = tuple[str, Callable[[], nn.Module]]


def resnet(
    name: str, sample_shape: tuple[int, ...], classes: int, width: int = 64, granularity: Literal["block", "stage"] = "block"
) -> list[NamedFactory]:
    """Return the layers of a ResNet, in order, as (name, factory) pairs.

    sample_shape: (channels, height, width). width: channels of the first stage, doubled in each of the next three.
    By block, ResNet-18 has 10 layers and ResNet-34 has 18: stem, basic blocks, pool and classifier; by stage both have 6.
    Raises ModelError if samples are not images.
    """
    if len(sample_shape) != 3:
        raise ModelError(f"{name} takes images (channels, height, width), not samples of shape {sample_shape}")
    stem = partial(_stem, sample_shape[0], width, small=max(sample_shape[1:]) <= SMALL_IMAGE)
    body = _blocks(BLOCKS[name], width) if granularity == "block" else _stages(BLOCKS[name], width)
    return [("stem", stem), *body, ("head", partial(_head, width * 8, classes))]


def _blocks(counts: tuple[int, ...], width: int) -> list[NamedFactory]:
    layers: list[NamedFactory] = []
    channels = width
    for stage, count in enumerate(counts):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            planes = width * 2**stage
            layers.append((f"stage{stage + 1}.block{block + 1}", partial(_block, channels, planes, stride)))
            channels = planes
    return layers


def _stages(counts: tuple[int, ...], width: int) -> list[NamedFactory]:
    blocks = [build for _, build in _blocks(counts, width)]
    starts = [sum(counts[:stage]) for stage in range(len(counts))]
    return [
        (f"stage{stage + 1}", partial(_sequence, blocks[start : start + count]))
        for stage, (start, count) in enumerate(zip(starts, counts, strict=True))
    ]


def _sequence(factories: list[Callable[[], nn.Module]]) -> nn.Module:
    return nn.Sequential(*(build() for build in factories))


def _stem(channels: int, width: int, *, small: bool) -> nn.Module:
    if small:
        convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    convolution = nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False)
    pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True), pool)


def _block(channels: int, planes: int, stride: int) -> nn.Module:
    shortcut = None
    if stride != 1 or channels != planes:
        shortcut = nn.Sequential(nn.Conv2d(channels, planes, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(planes))
    return BasicBlock(channels, planes, stride, shortcut)  # type: ignore[no-any-return]


def _head(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))

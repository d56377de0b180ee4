"""The smallest network that has everything: three layers, two of them on the servers for a client at cut 1, BatchNorm."""

from torch import nn


def layers(sample_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    return [
        nn.Sequential(nn.Flatten(), nn.Linear(sample_shape[0], 12), nn.ReLU()),
        nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU()),
        nn.Linear(12, classes),
    ]

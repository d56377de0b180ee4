"""What a client may find behind the same ``--data`` after a restart: samples that are not those it began its round with."""

import torch

from learning.settings import DataSettings
from learning.sources import open_dataset

Tensors = tuple[torch.Tensor, torch.Tensor]


def mirrored() -> tuple[Tensors, Tensors]:
    """Return the digits with left and right exchanged: as many, with the same labels."""
    dataset = open_dataset(DataSettings(image_size=8), seed=0)
    assert dataset.test is not None
    train, test = ((split.images(torch.arange(len(split))).flip(-1), split.labels) for split in (dataset.train, dataset.test))
    return train, test


def fewer() -> tuple[Tensors, Tensors]:
    """Return so few of them that a round is over after fewer batches."""
    (images, labels), test = mirrored()
    return (images[:120], labels[:120]), test

"""What a client may find behind ``--data``: what takes long to read, or samples that are not those it began its round with."""

import time

import torch

from learning.settings import DataSettings
from learning.sources import open_dataset

Tensors = tuple[torch.Tensor, torch.Tensor]
SLOW_SECONDS = 8.0


def digits() -> tuple[Tensors, Tensors]:
    """Return the digits as they are, as a user's own data set."""
    dataset = open_dataset(DataSettings(image_size=8), seed=0)
    assert dataset.test is not None
    train, test = ((split.images(torch.arange(len(split))), split.labels) for split in (dataset.train, dataset.test))
    return train, test


def slow() -> tuple[Tensors, Tensors]:
    """Return the digits after a while, as a download or a large folder does."""
    time.sleep(SLOW_SECONDS)
    return digits()


def mirrored() -> tuple[Tensors, Tensors]:
    """Return the digits with left and right exchanged: as many, with the same labels."""
    (images, labels), (test_images, test_labels) = digits()
    return (images.flip(-1), labels), (test_images.flip(-1), test_labels)


def fewer() -> tuple[Tensors, Tensors]:
    """Return so few of them that a round is over after fewer batches."""
    (images, labels), test = mirrored()
    return (images[:120], labels[:120]), test

"""Data that takes long to read, as a download or a large folder does."""

import time

import torch

from learning.settings import DataSettings
from learning.sources import open_dataset

SECONDS = 8.0

Tensors = tuple[torch.Tensor, torch.Tensor]


def digits() -> tuple[Tensors, Tensors]:
    """Return the digits, after a while."""
    time.sleep(SECONDS)
    dataset = open_dataset(DataSettings(image_size=8), seed=0)
    assert dataset.test is not None
    train, test = ((split.images(torch.arange(len(split))), split.labels) for split in (dataset.train, dataset.test))
    return train, test

"""Training batches of a client and evaluation batches of all: pure functions of the seed and their place."""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from learning.augment import crop_flip
from learning.errors import DataError
from learning.images import Split
from learning.seeds import generator, seeded
from learning.settings import MOST_CLASSES, DataSettings, TrainingSettings
from learning.sources import Dataset, open_dataset

__all__ = ["ClientData", "Dataset", "Split", "evaluation_batches", "load_dataset", "test_samples"]

Batch = tuple[torch.Tensor, torch.Tensor]


def load_dataset(data: DataSettings, seed: int) -> Dataset:
    """Return the data set that the settings name, its training split reduced to ``train_limit`` samples.

    Raises DataError if it cannot be had: unknown, missing, damaged, or settings that do not fit its samples.
    """
    dataset = open_dataset(data, seed)
    if dataset.classes < 2:
        raise DataError(f"data set {data.name} has {dataset.classes} class, there is nothing to tell apart")
    if dataset.classes > MOST_CLASSES:
        raise DataError(f"data set {data.name} has labels up to {dataset.classes - 1}; at most {MOST_CLASSES} classes are possible")
    if data.augment == "crop-flip" and len(dataset.sample_shape) != 3:
        raise DataError(f"data.augment = crop-flip needs images, {data.name} has samples of shape {dataset.sample_shape}")
    if data.train_limit is None or data.train_limit >= len(dataset.train):
        return dataset
    chosen = _subset(len(dataset.train), data.train_limit, generator(seed, "train-limit"))
    return dataclasses.replace(dataset, train=dataset.train.take(chosen))


class ClientData:
    """One client's training samples, in batches numbered from 0 in each round.

    A round is ``local_epochs`` passes, each in its own random order. A last batch of one sample is dropped, because
    BatchNorm cannot train on it; a last batch of two or more is kept.
    """

    def __init__(
        self, dataset: Dataset, indices: torch.Tensor, data: DataSettings, training: TrainingSettings, client: str
    ) -> None:
        """Take the samples of ``dataset.train`` at ``indices``. Raises DataError if they are fewer than 2."""
        self.samples = len(indices)
        if self.samples < 2:
            raise DataError(f"client {client} has {self.samples} training samples, it needs 2: use fewer clients or more data")
        self._dataset = dataset
        self._indices = indices
        self._training = training
        self._client = client
        self._crop_flip = dataset.crop_flip if data.augment == "auto" else data.augment == "crop-flip"
        full, rest = divmod(self.samples, training.batch_size)
        self._batches_in_epoch = full + (rest > 1)
        self._dropped_in_epoch = rest if rest == 1 else 0
        self._order: tuple[tuple[int, int], torch.Tensor] | None = None  # of the last (round, epoch) asked for

    def batches_in_round(self) -> int:
        """Return the number of batches in a round."""
        return self._batches_in_epoch * self._training.local_epochs

    def dropped_in_round(self) -> int:
        """Return the number of samples that are not trained in a round; which ones differs from epoch to epoch."""
        return self._dropped_in_epoch * self._training.local_epochs

    def batch(self, round: int, sequence: int) -> Batch:
        """Return a batch: samples, normalised and augmented, float32 (batch, ...), and labels int64 (batch,).

        It depends on the seed, client, round and sequence (from 0) alone. Raises IndexError beyond the round's batches,
        DataError if a sample cannot be read.
        """
        if not 0 <= sequence < self.batches_in_round():
            raise IndexError(f"batch {sequence} of a round of {self.batches_in_round()} batches")
        seed, place = self._training.seed, (self._client, round, sequence)
        indices = self._chosen(round, sequence)
        images = _read(self._dataset.train, indices, seed, "read", *place)
        if self._crop_flip:
            images = crop_flip(images, generator(seed, "augment", *place))
        return self._dataset.normalise(images), self._dataset.train.labels[indices]

    def _chosen(self, round: int, sequence: int) -> torch.Tensor:
        epoch, batch = divmod(sequence, self._batches_in_epoch)
        start = batch * self._training.batch_size
        return self._shuffled(round, epoch)[start : start + self._training.batch_size]

    def _shuffled(self, round: int, epoch: int) -> torch.Tensor:
        if self._order is None or self._order[0] != (round, epoch):
            shuffle = generator(self._training.seed, "shuffle", self._client, round, epoch)
            self._order = (round, epoch), self._indices[torch.randperm(self.samples, generator=shuffle)]
        return self._order[1]


def evaluation_batches(dataset: Dataset, data: DataSettings, seed: int, batch_size: int, whole: bool) -> Iterator[Batch]:
    """Return batches of the test split in order: normalised float32 (batch, ...) and int64 labels (batch,).

    whole: all of it; otherwise the seeded random subset of ``test_limit`` samples. Raises DataError if the data set has no
    test split, or while iterating if a sample cannot be read.
    """
    if dataset.test is None:
        raise DataError(f"data set {dataset.name} has no test split to evaluate on")
    chosen = test_samples(len(dataset.test), None if whole else data.test_limit, seed)
    return _batches(dataset, dataset.test, chosen, seed, batch_size)


def test_samples(count: int, limit: int | None, seed: int) -> torch.Tensor:
    """Return which of the count samples of a test split are evaluated, ascending; those of a limit are among those of a larger."""
    if limit is None or limit >= count:
        return torch.arange(count)
    return _subset(count, limit, generator(seed, "test-limit"))


def _batches(dataset: Dataset, split: Split, chosen: torch.Tensor, seed: int, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(chosen), batch_size):
        indices = chosen[start : start + batch_size]
        images = _read(split, indices, seed, "read-test", int(indices[0]))
        yield dataset.normalise(images), split.labels[indices]


def _read(split: Split, indices: torch.Tensor, seed: int, *purpose: str | int) -> torch.Tensor:
    """Read samples; what a user's data set draws from torch's global generator meanwhile is seeded."""
    with seeded(seed, *purpose) if split.source.random else contextlib.nullcontext():
        return split.images(indices)


def _subset(count: int, limit: int, random: torch.Generator) -> torch.Tensor:
    return torch.randperm(count, generator=random)[:limit].sort().values

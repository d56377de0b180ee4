"""Samples of one split, read by index: held in memory, decoded from files, or asked of a user's data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, rgb_to_grayscale

from learning.augment import resize
from learning.errors import DataError
from learning.imports import describe

CACHE_BYTES = 2**30  # decoded images of a split are kept where all of them fit

_GREY_MODES = {"1", "L", "LA"}
_DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


class Source(Protocol):
    """Samples without their labels."""

    random: bool  # whether reading may draw from torch's global generator

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """Return samples as float32 (batch, ...); images in 0..1. Raises DataError if one cannot be read."""

    def take(self, indices: torch.Tensor) -> "Source":
        """Return a source of these samples only."""


@dataclass(frozen=True)
class Split:
    """The samples of one split and their labels, int64 (samples,)."""

    source: Source
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if len(self.source) != len(self.labels):
            raise DataError(f"{len(self.source)} samples, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        """Return samples as float32 (batch, ...), not normalised; images are scaled to 0..1.

        Raises DataError, naming the sample or file, if one cannot be read.
        """
        return self.source.read(indices)

    def take(self, indices: torch.Tensor) -> "Split":
        """Return the split that consists of these samples."""
        return Split(self.source.take(indices), self.labels[indices])


class TensorSource:
    """Samples in one tensor (samples, ...): uint8, which is scaled to 0..1, or float32, taken as it is."""

    random = False

    def __init__(self, samples: torch.Tensor, image_size: int | None = None) -> None:
        self._samples = samples
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """Return samples as float32 (batch, ...)."""
        samples = _as_float(self._samples[indices])
        return resize(samples, self._image_size) if self._image_size else samples

    def take(self, indices: torch.Tensor) -> "TensorSource":
        """Return a source of these samples only."""
        return TensorSource(self._samples[indices], self._image_size)


class FileSource:
    """Image files, each decoded when it is first read and then kept as uint8 if all of them fit into CACHE_BYTES.

    shape: (channels, height, width) that every image must have, after it was resized to image_size if that is given.
    Grey images of a colour set are spread over its channels.
    """

    random = False

    def __init__(self, paths: Sequence[str], shape: tuple[int, int, int], image_size: int | None = None) -> None:
        self._paths = paths
        self._shape = shape
        self._image_size = image_size
        fits = len(paths) * math.prod(shape) <= CACHE_BYTES
        self._cache = torch.empty((len(paths), *shape), dtype=torch.uint8) if fits else None
        self._decoded = torch.zeros(len(paths), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """Return images as float32 (batch, channels, height, width) in 0..1."""
        if self._cache is None:
            return _as_float(torch.stack([self._decode(index) for index in indices.tolist()]))
        for index in indices[~self._decoded[indices]].tolist():
            self._cache[index] = self._decode(index)  # two threads may both do this, with the same result
            self._decoded[index] = True
        return _as_float(self._cache[indices])

    def take(self, indices: torch.Tensor) -> "FileSource":
        """Return a source of these images only."""
        return FileSource([self._paths[index] for index in indices.tolist()], self._shape, self._image_size)

    def _decode(self, index: int) -> torch.Tensor:
        path = self._paths[index]
        image = decode_image(path, self._image_size)
        if image.shape[0] == 1 and self._shape[0] == 3:
            image = image.expand(3, -1, -1)
        if image.shape[0] != self._shape[0]:
            raise DataError(f"image {path} is in colour, the first of the data set is grey: convert them to one of the two")
        if tuple(image.shape) != self._shape:
            size, expected = tuple(image.shape[1:]), self._shape[1:]
            raise DataError(f"image {path} has height and width {size}, the first of the data set {expected}: set data.image_size")
        return image


class MapSource:
    """A user's map-style data set of (tensor, label) pairs, read anew each time; it may augment at random."""

    random = True

    def __init__(self, dataset: Any, what: str, indices: Sequence[int], image_size: int | None = None) -> None:
        self._dataset = dataset
        self._what = what
        self._indices = indices
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """Return samples as float32 (batch, ...)."""
        read = [self.item(index)[0] for index in indices.tolist()]
        shapes = sorted({tuple(sample.shape) for sample in read})
        if len(shapes) > 1:
            raise DataError(f"samples of {self._what} have unlike shapes: {shapes[0]} and {shapes[1]}")
        samples = _as_float(torch.stack(read))
        return resize(samples, self._image_size) if self._image_size else samples

    def take(self, indices: torch.Tensor) -> "MapSource":
        """Return a source of these samples only."""
        return MapSource(self._dataset, self._what, [self._indices[index] for index in indices.tolist()], self._image_size)

    def item(self, index: int) -> tuple[torch.Tensor, Any]:
        """Return one sample as the data set gives it, and its label."""
        where = f"sample {self._indices[index]} of {self._what}"
        try:
            sample, label = self._dataset[self._indices[index]]
        except Exception as error:
            raise DataError(f"{where} cannot be read as (tensor, label): {describe(error)}") from error
        if not isinstance(sample, torch.Tensor):
            raise DataError(f"{where} is a {type(sample).__name__}, not a tensor")
        check_dtype(sample, where)
        return sample, label


def read_image(path: str | Path, shape: tuple[int, ...]) -> torch.Tensor:
    """Return an image file as a network takes it before normalisation: float32 in 0..1 of a shape (channels, height, width).

    It is resized; colours become grey, and grey is spread over three channels, where the shape says so. Raises DataError if the
    file is not a whole image, or no image has that shape.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"image {path}: this network takes samples of shape {shape}, which no image file has")
    image = decode_image(path, (shape[1], shape[2]))
    if image.shape[0] == 3 and shape[0] == 1:
        image = rgb_to_grayscale(image)
    return _as_float(image.expand(shape[0], -1, -1))


def decode_image(path: str | Path, image_size: int | tuple[int, int] | None) -> torch.Tensor:
    """Return an image file as uint8 (channels, height, width): 1 channel if it is grey, else 3.

    image_size: side in pixels, or (height, width), to which it is resized; None keeps its size. Raises DataError if the file is
    not a whole image of 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode in _DEEP_MODES:
                raise DataError(f"image {path} has more than 8 bits a channel (mode {image.mode}): convert it")
            pixels: torch.Tensor = pil_to_tensor(image.convert("L" if image.mode in _GREY_MODES else "RGB"))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many unrelated types
        raise DataError(f"image {path} cannot be decoded: {describe(error)}") from error
    if image_size is None:
        return pixels
    return resize(pixels[None].float(), image_size)[0].round().clamp(0, 255).to(torch.uint8)


def check_dtype(samples: torch.Tensor, what: str) -> None:
    """Raise DataError unless samples are uint8 or floats."""
    if samples.dtype != torch.uint8 and not samples.is_floating_point():
        raise DataError(f"{what} is {samples.dtype}: give float32, or uint8, which is scaled to 0..1")


def _as_float(samples: torch.Tensor) -> torch.Tensor:
    return samples.float().div_(255) if samples.dtype == torch.uint8 else samples.float()

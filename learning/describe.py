"""What must be known of a data set before anybody trains on it: the shape of a sample and the number of classes."""

from dataclasses import dataclass

from learning.data import load_dataset
from learning.settings import DataSettings
from learning.sources import class_names

# shape as stored, classes, training samples
_KNOWN: dict[str, tuple[tuple[int, int, int], int, int]] = {
    "digits": ((1, 8, 8), 10, 1437),
    "mnist": ((1, 28, 28), 10, 60_000),
    "cifar10": ((3, 32, 32), 10, 50_000),
    "cifar100": ((3, 32, 32), 100, 50_000),
    "stl10": ((3, 96, 96), 10, 5_000),
}


@dataclass(frozen=True)
class Description:
    """Shape of one sample without batch dimension, number of classes, training samples (None: not known), names of classes."""

    sample_shape: tuple[int, ...]
    classes: int
    samples: int | None
    class_names: tuple[str, ...] = ()


def describe(data: DataSettings, seed: int) -> Description:
    """Return what the settings say, or what is known of the set by its name, or what loading it shows.

    Only the last needs the data: a coordinator can do without. Raises DataError if it is needed and cannot be loaded.
    """
    known = _KNOWN.get(data.name)
    if data.sample_shape is not None and data.classes is not None:
        return Description(data.sample_shape, data.classes, data.train_limit)
    if known is not None:
        shape, classes, samples = known
        side = data.image_size
        shape = (shape[0], side, side) if side else shape
        return Description(shape, classes, min(samples, data.train_limit or samples), class_names(data.name))
    dataset = load_dataset(data, seed)
    return Description(tuple(dataset.sample_shape), dataset.classes, len(dataset.train), dataset.class_names)

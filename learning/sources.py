"""The data sets that can be named in an experiment, and how each is opened."""

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torchvision import datasets

from learning.augment import normalise
from learning.errors import DataError
from learning.images import FileSource, MapSource, Split, TensorSource, check_dtype, decode_image
from learning.imports import call, describe, load
from learning.seeds import seeded
from learning.settings import DataSettings

_FOLDER = "imagefolder:"
_DIGITS_TEST = 360  # of 1797


@dataclass(frozen=True)
class Dataset:
    """A data set with its splits.

    sample_shape: one sample as it reaches the network. mean, std: by channel; empty where samples are not normalised.
    crop_flip: whether ``augment = "auto"`` augments it. class_names: in the order of labels; empty where they have none.
    """

    name: str
    train: Split
    test: Split | None
    classes: int
    sample_shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop_flip: bool = False
    class_names: tuple[str, ...] = ()

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return samples (batch, ...) of ``Split.images`` as the network takes them."""
        return normalise(images, self.mean, self.std) if self.mean else images


@dataclass(frozen=True)
class _Known:
    """A data set of torchvision: its training and test arguments, where its files lie under root, its constants."""

    kind: Callable[..., Any]
    splits: tuple[dict[str, Any], dict[str, Any]]
    folder: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_flip: bool
    class_names: tuple[str, ...] = ()


_TRAIN_FLAG = ({"train": True}, {"train": False})
_TORCHVISION = {
    "mnist": _Known(datasets.MNIST, _TRAIN_FLAG, "MNIST/raw", 10, (0.1307,), (0.3081,), False),
    "cifar10": _Known(
        datasets.CIFAR10,
        _TRAIN_FLAG,
        "cifar-10-batches-py",
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        True,
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": _Known(
        datasets.CIFAR100, _TRAIN_FLAG, "cifar-100-python", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), True
    ),
    "stl10": _Known(
        datasets.STL10,
        ({"split": "train"}, {"split": "test"}),
        "stl10_binary",
        10,
        (0.4467, 0.4398, 0.4066),
        (0.2603, 0.2566, 0.2713),
        True,
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    ),
}
NAMES = ("digits", *_TORCHVISION, f"{_FOLDER}PATH", "module:function")


def normalisation(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation by channel with which samples of a data set are normalised, empty if they are not."""
    if name == "digits":
        return (0.3053,), (0.3760,)
    if name in _TORCHVISION:
        return _TORCHVISION[name].mean, _TORCHVISION[name].std
    half = (0.5,) * channels if name.startswith(_FOLDER) else ()
    return half, half


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of a data set's classes as far as its own name tells them."""
    return _TORCHVISION[name].class_names if name in _TORCHVISION else ()


def open_dataset(data: DataSettings, seed: int) -> Dataset:
    """Return the whole data set that the settings name.

    Raises DataError if the name is unknown, or files are missing, damaged or not as they should be.
    """
    if data.name == "digits":
        return _digits(data)
    if data.name in _TORCHVISION:
        return _torchvision(data, _TORCHVISION[data.name])
    if data.name.startswith(_FOLDER):
        return _image_folder(data, Path(data.name.removeprefix(_FOLDER)).expanduser())
    if ":" in data.name:
        return _own(data, seed)
    near = difflib.get_close_matches(data.name.lower(), ["digits", *_TORCHVISION, "imagefolder"], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(f"unknown data set {data.name!r}: {hint}There are {', '.join(NAMES)}")


@functools.cache
def _digits_in_parts() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return the images and labels to train with and to test with; read once a process."""
    from sklearn.datasets import load_digits  # slow to import, and needed here only
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=_DIGITS_TEST, stratify=labels, random_state=0)
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in split)
    return (train_x.view(-1, 1, 8, 8).float() / 16, train_y.long()), (test_x.view(-1, 1, 8, 8).float() / 16, test_y.long())


def _digits(data: DataSettings) -> Dataset:
    train, test = (Split(TensorSource(images, data.image_size), labels) for images, labels in _digits_in_parts())
    side = data.image_size or 8
    return Dataset("digits", train, test, 10, (1, side, side), *normalisation(data.name, 1))


def _torchvision(data: DataSettings, known: _Known) -> Dataset:
    train, test = (_in_memory(_open_torchvision(data, known, arguments), data.image_size) for arguments in known.splits)
    shape = tuple(train.images(torch.tensor([0])).shape[1:])
    return Dataset(data.name, train, test, known.classes, shape, known.mean, known.std, known.crop_flip, known.class_names)


def _open_torchvision(data: DataSettings, known: _Known, arguments: dict[str, Any]) -> Any:
    root = Path(data.root).expanduser()
    try:
        return known.kind(root, download=False, **arguments)
    except Exception as error:  # on damaged files torchvision's readers raise many unrelated types
        if not data.download:
            raise DataError(_missing(data.name, root / known.folder, error)) from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{data.name}.lock"):  # the processes of a run may all find it missing at once
            return known.kind(root, download=True, **arguments)
    except Exception as error:
        raise DataError(
            f"data set {data.name} could not be downloaded or read: {describe(error)}; "
            f"if {root / known.folder} is damaged, delete it"
        ) from error


def _missing(name: str, folder: Path, error: Exception) -> str:
    if folder.exists():
        return (
            f"data set {name} in {folder} is incomplete or damaged ({describe(error)}): "
            "set data.download = true to complete it, or delete it first if a file is damaged"
        )
    return f"data set {name} is missing: set data.download = true, or put its files into {folder} (data.root is the folder above)"


def _in_memory(dataset: Any, image_size: int | None) -> Split:
    pixels = torch.as_tensor(dataset.data)
    if pixels.dim() == 3:  # MNIST: (samples, height, width)
        pixels = pixels.unsqueeze(1)
    elif pixels.shape[-1] == 3:  # CIFAR: channels last
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels  # STL-10 says labels
    return Split(TensorSource(pixels, image_size), torch.as_tensor(labels).long())


def _image_folder(data: DataSettings, path: Path) -> Dataset:
    train, test = (_scan(path / name) for name in ("train", "test"))
    if train.classes != test.classes:
        unlike = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(f"{path}/train and {path}/test have different class folders: {', '.join(unlike[:10])} is in one only")
    channels, height, width = decode_image(train.samples[0][0], data.image_size).shape
    shape = (channels, height, width)
    splits = [
        Split(FileSource([file for file, _ in scanned.samples], shape, data.image_size), torch.tensor(scanned.targets))
        for scanned in (train, test)
    ]
    mean, std = normalisation(data.name, channels)
    return Dataset(data.name, splits[0], splits[1], len(train.classes), shape, mean, std, class_names=tuple(train.classes))


def _scan(folder: Path) -> Any:
    """Return torchvision's ImageFolder, of which only the lists of files and classes are used."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: {_FOLDER}PATH needs PATH/train/CLASS and PATH/test/CLASS with images")
    try:
        return datasets.ImageFolder(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be used: {describe(error)}") from error


def _own(data: DataSettings, seed: int) -> Dataset:
    """Open the data set of a user's function; what it draws at random is the same in every process of a run."""
    function = load(data.name, "data set")
    with seeded(seed, "data"):
        returned = call(function, data.name, "data set")
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            raise DataError(f"data set {data.name!r} returned type {type(returned).__name__}, not a pair (train, test)")
        train = _own_split(returned[0], f"train of {data.name}", data.image_size)
        test = None if returned[1] is None else _own_split(returned[1], f"test of {data.name}", data.image_size)
        shapes = [tuple(split.images(torch.tensor([0])).shape[1:]) for split in (train, test) if split is not None]
    if shapes[0] != shapes[-1]:
        raise DataError(f"samples of {data.name} have shape {shapes[0]} in train, {shapes[-1]} in test")
    classes = 1 + max(int(split.labels.max()) for split in (train, test) if split is not None)
    return Dataset(data.name, train, test, classes, shapes[0])


def _own_split(value: Any, what: str, image_size: int | None) -> Split:
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, torch.Tensor) for part in value):
        samples, labels = value
        check_dtype(samples, what)
        if not torch.isfinite(samples).all():
            raise DataError(f"{what} has values that are not finite")
        if len(samples) != len(labels):
            raise DataError(f"{what} has {len(samples)} samples, but {len(labels)} labels")
        checked = _labels(labels, what)
        _check_image(samples[0], what, image_size)
        return Split(TensorSource(samples, image_size), checked)
    if not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
        raise DataError(f"{what} is of type {type(value).__name__}: give a data set with a length and items, or tensors (x, y)")
    source = MapSource(value, what, range(len(value)), image_size)
    checked = _labels(_listed_labels(value, source), what)
    _check_image(source.item(0)[0], what, image_size)
    return Split(source, checked)


def _listed_labels(dataset: Any, source: MapSource) -> Any:
    """Return a map-style data set's labels without reading its samples where it lists them, as torchvision's do."""
    targets = getattr(dataset, "targets", None)
    if targets is not None and len(targets) == len(dataset) and getattr(dataset, "target_transform", None) is None:
        return targets
    return [source.item(index)[1] for index in range(len(source))]


def _labels(labels: torch.Tensor | Sequence[Any], what: str) -> torch.Tensor:
    try:
        checked = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"labels of {what} are not integers: {describe(error)}") from error
    if checked.numel() == 0:
        raise DataError(f"{what} is empty")
    if checked.dim() != 1 or checked.is_floating_point() or checked.is_complex() or checked.min() < 0:
        kind = f"{checked.dtype} of shape {tuple(checked.shape)}"
        raise DataError(f"labels of {what} are {kind}, expected one integer from 0 for each sample")
    return checked.long()


def _check_image(sample: torch.Tensor, what: str, image_size: int | None) -> None:
    if image_size is not None and sample.dim() != 3:
        raise DataError(
            f"data.image_size needs images (channels, height, width), {what} has samples of shape {tuple(sample.shape)}"
        )

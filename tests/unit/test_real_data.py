"""Data sets as they are published, where SPLITEE_DATA names a folder of them."""

import gzip
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch

from learning.data import ClientData, load_dataset
from learning.errors import DataError
from learning.settings import DataSettings, TrainingSettings


@pytest.fixture(scope="module")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = os.environ.get("SPLITEE_DATA")
    if not source:
        pytest.skip("SPLITEE_DATA names no folder of real data")
    copy = tmp_path_factory.mktemp("real")
    (copy / "MNIST" / "raw").mkdir(parents=True)
    for file in Path(source).glob("MNIST/raw/*.gz"):
        shutil.copyfile(file, copy / "MNIST" / "raw" / file.name)
    with tarfile.open(Path(source) / "cifar10-imagefolder.tar.xz") as archive:
        archive.extractall(copy, filter="data")
    return copy


def test_mnist_is_unpacked_by_several_at_once_and_is_then_there(real_data: Path) -> None:
    with pytest.raises(DataError, match="is incomplete or damaged"):
        load_dataset(DataSettings(name="mnist", root=str(real_data)), 0)
    settings = DataSettings(name="mnist", root=str(real_data), download=True)
    with ThreadPoolExecutor(3) as pool:
        loaded = list(pool.map(lambda _: load_dataset(settings, 0), range(3)))
    assert [(len(d.train), len(d.test), d.sample_shape) for d in loaded] == [(60000, 10000, (1, 28, 28))] * 3
    dataset = load_dataset(DataSettings(name="mnist", root=str(real_data)), 0)
    with gzip.open(real_data / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz") as file:
        pixels = numpy.frombuffer(file.read(), dtype=numpy.uint8, offset=16).reshape(-1, 28, 28)
    assert torch.equal(dataset.test.images(torch.tensor([4321]))[0, 0], torch.from_numpy(pixels[4321].copy()) / 255)
    normal = dataset.normalise(dataset.train.images(torch.arange(60000)))
    assert normal.mean().item() == pytest.approx(0, abs=0.001)
    assert normal.std().item() == pytest.approx(1, abs=0.001)


def test_cifar10_as_images(real_data: Path) -> None:
    settings = DataSettings(name=f"imagefolder:{real_data / 'cifar10-jpg-yk'}", train_limit=500, augment="crop-flip")
    dataset = load_dataset(settings, 0)
    assert (dataset.classes, dataset.sample_shape, len(dataset.train), len(dataset.test)) == (10, (3, 32, 32), 500, 10000)
    data = ClientData(dataset, torch.arange(500), settings, TrainingSettings(batch_size=64), "client-1")
    batches = [data.batch(1, sequence) for sequence in range(data.batches_in_round())]
    x, y = torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
    assert x.shape == (500, 3, 32, 32)
    assert x.abs().max() <= 1
    assert torch.equal(y.bincount(), dataset.train.labels.bincount())

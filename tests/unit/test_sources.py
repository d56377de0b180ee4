import itertools
import shutil
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from learning import images
from learning.data import ClientData, Dataset, evaluation_batches, load_dataset
from learning.errors import DataError, SettingsError
from learning.settings import DataSettings, TrainingSettings

_serial = itertools.count()


def whole_round(data: ClientData, round: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [data.batch(round, sequence) for sequence in range(data.batches_in_round())]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def write_image(path: Path, array: numpy.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder: two classes, 6 training and 3 test images each, 12 x 10 pixels, random colours."""
    random = numpy.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name, number in itertools.product(("cat", "dog"), range(count)):
            pixels = random.integers(0, 256, (12, 10, 3), dtype=numpy.uint8)
            write_image(tmp_path / "set" / split / name / f"{number}.png", pixels)
    return tmp_path / "set"


def open_folder(folder: Path, **data) -> Dataset:
    return load_dataset(DataSettings(name=f"imagefolder:{folder}", **data), 0)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a function body that returns (train, test) and return its reference."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])

    def write(body: str) -> str:
        name = f"own_data_{next(_serial)}"
        source = "import torch\nfrom torch.utils.data import TensorDataset, random_split\n\ndef make():\n"
        Path(f"{name}.py").write_text(source + textwrap.indent(textwrap.dedent(body), "    "))
        return f"{name}:make"

    return write


# image folders


def test_an_image_folder_gives_its_pixels_and_classes(folder: Path) -> None:
    dataset = open_folder(folder)
    assert (dataset.classes, dataset.sample_shape, len(dataset.train), len(dataset.test)) == (2, (3, 12, 10), 12, 6)
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6
    expected = numpy.asarray(Image.open(folder / "train" / "dog" / "1.png"))
    for _ in range(2):
        found = dataset.train.images(torch.tensor([0, 7]))[1]
        assert torch.equal(found, torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)
    assert torch.equal(dataset.normalise(found[None]), (found[None] - 0.5) / 0.5)


def test_images_are_the_same_cached_or_decoded_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = torch.arange(12)
    cached = open_folder(folder, image_size=8).train.images(everything)
    monkeypatch.setattr(images, "CACHE_BYTES", 100)
    assert torch.equal(open_folder(folder, image_size=8).train.images(everything), cached)
    assert cached.shape == (12, 3, 8, 8)


def test_images_are_decoded_once_and_only_when_asked_for(folder: Path) -> None:
    dataset = open_folder(folder)
    wanted = torch.tensor([2, 9])
    first = dataset.train.images(wanted)
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"")
    assert torch.equal(dataset.train.images(wanted), first)
    with pytest.raises(DataError, match=r"image .*train/cat/3\.png cannot be decoded"):
        dataset.train.images(torch.tensor([3]))


def test_a_limit_decodes_only_the_images_chosen(folder: Path) -> None:
    whole = open_folder(folder)
    labels = whole.train.labels
    limited = open_folder(folder, train_limit=4)
    assert len(limited.train) == 4
    everything = whole.train.images(torch.arange(12))
    for image, label in zip(limited.train.images(torch.arange(4)), limited.train.labels, strict=True):
        same = (everything == image).flatten(1).all(dim=1).nonzero().flatten()
        assert labels[same].tolist() == [label]


def test_many_threads_may_read_one_folder(folder: Path) -> None:
    expected = open_folder(folder).train.images(torch.arange(12))
    dataset = open_folder(folder)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(dataset.train.images, [torch.arange(12)] * 16):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("damage", [lambda data: data[:60], lambda data: data[:40] + bytes(40) + data[80:], lambda data: b"text"])
def test_a_broken_image_is_named(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "train" / "cat" / "4.png"
    path.write_bytes(damage(path.read_bytes()))
    data = DataSettings(name=f"imagefolder:{folder}")
    broken = ClientData(load_dataset(data, 0), torch.arange(12), data, TrainingSettings(batch_size=12), "client-1")
    with pytest.raises(DataError, match=r"image .*train/cat/4\.png cannot be decoded: \w+"):
        broken.batch(1, 0)


def test_images_of_unlike_size_ask_for_image_size(folder: Path) -> None:
    write_image(folder / "train" / "dog" / "0.png", numpy.zeros((5, 6, 3), dtype=numpy.uint8))
    with pytest.raises(DataError, match=r"dog/0\.png has height and width \(5, 6\), .* \(12, 10\): set data\.image_size"):
        open_folder(folder).train.images(torch.arange(12))
    assert open_folder(folder, image_size=16).train.images(torch.arange(12)).shape == (12, 3, 16, 16)


def test_grey_images_stay_one_channel(tmp_path: Path) -> None:
    pixels = numpy.arange(64, dtype=numpy.uint8).reshape(8, 8)
    for split, name in itertools.product(("train", "test"), "ab"):
        write_image(tmp_path / split / name / "0.png", pixels)
    dataset = open_folder(tmp_path)
    assert dataset.sample_shape == (1, 8, 8)
    assert torch.equal(dataset.train.images(torch.tensor([1]))[0, 0], torch.from_numpy(pixels) / 255)
    write_image(tmp_path / "train" / "b" / "0.png", numpy.zeros((8, 8, 3), dtype=numpy.uint8))
    with pytest.raises(DataError, match=r"b/0\.png is in colour"):
        open_folder(tmp_path).train.images(torch.tensor([1]))


def test_a_grey_image_among_colour_ones_fills_the_channels(folder: Path) -> None:
    write_image(folder / "train" / "dog" / "0.png", numpy.full((12, 10), 51, dtype=numpy.uint8))
    assert torch.equal(open_folder(folder).train.images(torch.tensor([6])), torch.full((1, 3, 12, 10), 0.2))


def test_images_of_16_bits_are_refused(folder: Path) -> None:
    write_image(folder / "train" / "cat" / "0.png", numpy.zeros((12, 10), dtype=numpy.uint16))
    with pytest.raises(DataError, match=r"cat/0\.png has more than 8 bits a channel"):
        open_folder(folder)


def test_the_folders_must_be_there_and_agree(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*absent/train"):
        open_folder(tmp_path / "absent")
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(DataError, match="different class folders: dog, wolf"):
        open_folder(folder)
    shutil.rmtree(folder / "train" / "cat")
    (folder / "train" / "cat").mkdir()
    with pytest.raises(DataError, match="no valid file for the classes cat"):
        open_folder(folder)


# torchvision's data sets


def test_missing_files_name_the_way_out(tmp_path: Path) -> None:
    for name, folder in (("mnist", "MNIST/raw"), ("cifar10", "cifar-10-batches-py"), ("stl10", "stl10_binary")):
        with pytest.raises(DataError, match=rf"set data\.download = true, or put its files into {tmp_path}/{folder}"):
            load_dataset(DataSettings(name=name, root=str(tmp_path)), 0)


def test_damaged_files_name_the_way_out(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (raw / name).write_bytes(b"\x00\x00\x08\x03" + bytes(7))
    with pytest.raises(DataError, match=r"mnist in .*MNIST/raw is incomplete or damaged"):
        load_dataset(DataSettings(name="mnist", root=str(tmp_path)), 0)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"cifar10 in .* is incomplete or damaged"):
        load_dataset(DataSettings(name="cifar10", root=str(tmp_path)), 0)


# a user's own


def test_own_tensors(own: Callable[[str], str]) -> None:
    name = own("return (torch.randn(20, 7), torch.arange(20) % 4), None")
    dataset = load_dataset(DataSettings(name=name), 0)
    assert (dataset.sample_shape, dataset.classes, len(dataset.train), dataset.test) == ((7,), 4, 20, None)
    raw = dataset.train.images(torch.arange(20))
    assert torch.equal(dataset.normalise(raw), raw)
    with pytest.raises(DataError, match="no test split"):
        evaluation_batches(dataset, DataSettings(name=name), 0, 4, whole=True)


def test_own_bytes_are_scaled(own: Callable[[str], str]) -> None:
    name = own("return (torch.full((4, 1, 6, 6), 51, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])), None")
    dataset = load_dataset(DataSettings(name=name, image_size=3), 0)
    torch.testing.assert_close(dataset.train.images(torch.tensor([2])), torch.full((1, 1, 3, 3), 0.2))


def test_own_map_style_data_sets_may_split_and_augment_at_random(own: Callable[[str], str]) -> None:
    body = """
        class Noisy:
            def __init__(self, part): self.part = part
            def __len__(self): return len(self.part)
            def __getitem__(self, index):
                x, y = self.part[index]
                return x + torch.rand(()) / 10, int(y)
        whole = TensorDataset(torch.arange(40.0).view(40, 1), torch.arange(40) % 4)
        return tuple(Noisy(part) for part in random_split(whole, [30, 10]))
    """
    settings = DataSettings(name=own(body), train_limit=20)
    rounds = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        dataset = load_dataset(settings, 0)
        data = ClientData(dataset, torch.arange(20), settings, TrainingSettings(batch_size=8), "client-1")
        rounds.append([whole_round(data, number) for number in (1, 2)])
        assert (len(dataset.train), len(dataset.test)) == (20, 10)
    for (x, y), (other_x, other_y) in zip(*rounds, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
        assert torch.equal(x.floor().flatten().long() % 4, y)
    first, second = (x.frac().sort(dim=0).values for x, _ in rounds[0])
    assert not torch.equal(first, second), "each round draws anew"


def test_labels_are_not_read_one_by_one_where_targets_list_them(own: Callable[[str], str]) -> None:
    body = """
        class Listed:
            targets = [0, 1, 2]
            def __len__(self): return 3
            def __getitem__(self, index):
                if index: raise OSError("read too early")
                return torch.zeros(2), 0
        return Listed(), None
    """
    dataset = load_dataset(DataSettings(name=own(body)), 0)
    assert dataset.train.labels.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"sample 1 of train of .* cannot be read .* OSError: read too early"):
        dataset.train.images(torch.tensor([1]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "returned type int, not a pair"),
        ("return 3, None", "train of .* is of type int: give a data set"),
        ("return (torch.zeros(3, 2), torch.tensor([0, 1])), None", "3 samples, but 2 labels"),
        ("return (torch.zeros(2, 2), torch.tensor([0.0, 1.0])), None", r"labels of train .* torch\.float32"),
        ("return (torch.zeros(2, 2), torch.tensor([0, -1])), None", "one integer from 0"),
        ("return (torch.zeros(2, 2), torch.tensor([[0], [1]])), None", r"shape \(2, 1\)"),
        ("return (torch.zeros(0, 2), torch.tensor([], dtype=torch.int64)), None", "train of .* is empty"),
        ("return (torch.zeros(2, 2, dtype=torch.int64), torch.tensor([0, 1])), None", r"torch\.int64: give float32, or uint8"),
        ("return (torch.full((2, 2), torch.nan), torch.tensor([0, 1])), None", "not finite"),
        ("return (torch.zeros(2, 2), torch.tensor([0, 0])), None", "1 class, there is nothing to tell apart"),
        ("x = torch.tensor([0, 1]); return (torch.zeros(2, 2), x), (torch.zeros(2, 3), x)", r"\(2,\) in train, \(3,\) in test"),
        ("return [('a', 0), ('b', 1)], None", "sample 0 of train of .* is a str, not a tensor"),
    ],
)
def test_own_data_that_cannot_be_used(own: Callable[[str], str], body: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(DataSettings(name=own(body)), 0)


def test_settings_for_images_refuse_other_samples(own: Callable[[str], str]) -> None:
    name = own("return (torch.zeros(2, 7), torch.tensor([0, 1])), None")
    with pytest.raises(DataError, match=r"image_size needs images .* \(7,\)"):
        load_dataset(DataSettings(name=name, image_size=8), 0)
    with pytest.raises(DataError, match=r"crop-flip needs images, .* \(7,\)"):
        load_dataset(DataSettings(name=name, augment="crop-flip"), 0)


def test_own_functions_that_fail_are_named(own: Callable[[str], str]) -> None:
    name = own("raise FileNotFoundError('my.csv')")
    with pytest.raises(SettingsError, match=f"data set '{name}' failed: FileNotFoundError: my.csv"):
        load_dataset(DataSettings(name=name), 0)

import itertools

import pytest
import torch

from learning.augment import crop_flip, resize
from learning.data import ClientData, evaluation_batches, load_dataset
from learning.errors import DataError
from learning.partition import partition
from learning.settings import DataSettings, TrainingSettings


def client(samples: int, batch_size: int = 16, epochs: int = 1, name: str = "client-1", seed: int = 0, **data) -> ClientData:
    settings = DataSettings(**data)
    training = TrainingSettings(batch_size=batch_size, local_epochs=epochs, seed=seed)
    return ClientData(load_dataset(settings, seed), torch.arange(samples), settings, training, name)


def whole_round(data: ClientData, round: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [data.batch(round, sequence) for sequence in range(data.batches_in_round())]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


# digits


def test_digits_are_split_in_the_same_stratified_way_whatever_the_seed() -> None:
    first, second = (load_dataset(DataSettings(), seed) for seed in (0, 1))
    assert (len(first.train), len(first.test), first.classes, first.sample_shape) == (1437, 360, 10, (1, 8, 8))
    assert torch.equal(first.train.labels, second.train.labels)
    counts = torch.bincount(first.test.labels)
    assert counts.min() >= 34
    assert counts.max() <= 37


def test_digits_are_normalised() -> None:
    dataset = load_dataset(DataSettings(), 0)
    raw = dataset.train.images(torch.arange(1437))
    assert raw.dtype == torch.float32
    assert (raw.min(), raw.max()) == (0, 1)
    normal = dataset.normalise(raw)
    assert normal.mean().item() == pytest.approx(0, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)


def test_image_size_resizes() -> None:
    dataset = load_dataset(DataSettings(image_size=32), 0)
    assert dataset.sample_shape == (1, 32, 32)
    small = load_dataset(DataSettings(), 0).train.images(torch.tensor([3]))
    assert torch.equal(dataset.train.images(torch.tensor([3])), resize(small, 32))


def test_train_limit_takes_a_seeded_subset_before_partitioning() -> None:
    whole = load_dataset(DataSettings(), 0).train
    limited = [load_dataset(DataSettings(train_limit=100), seed).train for seed in (0, 0, 1)]
    assert [len(split) for split in limited] == [100] * 3
    taken = [split.images(torch.arange(100)) for split in limited]
    assert torch.equal(taken[0], taken[1])
    assert not torch.equal(taken[0], taken[2])
    known = {(x.numpy().tobytes(), int(y)) for x, y in zip(whole.images(torch.arange(1437)), whole.labels, strict=True)}
    assert {(x.numpy().tobytes(), int(y)) for x, y in zip(taken[0], limited[0].labels, strict=True)} <= known
    assert len(limited[0].labels.unique()) == 10


@pytest.mark.parametrize(("name", "near"), [("cifar-10", "cifar10"), ("MNIST", "mnist"), ("digit", "digits")])
def test_an_unknown_name_gives_the_nearest(name: str, near: str) -> None:
    with pytest.raises(DataError, match=f"unknown data set '{name}': did you mean {near}[?] There are digits, mnist, "):
        load_dataset(DataSettings(name=name), 0)


# batches


@pytest.mark.parametrize(
    ("samples", "epochs", "batches", "dropped"), [(64, 1, 4, 0), (65, 1, 4, 1), (66, 1, 5, 0), (65, 3, 12, 3), (2, 1, 1, 0)]
)
def test_a_last_batch_of_one_is_dropped_and_a_larger_one_kept(samples: int, epochs: int, batches: int, dropped: int) -> None:
    data = client(samples, epochs=epochs)
    assert data.samples == samples
    assert (data.batches_in_round(), data.dropped_in_round()) == (batches, dropped)
    sizes = [len(data.batch(1, sequence)[1]) for sequence in range(batches)]
    assert sum(sizes) == samples * epochs - dropped
    assert min(sizes) >= 2
    with pytest.raises(IndexError):
        data.batch(1, batches)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(DataError, match="client edge-7 has 1 training samples"):
        client(1, name="edge-7")


def test_every_epoch_uses_every_sample_in_a_new_order() -> None:
    data = client(64, epochs=2)
    x, _ = whole_round(data)
    keys = [sample.numpy().tobytes() for sample in x]
    assert keys[:64] != keys[64:]
    assert sorted(keys[:64]) == sorted(keys[64:])
    assert len(set(keys[:64])) == 64


def test_labels_stay_with_their_images() -> None:
    dataset = load_dataset(DataSettings(), 0)
    raw = dataset.normalise(dataset.train.images(torch.arange(64)))
    label_of = {x.numpy().tobytes(): int(y) for x, y in zip(raw, dataset.train.labels[:64], strict=True)}
    x, y = whole_round(client(64))
    assert [label_of[sample.numpy().tobytes()] for sample in x] == y.tolist()
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_a_batch_is_a_function_of_seed_client_round_and_sequence() -> None:
    def bits(data: ClientData, round: int, sequence: int) -> bytes:
        return data.batch(round, sequence)[0].numpy().tobytes()

    data = client(64, augment="crop-flip")
    places = [(number, sequence) for number in (1, 2) for sequence in range(4)]
    forward = [bits(data, *place) for place in places]
    again = client(64, augment="crop-flip")
    torch.manual_seed(77)
    backward = [bits(again, *place) for place in reversed(places)][::-1]
    assert forward == backward
    assert len(set(forward)) == len(places)
    assert bits(client(64, name="client-2", augment="crop-flip"), 1, 0) != forward[0]
    assert bits(client(64, seed=1, augment="crop-flip"), 1, 0) != forward[0]


def test_batches_leave_the_global_generator_alone() -> None:
    data = client(64, augment="crop-flip")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    whole_round(data)
    assert torch.equal(torch.rand(3), expected)


def test_clients_read_only_their_own_part() -> None:
    settings = DataSettings(partition="dirichlet")
    dataset = load_dataset(settings, 0)
    part = partition(dataset.train.labels, 3, settings, 0)[1]
    data = ClientData(dataset, part, settings, TrainingSettings(batch_size=2), "client-2")
    _, labels = whole_round(data)
    if data.dropped_in_round() == 0:
        assert torch.equal(labels.sort().values, dataset.train.labels[part].sort().values)
    else:
        assert len(labels) == len(part) - 1


# augmentation


def test_crop_flip_moves_each_image_on_its_own_within_its_margin() -> None:
    image = torch.arange(1.0, 1 + 3 * 16 * 16).view(1, 3, 16, 16)
    batch = image.expand(200, -1, -1, -1)
    augmented = crop_flip(batch, torch.Generator().manual_seed(0))
    assert augmented.shape == batch.shape
    padded = torch.nn.functional.pad(image[0], (2, 2, 2, 2))
    possible = {}
    for top, left, flip in itertools.product(range(5), range(5), (False, True)):
        crop = padded[:, top : top + 16, left : left + 16]
        possible[(crop.flip(-1) if flip else crop).contiguous().numpy().tobytes()] = (top, left, flip)
    drawn = [possible[sample.numpy().tobytes()] for sample in augmented]
    assert len(set(drawn)) > 40, "nearly all of the 50 outcomes come up in 200 images"
    assert 70 < sum(flip for _, _, flip in drawn) < 130


def test_augmentation_follows_the_setting_and_spares_evaluation() -> None:
    plain, augmented = client(16), client(16, augment="crop-flip")
    assert not torch.equal(plain.batch(1, 0)[0], augmented.batch(1, 0)[0])
    assert torch.equal(plain.batch(1, 0)[1], augmented.batch(1, 0)[1])
    dataset = load_dataset(DataSettings(), 0)
    evaluated = [next(evaluation_batches(dataset, DataSettings(augment=a), 0, 32, whole=True))[0] for a in ("none", "crop-flip")]
    assert torch.equal(*evaluated)


# evaluation


def test_the_whole_test_split_is_evaluated_in_order() -> None:
    dataset = load_dataset(DataSettings(test_limit=50), 0)
    batches = list(evaluation_batches(dataset, DataSettings(test_limit=50), 0, 100, whole=True))
    assert [len(y) for _, y in batches] == [100, 100, 100, 60]
    assert torch.equal(torch.cat([y for _, y in batches]), dataset.test.labels)
    assert torch.equal(torch.cat([x for x, _ in batches]), dataset.normalise(dataset.test.images(torch.arange(360))))


def test_mid_run_evaluation_uses_the_same_subset_each_time() -> None:
    settings = DataSettings(test_limit=50)
    dataset = load_dataset(settings, 0)

    def images_of(seed: int) -> torch.Tensor:
        return torch.cat([x for x, _ in evaluation_batches(dataset, settings, seed, 16, whole=False)])

    assert len(images_of(0)) == 50
    assert torch.equal(images_of(0), images_of(0))
    assert not torch.equal(images_of(0), images_of(1))

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning.errors import DataError
from learning.partition import partition
from learning.settings import DataSettings

IID = DataSettings(partition="iid")


def balanced(classes: int, each: int) -> torch.Tensor:
    return torch.arange(classes).repeat(each)


def dirichlet(alpha: float) -> DataSettings:
    return DataSettings(partition="dirichlet", alpha=alpha)


def shards(classes: int) -> DataSettings:
    return DataSettings(partition="shards", classes_per_client=classes)


def lists(parts: list[torch.Tensor]) -> list[list[int]]:
    return [part.tolist() for part in parts]


@given(samples=st.integers(2, 200), parts=st.integers(1, 30), seed=st.integers(0, 2**40))
def test_iid_uses_every_sample_once_in_parts_of_like_size(samples: int, parts: int, seed: int) -> None:
    labels = torch.zeros(samples, dtype=torch.int64)
    if samples < 2 * parts:
        with pytest.raises(DataError, match=r"fewer clients or a larger data\.train_limit"):
            partition(labels, parts, IID, seed)
        return
    divided = lists(partition(labels, parts, IID, seed))
    assert len(divided) == parts
    assert sorted(index for part in divided for index in part) == list(range(samples))
    assert max(map(len, divided)) - min(map(len, divided)) <= 1


@pytest.mark.parametrize("data", [IID, dirichlet(0.5), shards(2)])
def test_a_partition_is_a_function_of_the_seed(data: DataSettings) -> None:
    labels = balanced(10, 40)
    assert lists(partition(labels, 5, data, 3)) == lists(partition(labels, 5, data, 3))
    assert lists(partition(labels, 5, data, 3)) != lists(partition(labels, 5, data, 4))


@given(alpha=st.floats(0.1, 100), seed=st.integers(0, 1000))
def test_dirichlet_uses_every_sample_once(alpha: float, seed: int) -> None:
    divided = lists(partition(balanced(10, 60), 4, dirichlet(alpha), seed))
    assert sorted(index for part in divided for index in part) == list(range(600))
    assert min(map(len, divided)) >= 2


def test_a_small_alpha_is_uneven_and_a_large_one_even() -> None:
    labels = balanced(10, 200)

    def spread(alpha: float) -> float:
        counts = [torch.bincount(labels[part], minlength=10).float() for part in partition(labels, 5, dirichlet(alpha), 0)]
        return torch.stack(counts).std(dim=0).mean().item()

    assert spread(0.1) > 40 > 10 > spread(1000)


def test_a_hopeless_dirichlet_names_the_way_out() -> None:
    with pytest.raises(DataError, match=r"alpha = 0\.001 .* 10 clients .* raise data\.alpha, use fewer clients"):
        partition(balanced(2, 20), 10, dirichlet(0.001), 0)


@given(parts=st.integers(1, 12), per_client=st.integers(1, 10), seed=st.integers(0, 1000))
def test_shards_hold_their_number_of_classes_evenly(parts: int, per_client: int, seed: int) -> None:
    labels = balanced(10, 50)
    divided = partition(labels, parts, shards(per_client), seed)
    held = [set(labels[part].tolist()) for part in divided]
    assert [len(classes) for classes in held] == [per_client] * parts
    used = [index for part in lists(divided) for index in part]
    assert len(used) == len(set(used)) == 50 * len(set.union(*held))
    holders = [sum(label in classes for classes in held) for label in range(10)]
    assert max(holders) - min(holders) <= 1


def test_shards_of_more_classes_than_there_are() -> None:
    with pytest.raises(DataError, match="classes_per_client = 4, but there are 3 classes"):
        partition(balanced(3, 10), 2, shards(4), 0)


def test_shards_too_small_name_the_client() -> None:
    labels = torch.tensor([0] * 50 + [1])
    with pytest.raises(DataError, match=r"gives client \d of 2 only 1 samples"):
        partition(labels, 2, shards(1), 0)


def test_no_clients() -> None:
    with pytest.raises(DataError, match="over 0 clients"):
        partition(balanced(2, 10), 0, IID, 0)

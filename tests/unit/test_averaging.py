"""Cross-layer averaging: who is in the mean of a layer, with which weight, and its arithmetic."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning.averaging import Trained, layer_weight, weighted_mean
from learning.tensors import State

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
weights = st.integers(1, 10**6)
trained = st.lists(st.builds(Trained, cut=st.integers(1, 9), samples=st.integers(0, 1000)), max_size=6)


def state(values: list[float], batches: int = 0) -> State:
    return {"weight": torch.tensor(values), "running_mean": torch.tensor(values), "num_batches_tracked": torch.tensor(batches)}


@given(values=st.lists(floats, min_size=1, max_size=8), weight=weights, batches=st.integers(0, 10**6))
def test_the_mean_of_one_is_itself_bit_for_bit(values: list[float], weight: int, batches: int) -> None:
    one = state(values, batches)
    mean = weighted_mean([(one, weight)])
    for name, tensor in one.items():
        assert mean[name].dtype == tensor.dtype
        assert mean[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@given(st.lists(st.tuples(floats, weights), min_size=1, max_size=6))
def test_it_is_taken_in_float64_in_the_order_given_and_cast_back(pairs: list[tuple[float, int]]) -> None:
    total, weight = 0.0, 0
    for value, share in pairs:
        total, weight = total + value * share, weight + share
    mean = weighted_mean([(state([value]), share) for value, share in pairs])
    assert mean["weight"].item() == torch.tensor(total / weight, dtype=torch.float32).item()
    assert mean["weight"].dtype == torch.float32


def test_float32_would_lose_a_replica() -> None:
    mean = weighted_mean([(state([value]), 1) for value in (1e8, 1.0, -1e8)])
    assert mean["weight"].item() == pytest.approx(1 / 3)


@given(st.lists(st.tuples(st.integers(0, 10**9), weights), min_size=1, max_size=6))
def test_counters_take_their_maximum_whatever_the_weights(pairs: list[tuple[int, int]]) -> None:
    mean = weighted_mean([(state([0.0], batches), weight) for batches, weight in pairs])
    assert mean["num_batches_tracked"].item() == max(batches for batches, _ in pairs)
    assert mean["num_batches_tracked"].dtype == torch.int64


@given(st.lists(st.tuples(floats, weights), min_size=1, max_size=6))
def test_a_replica_of_weight_w_counts_as_w_replicas(pairs: list[tuple[float, int]]) -> None:
    small = [(value, weight % 4 + 1) for value, weight in pairs]
    once = weighted_mean([(state([value]), weight) for value, weight in small])
    repeated = weighted_mean([(state([value]), 1) for value, weight in small for _ in range(weight)])
    bound = max(abs(value) for value, _ in small)
    assert abs(once["weight"].item() - repeated["weight"].item()) <= 1e-6 * bound


def test_states_are_left_as_they_are_and_asked_for_one_at_a_time() -> None:
    states = [state([1.0], 3), state([2.0], 5)]
    given_out = []

    def lazily() -> Iterator[tuple[State, int]]:
        for number, one in enumerate(states):
            given_out.append(number)
            yield one, 1

    mean = weighted_mean(lazily())
    assert mean["weight"].item() == 1.5
    assert given_out == [0, 1]
    assert [one["weight"].item() for one in states] == [1.0, 2.0]
    mean["num_batches_tracked"] += 1
    assert [int(one["num_batches_tracked"]) for one in states] == [3, 5], "the mean shares memory with a replica"


@given(trained, st.integers(1, 10))
def test_only_clients_cut_below_a_layer_are_in_its_mean(clients: list[Trained], layer: int) -> None:
    through = [client for client in clients if client.cut < layer and client.samples]
    assert layer_weight(layer, clients, "uniform") == len(through)
    assert layer_weight(layer, clients, "samples") == sum(client.samples for client in through)


@given(trained)
def test_deeper_layers_are_shared_by_more(clients: list[Trained]) -> None:
    for weighting in ("uniform", "samples"):
        by_layer = [layer_weight(layer, clients, weighting) for layer in range(1, 11)]
        assert by_layer == sorted(by_layer)
        assert by_layer[0] == 0, "layer 1 is never the servers'"


def test_a_client_that_sent_nothing_does_not_dilute_the_mean() -> None:
    assert layer_weight(5, [Trained(cut=3, samples=0)], "uniform") == 0

"""Tensors as bytes: what comes back, what is refused, and the fingerprint of a run."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from broker.messages import wire_bytes
from learning.errors import TensorError
from learning.tensors import WIRE_DTYPES, fingerprint, from_bytes, load_into, notes_of, pack, to_bytes, unpack

LARGEST = torch.finfo(torch.float16).max
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
shapes = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)


@given(shapes, st.data())
def test_float32_and_int64_come_back_as_they_were(shape: tuple[int, ...], data: st.DataObject) -> None:
    size = int(np.prod(shape))
    for dtype, values in (("float32", floats), ("int64", st.integers(-(2**63), 2**63 - 1))):
        tensor = torch.tensor(data.draw(st.lists(values, min_size=size, max_size=size)), dtype=WIRE_DTYPES[dtype]).reshape(shape)
        sent, clamped = to_bytes(tensor, dtype)
        back = from_bytes(sent, dtype, shape)
        assert (back.dtype, tuple(back.shape), clamped) == (tensor.dtype, shape, 0)
        assert back.numpy().tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(values=st.lists(st.floats(-60_000, 60_000, width=32), min_size=1, max_size=8))
def test_half_precision_comes_back_as_float32(dtype: str, values: list[float]) -> None:
    tensor = torch.tensor(values)
    sent, clamped = to_bytes(tensor, dtype)
    back = from_bytes(sent, dtype, (len(values),))
    assert (back.dtype, clamped, len(sent)) == (torch.float32, 0, 2 * len(values))
    assert torch.equal(back, tensor.to(WIRE_DTYPES[dtype]).float())


@given(st.lists(floats, min_size=1, max_size=16))
def test_overflow_of_float16_is_clamped_and_counted(values: list[float]) -> None:
    tensor = torch.tensor(values)
    sent, clamped = to_bytes(tensor, "float16")
    assert clamped == sum(abs(value) > LARGEST for value in values)
    assert torch.equal(from_bytes(sent, "float16", (len(values),)), tensor.clamp(-LARGEST, LARGEST).half().float())
    assert torch.equal(tensor, torch.tensor(values)), "the caller's tensor was changed"


def test_infinity_is_clamped_too_but_a_value_that_is_no_number_is_left_for_the_receiver_to_refuse() -> None:
    sent, clamped = to_bytes(torch.tensor([torch.inf, -torch.inf, 1.0]), "float16")
    assert (from_bytes(sent, "float16", (3,)).tolist(), clamped) == ([LARGEST, -LARGEST, 1.0], 2)
    sent, _ = to_bytes(torch.tensor([torch.nan, 1e6]), "float16")
    with pytest.raises(TensorError, match="not finite"):
        from_bytes(sent, "float16", (2,))


feature_maps = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))


@given(feature_maps, st.data())
def test_uint8_is_at_most_half_a_step_of_its_channel_away(shape: tuple[int, ...], data: st.DataObject) -> None:
    size = int(np.prod(shape))
    values = st.floats(-1e6, 1e6, width=32)
    tensor = torch.tensor(data.draw(st.lists(values, min_size=size, max_size=size))).reshape(shape)
    sent, clamped = to_bytes(tensor, "uint8")
    assert (len(sent), clamped) == (wire_bytes("uint8", shape), 0)
    assert len(sent) == size + 8 * shape[1]
    back = from_bytes(sent, "uint8", shape)
    steps = (tensor.amax((0, 2, 3), keepdim=True) - tensor.amin((0, 2, 3), keepdim=True)) / 255
    assert back.dtype == torch.float32
    assert bool(((back - tensor).abs() <= steps / 2 + tensor.abs() * 1e-6).all())


def test_each_channel_of_uint8_has_a_scale_of_its_own() -> None:
    maps = torch.stack([torch.linspace(0, 1, 6), torch.linspace(-500, 500, 6), torch.full((6,), 7.0)]).reshape(1, 3, 2, 3)
    back = from_bytes(to_bytes(maps, "uint8")[0], "uint8", (1, 3, 2, 3))
    assert bool(((back - maps).abs().amax((0, 2, 3)) <= torch.tensor([1 / 510, 1000 / 510, 0])).all())
    tokens = torch.tensor([[[0.0, 100.0], [1.0, 300.0]]])
    assert torch.equal(from_bytes(to_bytes(tokens, "uint8")[0], "uint8", (1, 2, 2)), tokens), "tokens are scaled by dimension"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused_in_uint8_too(value: float) -> None:
    sent, _ = to_bytes(torch.tensor([[1.0, value], [2.0, 0.0]]), "uint8")
    with pytest.raises(TensorError, match="not finite"):
        from_bytes(sent, "uint8", (2, 2))


def test_any_layout_travels_in_row_major_order() -> None:
    tensor = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    for same in (tensor.to(memory_format=torch.channels_last), tensor.transpose(1, 2).contiguous().transpose(1, 2)):
        for dtype in ("float32", "uint8"):
            assert to_bytes(same, dtype) == to_bytes(tensor, dtype)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_that_are_not_finite_are_refused(dtype: str, value: float) -> None:
    sent, _ = to_bytes(torch.tensor([1.0, value]), dtype)
    with pytest.raises(TensorError, match="not finite"):
        from_bytes(sent, dtype, (2,))


@given(st.binary(max_size=64), shapes, st.sampled_from(sorted(WIRE_DTYPES)))
def test_bytes_that_do_not_fit_their_shape_are_refused(data: bytes, shape: tuple[int, ...], dtype: str) -> None:
    if len(data) == wire_bytes(dtype, shape):
        return
    with pytest.raises(TensorError, match="cannot have"):
        from_bytes(data, dtype, shape)


def test_the_tensor_owns_its_memory() -> None:
    data = np.ones(4, dtype=np.float32).tobytes()
    from_bytes(data, "float32", (4,)).zero_()
    assert data == np.ones(4, dtype=np.float32).tobytes()


class TestPacked:
    STATE: ClassVar = {"b.weight": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}

    def test_comes_back_with_its_notes(self) -> None:
        data = pack(self.STATE, {"round": 3, "name": "x"})
        back = unpack(data)
        assert back.keys() == self.STATE.keys()
        assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in self.STATE.items())
        assert notes_of(data) == {"round": 3, "name": "x"}
        assert notes_of(pack(self.STATE)) == {}

    def test_equal_states_are_equal_bytes(self) -> None:
        assert pack(self.STATE, {"x": 1, "y": 2}) == pack(dict(reversed(self.STATE.items())), {"y": 2, "x": 1})

    @given(st.binary(max_size=200))
    def test_any_other_bytes_are_refused(self, data: bytes) -> None:
        for read in (unpack, notes_of):
            with pytest.raises(TensorError):
                read(data)

    @given(st.integers(0, 10_000))
    def test_what_was_cut_short_is_refused(self, cut: int) -> None:
        data = pack(self.STATE)
        with pytest.raises(TensorError):
            unpack(data[: cut % len(data)])


class TestLoading:
    def test_gives_a_module_its_state(self) -> None:
        module, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        other(torch.randn(4, 3))
        load_into(module, other.state_dict(), "it")
        assert fingerprint([("", module.state_dict())]) == fingerprint([("", other.state_dict())])

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"weight": None}, "missing or not asked for: weight"),
            ({"odd": torch.zeros(1)}, "missing or not asked for: odd"),
            ({"weight": torch.zeros(4)}, r"weight is torch.float32 \(4,\), expected torch.float32 \(3,\)"),
            ({"weight": torch.zeros(3).double()}, "weight is torch.float64"),
            ({"running_var": torch.tensor([1.0, torch.inf, 1.0])}, "running_var has a value that is not finite"),
        ],
    )
    def test_refuses_what_does_not_fit_and_changes_nothing(self, change: dict[str, torch.Tensor | None], reason: str) -> None:
        module = nn.BatchNorm1d(3)
        before = fingerprint([("", module.state_dict())])
        given_state = {**{name: tensor + 1 for name, tensor in module.state_dict().items()}, **change}
        state = {name: tensor for name, tensor in given_state.items() if tensor is not None}
        with pytest.raises(TensorError, match=f"the layer: .*{reason}"):
            load_into(module, state, "the layer")
        assert fingerprint([("", module.state_dict())]) == before


class TestFingerprint:
    STATE: ClassVar = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(2)}

    def test_does_not_depend_on_order_of_names_or_layout(self) -> None:
        same = {"n": torch.tensor(2), "w": torch.arange(6.0).reshape(2, 3).t().contiguous().t()}
        assert fingerprint([("a", self.STATE)]) == fingerprint([("a", same)])

    @pytest.mark.parametrize(
        "states",
        [
            [("b", STATE)],
            [("a", {**STATE, "w": STATE["w"] + 1e-7})],
            [("a", {**STATE, "w": STATE["w"].double()})],
            [("a", {**STATE, "w": STATE["w"].reshape(3, 2)})],
            [("a", {"v": STATE["w"], "n": STATE["n"]})],
            [("a", STATE), ("b", STATE)],
            [],
        ],
    )
    def test_depends_on_everything_else(self, states: list[tuple[str, dict[str, torch.Tensor]]]) -> None:
        assert fingerprint(states) != fingerprint([("a", self.STATE)])

    def test_tells_zero_from_minus_zero(self) -> None:
        zeros = [fingerprint([("a", {"w": torch.tensor([value])})]) for value in (0.0, -0.0)]
        assert zeros[0] != zeros[1]

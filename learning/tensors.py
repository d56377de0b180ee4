"""Tensors as bytes: raw for messages, safetensors for what is kept. Everything read is checked before use."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import safetensors
import safetensors.torch
import torch

from learning.errors import NonFiniteError, TensorError

WIRE_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "uint8": torch.uint8,
    "int64": torch.int64,
}

State = dict[str, torch.Tensor]


def to_bytes(tensor: torch.Tensor, dtype: str) -> tuple[bytes, int]:
    """Return a tensor's values as raw bytes of a wire dtype, and how many were clamped to its range.

    Overflow of float16 would travel as infinity and be refused by the receiver; the nearest finite value is the lesser harm.
    """
    kind = WIRE_DTYPES[dtype]
    tensor = tensor.detach().cpu()
    clamped = 0
    if kind == torch.uint8:
        return _quantised(tensor.float()), clamped
    if kind == torch.float16:
        bound = torch.finfo(kind).max
        if not _within(tensor, bound):
            clamped = int((tensor.abs() > bound).sum())
            tensor = tensor.clamp(-bound, bound)
    return _raw(tensor.to(kind)), clamped


def from_bytes(data: bytes, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor in raw bytes: int64 as it is, others as float32.

    Raises TensorError if the size does not fit the shape or a value is not finite.
    """
    kind = WIRE_DTYPES[dtype]
    scales = 2 * 4 * math.prod(_scale_shape(shape)) if kind == torch.uint8 else 0
    if len(data) != math.prod(shape) * kind.itemsize + scales:
        raise TensorError(f"{dtype} tensor of shape {shape} cannot have {len(data)} bytes")
    raw = torch.empty(len(data), dtype=torch.uint8)
    raw.numpy()[:] = np.frombuffer(data, dtype=np.uint8)
    try:
        tensor = raw[scales:].view(kind).reshape(shape)
    except (RuntimeError, OverflowError):  # of no elements, and strides beyond 64 bits
        raise TensorError(f"no tensor can have the shape {shape}") from None
    if kind == torch.int64:
        return tensor
    tensor = tensor.float()
    if kind == torch.uint8:
        low, step = raw[:scales].view(torch.float32).reshape(2, *_scale_shape(shape))
        tensor = torch.addcmul(low, tensor, step)
    if not _within(tensor, torch.finfo(tensor.dtype).max):
        raise NonFiniteError("a value is not finite")
    return tensor


def _quantised(tensor: torch.Tensor) -> bytes:
    """Return float32 values as 256 steps over the range of their channel, behind the channels' lowest values and steps.

    Half a step, 1/510 of a channel's range, is the largest error. A value that is not finite makes its channel's scale so, which
    the receiver refuses.
    """
    kept = _scale_shape(tuple(tensor.shape))
    others = [axis for axis, size in enumerate(kept) if size != tensor.shape[axis] or tensor.shape[axis] == 1]
    low, high = tensor.amin(others, keepdim=True), tensor.amax(others, keepdim=True)
    step = (high - low) / 255
    values = ((tensor - low) / step.where(step > 0, 1)).round_().nan_to_num_().clamp_(0, 255)
    return _raw(torch.stack([low, step])) + _raw(values.to(torch.uint8))


def _scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the scales of a uint8 tensor: one for each channel, dimension 1 of images, else the last."""
    axis = None if len(shape) < 2 else 1 if len(shape) > 3 else len(shape) - 1
    return tuple(size if number == axis else 1 for number, size in enumerate(shape))


def _within(tensor: torch.Tensor, bound: float) -> bool:
    """Return whether all values are numbers of at most this magnitude; one pass, which counts at megabytes a batch."""
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return -bound <= low.item() and high.item() <= bound  # false for NaN, which aminmax hands on


def pack(state: Mapping[str, torch.Tensor], notes: Mapping[str, object] | None = None) -> bytes:
    """Return named tensors as safetensors, with optional JSON notes in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
    return safetensors.torch.save(tensors, {"notes": json.dumps(notes, sort_keys=True)} if notes is not None else None)


def unpack(data: bytes) -> State:
    """Return the named tensors of safetensors bytes; raise TensorError if they are anything else."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise TensorError(f"not safetensors: {error!s:.200}") from None


def notes_of(data: bytes) -> dict[str, object]:
    """Return the JSON notes in the header of safetensors bytes; empty if there are none."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        notes = json.loads(header.get("__metadata__", {}).get("notes", "{}"))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise TensorError(f"not safetensors: {error!s:.200}") from None
    if not isinstance(notes, dict):
        raise TensorError("notes in the header are not a map")
    return notes


def load_into(module: torch.nn.Module, state: State, what: str) -> None:
    """Give a module its state; raise TensorError if names, shapes or values do not fit."""
    with naming(what):
        check_state(state, module.state_dict())
    module.load_state_dict(state)


def check_state(state: State, expected: State) -> None:
    """Raise TensorError unless a state has the names, shapes and dtypes of another, and finite values."""
    if expected.keys() != state.keys():
        odd = sorted(expected.keys() ^ state.keys())
        raise TensorError(f"tensors missing or not asked for: {', '.join(map(shown, odd[:5]))}")
    for name, tensor in state.items():
        own = expected[name]
        if tensor.shape != own.shape or tensor.dtype != own.dtype:
            found = f"{tensor.dtype} {tuple(tensor.shape[:8])}"
            raise TensorError(f"{name} is {found}, expected {own.dtype} {tuple(own.shape)}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{name} has a value that is not finite")


def shown(name: str) -> str:
    """Return a tensor's name from outside, short and without control characters."""
    return name[:60] if name[:60].isprintable() else ascii(name[:60])


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Let a TensorError say what it is about."""
    try:
        yield
    except TensorError as error:
        raise type(error)(f"{what}: {error}") from None


def fingerprint(states: Iterable[tuple[str, State]]) -> str:
    """Return the SHA-256 over named states in the order given, tensors within a state by name."""
    digest = hashlib.sha256()
    for label, state in states:
        for name in sorted(state):
            tensor = state[name]
            digest.update(f"{label}/{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
            digest.update(_raw(tensor))
    return digest.hexdigest()


def _raw(tensor: torch.Tensor) -> bytes:
    """Return a tensor's values as bytes, in order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

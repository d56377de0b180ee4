"""Features and labels as messages carry them."""

import hashlib

import torch

from broker.messages import WireDtype, WireTensor
from learning.tensors import from_bytes, to_bytes

FIRST_DIGEST = bytes(32)


def to_wire(tensor: torch.Tensor, dtype: WireDtype) -> tuple[WireTensor, int]:
    """Return a tensor in a wire dtype and how many values were clamped to its range."""
    data, clamped = to_bytes(tensor, dtype)
    return WireTensor.model_construct(dtype=dtype, shape=tuple(tensor.shape), data=data), clamped


def from_wire(wire: WireTensor) -> torch.Tensor:
    """Return the tensor of a message, floating dtypes as float32; raise TensorError if a value is not finite."""
    return from_bytes(wire.data, wire.dtype, wire.shape)


def next_digest(digest: bytes, features: WireTensor, labels: WireTensor) -> bytes:
    """Return the running SHA-256 of a client's round after one more batch."""
    step = hashlib.sha256(digest)
    step.update(features.data)
    step.update(labels.data)
    return step.digest()

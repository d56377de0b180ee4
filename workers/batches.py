"""Checks of what arrives at a server worker, before anything is computed with it."""

from functools import lru_cache

import torch

from broker.messages import Activations, EndOfRound, WireTensor
from learning.errors import TensorError
from learning.halves import client_modules
from learning.layers import Network
from learning.settings import TrainingSettings
from learning.tensors import load_into, unpack
from workers.features import from_wire
from workers.run_settings import ENVELOPE_BYTES, Bounds, RunSettings


def bounds(settings: RunSettings, network: Network, cut: int, round: int, lanes: int = 1) -> Bounds:
    """Return what an intake holds of a client with a cut in a round, one of so many at once."""
    marker = half_bytes(network, cut) if settings.training.carries_half(round) else 0
    return Bounds(
        prefetch=settings.prefetch(network, lanes, marker),
        limit=settings.transport.message_limit,
        frame=settings.frame_bytes(network),
        batch=settings.framed(settings.largest_message(network)),
        marker=settings.framed(marker) if marker else 0,
    )


def check_features(features: WireTensor, cut: int, network: Network) -> None:
    """Raise TensorError unless features are floats of the shape of a batch of what leaves layer ``cut``."""
    expected = network.feature_shape(cut)
    if features.shape[1:] != expected or not features.shape or features.shape[0] < 1:
        raise TensorError(f"features have shape {features.shape}, expected (batch, {', '.join(map(str, expected))}) at cut {cut}")
    if features.dtype == "int64":
        raise TensorError("features are int64, expected floats")


def check_size(size: int, cut: int, network: Network, settings: RunSettings) -> None:
    """Raise TensorError if a message has more bytes than a batch at a cut, or than a marker with the client's half, can have."""
    if size > settings.batch_bytes(network, cut) and size > half_bytes(network, cut):
        raise TensorError(f"{size} bytes, more than a batch or a client's half has at cut {cut}")


def check_activations(
    message: Activations, cut: int, network: Network, training: TrainingSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (batch, ...) as float32 and labels (batch,); raise TensorError if they cannot be trained on."""
    if message.cut != cut:
        raise TensorError(f"cut {message.cut}, but this client's cut is {cut}")
    check_features(message.features, cut, network)
    if message.labels.dtype != "int64":
        raise TensorError(f"labels are {message.labels.dtype}, expected int64")
    samples = message.features.shape[0]
    if message.labels.shape != (samples,) or not 2 <= samples <= training.batch_size:
        raise TensorError(f"labels of shape {message.labels.shape} for {samples} samples; a batch has 2 to {training.batch_size}")
    features, labels = from_wire(message.features), from_wire(message.labels)
    if int(labels.min()) < 0 or int(labels.max()) >= network.classes:
        raise TensorError(f"labels from {int(labels.min())} to {int(labels.max())}, there are {network.classes} classes")
    return features, labels


def check_marker(message: EndOfRound, sequence: int, cut: int, network: Network, training: TrainingSettings) -> None:
    """Raise TensorError if a marker says more than so many batches before it allow, or its half is not the client's layers."""
    most = sequence * training.batch_size
    if message.samples > most or message.dropped_samples > training.local_epochs:
        said = f"{message.samples} samples and {message.dropped_samples} dropped"
        raise TensorError(f"{said}, of {sequence} batches of at most {training.batch_size}")
    if message.half is not None:
        check_half(message.half, network, cut)


def check_half(data: bytes, network: Network, cut: int) -> None:
    """Raise TensorError unless bytes are a client's layers 1..cut and exit, all values finite."""
    load_into(client_modules(network, cut), unpack(data), "client half")


@lru_cache(maxsize=100)  # it builds the layers
def half_bytes(network: Network, cut: int) -> int:
    """Return the bytes that a message with a client's half has, at most."""
    return sum(tensor.nbytes + ENVELOPE_BYTES for tensor in client_modules(network, cut).state_dict().values())

"""Checks of what arrives at a server worker, before anything is computed with it."""

import torch

from broker.messages import Activations
from learning.errors import TensorError
from learning.layers import Network
from learning.settings import TrainingSettings
from learning.tensors import load_into, unpack
from workers.features import from_wire


def check_features(features: torch.Tensor, cut: int, network: Network) -> None:
    """Raise TensorError unless features are a batch of what leaves layer ``cut``."""
    expected = network.feature_shape(cut)
    if features.ndim == 0 or tuple(features.shape[1:]) != expected:
        raise TensorError(
            f"features have shape {tuple(features.shape)}, expected (batch, {', '.join(map(str, expected))}) at cut {cut}"
        )


def check_activations(
    message: Activations, cut: int, network: Network, training: TrainingSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (batch, ...) as float32 and labels (batch,); raise TensorError if they cannot be trained on."""
    if message.cut != cut:
        raise TensorError(f"cut {message.cut}, but this client's cut is {cut}")
    if message.labels.dtype != "int64" or message.features.dtype == "int64":
        raise TensorError(f"features are {message.features.dtype}, labels {message.labels.dtype}")
    features, labels = from_wire(message.features), from_wire(message.labels)
    check_features(features, cut, network)
    if labels.shape != features.shape[:1] or not 2 <= len(labels) <= training.batch_size:
        raise TensorError(f"{tuple(labels.shape)} labels for {len(features)} samples; a batch has 2 to {training.batch_size}")
    if int(labels.min()) < 0 or int(labels.max()) >= network.classes:
        raise TensorError(f"labels from {int(labels.min())} to {int(labels.max())}, there are {network.classes} classes")
    return features, labels


def check_half(data: bytes, network: Network, cut: int) -> None:
    """Raise TensorError unless bytes are a client's layers 1..cut and exit, all values finite."""
    modules = torch.nn.ModuleDict({f"layer{number}": network.build_layer(number) for number in range(1, cut + 1)})
    modules["exit"] = network.build_exit(cut)
    load_into(modules, unpack(data), "client half")

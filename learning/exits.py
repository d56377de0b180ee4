"""Early exits: the small head that classifies the features at a client's cut."""

from collections.abc import Callable

import torch
from torch import nn

from learning.errors import ModelError
from learning.imports import call, load

ExitFactory = Callable[[tuple[int, ...], int], nn.Module]
"""(shape of one sample's features, classes) -> a module from (batch, ...) features to (batch, classes) logits."""


class MeanOverTokens(nn.Module):
    """Average a sequence's tokens: (batch, tokens, dimension) to (batch, dimension)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mean over dimension 1."""
        return features.mean(dim=1)


def automatic_exit(feature_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the exit that suits the features' shape, given without the batch dimension.

    Feature maps (channels, height, width) are pooled, tokens (tokens, dimension) averaged, vectors taken as they are; a
    linear layer follows. Raises ModelError for any other shape.
    """
    match feature_shape:
        case (channels, _, _):
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
        case (_, dimension):
            return nn.Sequential(MeanOverTokens(), nn.Linear(dimension, classes))
        case (dimension,):
            return nn.Sequential(nn.Linear(dimension, classes))
    raise ModelError(f"no automatic exit for features of shape {feature_shape}: set model.exit = module:function")


def exit_factory(setting: str) -> ExitFactory:
    """Return the factory that ``model.exit`` names: ``auto``, or a user's ``module:function``.

    Raises SettingsError if that cannot be loaded.
    """
    if setting == "auto":
        return automatic_exit
    function = load(setting, "exit")

    def build(feature_shape: tuple[int, ...], classes: int) -> nn.Module:
        module = call(function, setting, "exit", feature_shape, classes)
        if not isinstance(module, nn.Module):
            raise ModelError(f"exit {setting!r} returned a {type(module).__name__}, not an nn.Module")
        return module

    return build

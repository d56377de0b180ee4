"""Optimizers, their schedules as functions of the round, and their state as named tensors."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from learning.errors import NonFiniteError, TensorError
from learning.settings import OptimizerSettings
from learning.tensors import State, shown

_KEYS = {"Adam": {"step", "exp_avg", "exp_avg_sq"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}}


def learning_rate(settings: OptimizerSettings, round: int, rounds: int) -> float:
    """Return the learning rate of a round in 1..rounds."""
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * (round - 1) / rounds))
    if settings.schedule == "step":
        return settings.lr * settings.step_factor ** ((round - 1) // settings.step_rounds)
    return settings.lr


def make_optimizer(settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name.

    The fused kernels step all parameters in one call: with small layers most of a step is otherwise Python.
    """
    parameters = list(parameters)
    common = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum, **common)  # type: ignore[arg-type]
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(parameters, **common)  # type: ignore[arg-type]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer, names: dict[str, nn.Parameter]) -> State:
    """Return the state as tensors named "<parameter>/<key>"; parameters that never had a gradient have none."""
    return {
        f"{name}/{key}": value
        for name, parameter in names.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, names: dict[str, nn.Parameter], state: State) -> None:
    """Replace the state by named tensors; raise TensorError if one does not fit its parameter."""
    optimizer.state.clear()
    found: dict[str, set[str]] = {}
    for label, value in state.items():
        name, _, key = label.rpartition("/")
        parameter = names.get(name)
        if parameter is None:
            raise TensorError(f"optimizer state for {shown(name)!r}, which is no parameter here")
        expected = torch.Size() if key == "step" else parameter.shape
        if value.shape != expected:
            raise TensorError(f"optimizer state {shown(label)} has shape {tuple(value.shape[:8])}, expected {tuple(expected)}")
        if value.dtype not in (torch.float32, parameter.dtype):
            raise TensorError(f"optimizer state {shown(label)} is {value.dtype}, its parameter {parameter.dtype}")
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"optimizer state {shown(label)} has a value that is not finite")
        found.setdefault(name, set()).add(key)
        optimizer.state[parameter][key] = value.to(parameter.device).clone()
    wanted = _KEYS[type(optimizer).__name__]
    for name, keys in found.items():
        if keys != wanted:
            raise TensorError(
                f"optimizer state of {name} has {', '.join(map(shown, sorted(keys)))}; expected {', '.join(sorted(wanted))}"
            )

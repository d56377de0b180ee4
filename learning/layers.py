"""A network as an ordered list of numbered layers 1..L, each built and initialised on its own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from learning.errors import ModelError
from learning.exits import ExitFactory, exit_factory
from learning.imports import call, describe, load
from learning.resnet import BLOCKS, resnet
from learning.seeds import seeded
from learning.settings import ModelSettings

Shape = tuple[int, ...]
_BATCH = 2  # samples in the batch of zeros with which layers are tried


@dataclass(frozen=True)
class Layer:
    """One numbered layer: its name for people, and how to build it anew with fresh parameters."""

    name: str
    build: Callable[[], nn.Module]


class Network:
    """Layers 1..L that fit each other, and the exits that can sit on 1..L-1.

    Nothing is kept built: every role builds the layers it runs. A layer's initial parameters depend on the seed and its
    number alone, an exit's on the seed and its cut.
    """

    def __init__(
        self, layers: Sequence[Layer], sample_shape: Shape, classes: int, seed: int, exit: ExitFactory, name: str = "it"
    ) -> None:
        """Try the layers on a batch of zeros.

        sample_shape: one sample, without the batch dimension. Raises ModelError, naming the layer, if one does not take
        what comes from its predecessor or the last does not give (batch, classes).
        """
        if len(layers) < 2:
            raise ModelError(f"a network needs at least 2 layers to be cut between, {name} has {len(layers)}")
        self.model = name
        self.depth = len(layers)
        self.sample_shape = tuple(sample_shape)
        self.classes = classes
        self._layers = tuple(layers)
        self._seed = seed
        self._exit = exit
        self._shapes = self._try_layers()

    def name(self, number: int) -> str:
        """Return a layer's name."""
        return self._layer(number).name

    def build_layer(self, number: int) -> nn.Module:
        """Return layer ``number``, newly initialised, on the CPU and in training mode."""
        with seeded(self._seed, "layer", number):
            return self._layer(number).build()

    def build_exit(self, cut: int) -> nn.Module:
        """Return the exit for features at ``cut``, newly initialised, on the CPU and in training mode.

        Raises ModelError if there is no such cut, or the exit does not turn its features into (batch, classes).
        """
        self.check_cut(cut)
        shape = self.feature_shape(cut)
        with seeded(self._seed, "exit", cut):
            module = self._exit(shape, self.classes)
        what = f"the exit at cut {cut}"
        logits = _try(module, torch.zeros(_BATCH, *shape), what)
        self._check_logits(logits, what)
        return module.train()

    def feature_shape(self, cut: int) -> Shape:
        """Return the shape of one sample's features after layer ``cut``, without the batch dimension."""
        self._layer(cut)
        return self._shapes[cut - 1]

    def check_cut(self, cut: int) -> None:
        """Raise ModelError unless 1 <= cut <= L-1."""
        if not 1 <= cut < self.depth:
            side = "beyond" if cut >= self.depth else "before"
            raise ModelError(f"cut {cut} is {side} the network: {self.model} has {self.depth} layers, a cut is 1..{self.depth - 1}")

    def _layer(self, number: int) -> Layer:
        if not 1 <= number <= self.depth:
            raise ModelError(f"there is no layer {number}: {self.model} has layers 1..{self.depth}")
        return self._layers[number - 1]

    def _try_layers(self) -> list[Shape]:
        features = torch.zeros(_BATCH, *self.sample_shape)
        shapes = []
        for number in range(1, self.depth + 1):
            features = _try(self.build_layer(number), features, self._describe(number))
            shapes.append(tuple(features.shape[1:]))
        self._check_logits(features, f"the last, {self._describe(self.depth)},")
        return shapes

    def _describe(self, number: int) -> str:
        return f"layer {number} ({self.name(number)})"

    def _check_logits(self, logits: torch.Tensor, what: str) -> None:
        if logits.shape != (_BATCH, self.classes):
            raise ModelError(
                f"{what} gives {tuple(logits.shape)} for a batch of {_BATCH}, expected (batch, classes) = {(_BATCH, self.classes)}"
            )


def build_network(model: ModelSettings, sample_shape: Shape, classes: int, seed: int) -> Network:
    """Return the network that the settings name.

    sample_shape: one sample, without the batch dimension. Raises ModelError or SettingsError if there is no such network
    or it does not fit the samples.
    """
    if model.name in BLOCKS:
        named = resnet(model.name, sample_shape, classes, model.width, model.granularity)
        layers = [Layer(name, build) for name, build in named]
    elif ":" in model.name:
        layers = _own_layers(model.name, sample_shape, classes, seed)
    else:
        raise ModelError(f"unknown model {model.name!r}: use {', '.join(BLOCKS)} or module:function")
    return Network(layers, sample_shape, classes, seed, exit_factory(model.exit), model.name)


def _try(module: nn.Module, features: torch.Tensor, what: str) -> torch.Tensor:
    """Return what a module in evaluation mode makes of a batch of zeros; raise ModelError if that is no batch of floats."""
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise ModelError(f"{what} has lazy parameters, which would be initialised outside its seed: give it its sizes")
    came = f"{tuple(features.shape)}"
    try:
        with torch.no_grad():
            result = module.eval()(features)
    except Exception as error:
        raise ModelError(f"{what} does not accept features of shape {came}: {describe(error)}") from error
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        kind = result.dtype if isinstance(result, torch.Tensor) else type(result).__name__
        raise ModelError(f"{what} gives {kind} for features of shape {came}, expected one tensor of floats")
    if result.dim() < 2 or result.shape[0] != _BATCH:
        raise ModelError(f"{what} gives {tuple(result.shape)} for features of shape {came}, expected (batch, ...)")
    return result


def _own_layers(reference: str, sample_shape: Shape, classes: int, seed: int) -> list[Layer]:
    """Return the layers of a user's ``function(sample_shape, classes)``.

    It is called anew for every layer that is built, under that layer's seed: modules that it builds at once are then
    initialised as independently of each other as those of factories.
    """
    function = load(reference, "model")

    def listing() -> list[Any]:
        returned = call(function, reference, "model", sample_shape, classes)
        if not isinstance(returned, Iterable) or isinstance(returned, str):
            raise ModelError(f"model {reference!r} returned a {type(returned).__name__}, not a list of layers")
        return list(returned)

    def build(number: int) -> nn.Module:
        return _own_module(listing()[number - 1], reference, number)

    with seeded(seed, "model"):
        elements = listing()
        builds = [[_own_module(element, reference, n) for n, element in enumerate(made, 1)] for made in (elements, listing())]
    _check_separate(builds, reference)
    return [Layer(_own_name(element, number), partial(build, number)) for number, element in enumerate(elements, 1)]


def _own_module(element: object, reference: str, number: int) -> nn.Module:
    if isinstance(element, tuple) and len(element) == 2:
        element = element[1]
    what = f"layer {number} of model {reference!r}"
    if not isinstance(element, nn.Module) and callable(element):
        element = call(element, reference, f"layer {number} of model")
    if not isinstance(element, nn.Module):
        raise ModelError(f"{what} is a {type(element).__name__}: give an nn.Module, a factory of one, or (name, either)")
    return element


def _own_name(element: object, number: int) -> str:
    if isinstance(element, tuple):
        return str(element[0])
    kind = element if isinstance(element, type) else type(element) if isinstance(element, nn.Module) else None
    return kind.__name__ if kind else f"layer{number}"


def _check_separate(builds: list[list[nn.Module]], reference: str) -> None:
    """Raise ModelError if two layers, or one layer built twice, share a parameter: replicas would train each other."""
    if len({len(modules) for modules in builds}) > 1:
        raise ModelError(f"model {reference!r} returned {len(builds[0])} layers, then {len(builds[1])}")
    owners: dict[int, int] = {}
    for number, module in ((number, module) for modules in builds for number, module in enumerate(modules, 1)):
        tensors = {id(tensor) for tensor in chain(module.parameters(), module.buffers())}
        owner = next((owners[tensor] for tensor in tensors if tensor in owners), None)
        if owner == number:
            raise ModelError(
                f"model {reference!r} gave the same layer {number} twice: its function must make new modules at each call"
            )
        if owner is not None:
            raise ModelError(f"layers {owner} and {number} of model {reference!r} share a parameter: a layer's must be its own")
        owners.update(dict.fromkeys(tensors, number))

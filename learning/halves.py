"""The two halves of the network in training: a client's first layers with their exit, and a server replica's deeper ones."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from learning.errors import NonFiniteError, SettingsError, TensorError
from learning.layers import Network
from learning.optimizers import learning_rate, load_optimizer_state, make_optimizer, optimizer_state, set_learning_rate
from learning.seeds import seeded
from learning.settings import OptimizerSettings, TrainingSettings
from learning.tensors import State, check_state, load_into, naming

Draw = tuple[str, int, int]  # client, round, sequence: names the random draws of one step


@dataclass(frozen=True)
class Step:
    """What one training step gave: mean loss over the batch and correct predictions in it."""

    loss: float
    correct: int
    samples: int


def usable_device(name: str) -> torch.device:
    """Return the device of that name, resolved; raise SettingsError if this machine has none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("training.device = cuda, but torch finds no CUDA device on this machine: set it to cpu or auto")
    return torch.device(name)


class Half:
    """Modules with one optimizer, in training; the arithmetic is the settings', resolved."""

    def __init__(self, modules: nn.ModuleDict, optimizer: OptimizerSettings, training: TrainingSettings) -> None:
        self.device = usable_device(training.device)
        self.modules = modules.to(self.device)
        self._training = training
        self._settings = optimizer
        self._names = dict(self.modules.named_parameters())
        self._buffers = list(self.modules.buffers())
        self._optimizer = make_optimizer(optimizer, self._names.values())
        self._draws = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in self.modules.modules())
        if training.memory_format == "channels_last":
            self.modules.to(memory_format=torch.channels_last)

    def begin_round(self, round: int) -> None:
        """Set what is a function of the round."""
        set_learning_rate(self._optimizer, learning_rate(self._settings, round, self._training.rounds))

    def optimizer_state(self) -> State:
        """Return the optimizer's state as named tensors."""
        return optimizer_state(self._optimizer, self._names)

    def load_optimizer_state(self, state: State) -> None:
        """Replace the optimizer's state; raise TensorError if it does not fit."""
        load_optimizer_state(self._optimizer, self._names, state)

    def state_of(self, name: str) -> State:
        """Return the state of one module; the tensors go on changing with training."""
        return dict(self.modules[name].state_dict())

    def load_state_of(self, name: str, state: State) -> None:
        """Give one module its state; raise TensorError if it does not fit."""
        load_into(self.modules[name], state, name)

    def is_finite(self) -> bool:
        """Return whether all parameters, buffers and optimizer state are finite: nothing good comes of a replica that is not."""
        found = [*self.modules.state_dict().values(), *self.optimizer_state().values()]
        tensors = [tensor for tensor in found if tensor.is_floating_point()]
        if bool(nn.utils.get_total_norm(tensors).isfinite()):  # reads each once; it may overflow where no tensor does
            return True
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self._training.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _random(self, draw: Draw) -> AbstractContextManager[object]:
        return seeded(self._training.seed, "step", *draw) if self._draws else nullcontext()

    def _update(self, logits: torch.Tensor, labels: torch.Tensor) -> Step:
        loss = functional.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self._check_finite(loss.detach())
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        correct = int((logits.detach().argmax(dim=1) == labels).sum())
        return Step(loss=loss.item(), correct=correct, samples=len(labels))

    def _check_finite(self, loss: torch.Tensor) -> None:
        """Raise NonFiniteError if the loss, a gradient or a statistic of BatchNorm is not finite: an average would spread it."""
        gradient = nn.utils.get_total_norm([p.grad for p in self._names.values() if p.grad is not None])
        statistics = [buffer.reshape(-1) for buffer in self._buffers if buffer.is_floating_point()]
        if not bool(torch.cat([loss.reshape(1), gradient.reshape(1), *statistics]).isfinite().all()):
            raise NonFiniteError(f"the loss is {loss.item()}, the gradient's norm {gradient.item()}, or a statistic is not finite")

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Let a step that cannot be finished leave no trace."""
        before = [buffer.clone() for buffer in self._buffers]
        try:
            yield
        except TensorError:
            for buffer, value in zip(self._buffers, before, strict=True):
                buffer.copy_(value)
            self._optimizer.zero_grad(set_to_none=True)
            raise

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._training.memory_format == "channels_last" and tensor.ndim == 4:
            tensor = tensor.to(self.device, memory_format=torch.channels_last)
        return _with_plain_strides(tensor.to(self.device))

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.modules.eval()
        try:
            with torch.no_grad(), self._arithmetic():
                yield
        finally:
            self.modules.train()


def _with_plain_strides(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose strides say contiguous if it has one channel.

    With one channel both layouts are the same in memory; where strides say channels_last, oneDNN's convolution writes out of
    bounds on its way back and the process dies.
    """
    if tensor.ndim != 4 or tensor.shape[1] != 1:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def client_modules(network: Network, cut: int) -> nn.ModuleDict:
    """Return layers 1..cut and the exit, "layer<l>" and "exit", newly initialised; raise ModelError if there is no such cut."""
    network.check_cut(cut)
    modules = nn.ModuleDict({f"layer{number}": network.build_layer(number) for number in range(1, cut + 1)})
    modules["exit"] = network.build_exit(cut)
    return modules


def by_module(state: State) -> dict[str, State]:
    """Return the state of each module, "layer<l>" or "exit", of a client's half; modules without tensors are not named."""
    found: dict[str, State] = {}
    for name, tensor in state.items():
        module, _, own = name.partition(".")
        found.setdefault(module, {})[own] = tensor
    return found


class ClientHalf(Half):
    """Layers 1..l_i and the exit, trained on the client's own data with its own loss."""

    def __init__(self, network: Network, cut: int, training: TrainingSettings) -> None:
        self.cut = cut
        super().__init__(client_modules(network, cut), training.client, training)

    def step(self, images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> tuple[Step, torch.Tensor]:
        """Train on one batch, images (batch, ...) and labels (batch,); return the step and the features at the cut.

        One forward gives both the loss and the features, which are those before the update: BatchNorm moves once.
        Raises TensorError, and changes nothing, if what comes out is not finite.
        """
        with self._all_or_nothing():
            with self._random(draw), self._arithmetic():
                features = self._layers(self._place(images))
                published = features.detach().clone()  # before the exit, which may change its input in place
                logits = self.modules["exit"](features)
            return self._update(logits, labels.to(self.device)), published

    def evaluate(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the exit's logits (batch, classes) in float32 and the features, in eval mode; changes nothing."""
        with self._evaluating():
            features = self._layers(self._place(images))
            published = features.cpu().clone()
            return self.modules["exit"](features).float().cpu(), published

    def state(self) -> State:
        """Return all layers and the exit, named "layer<l>.<tensor>" and "exit.<tensor>"."""
        return dict(self.modules.state_dict())

    def load_state(self, state: State) -> None:
        """Replace all layers and the exit; raise TensorError if the state does not fit."""
        load_into(self.modules, state, "client half")

    def load_modules(self, state: State) -> None:
        """Replace the layers and the exit that a state names, each as a whole, and keep the others and the optimizer's state.

        Raises TensorError, and changes nothing, if the state does not fit.
        """
        here, named = self.state(), by_module(state)
        with naming("averaged half"):
            check_state(state, {name: tensor for name, tensor in here.items() if name.partition(".")[0] in named})
        self.modules.load_state_dict({**here, **state})

    def _layers(self, x: torch.Tensor) -> torch.Tensor:
        for number in range(1, self.cut + 1):
            x = self.modules[f"layer{number}"](x)
        return x


class ServerHalf(Half):
    """A server replica: layers first..L. A batch enters behind its client's cut; what it skips gets no gradient.

    With first = 1 it is the whole network: samples enter at cut 0.
    """

    def __init__(self, network: Network, first: int, training: TrainingSettings) -> None:
        self.numbers = range(first, network.depth + 1)
        self._depth = network.depth
        modules = nn.ModuleDict({f"layer{number}": network.build_layer(number) for number in self.numbers})
        super().__init__(modules, training.server, training)

    def step(self, features: torch.Tensor, labels: torch.Tensor, cut: int, draw: Draw) -> Step:
        """Train layers cut+1..L on features (batch, ...) of any floating dtype and labels (batch,).

        Raises TensorError, and changes nothing, if what comes out is not finite.
        """
        with self._all_or_nothing():
            with self._random(draw), self._arithmetic():
                logits = self._layers(self._place(features.float()), cut)
            return self._update(logits, labels.to(self.device))

    def predict(self, features: torch.Tensor, cut: int) -> torch.Tensor:
        """Return class probabilities (batch, classes) in float32, in eval mode; changes nothing."""
        return self.predict_together([(features, cut)])[0]

    def predict_together(self, parts: Sequence[tuple[torch.Tensor, int]]) -> list[torch.Tensor]:
        """Return the class probabilities of batches of features (batch, ...), each entering behind its own cut.

        One pass over the layers, which all that have entered share: in a deep layer the batch is everything.
        """
        order = sorted(range(len(parts)), key=lambda index: parts[index][1])
        entering = [(self._place(parts[index][0].float()), parts[index][1]) for index in order]
        with self._evaluating():
            logits = self._join(entering).float()
            split = torch.split(functional.softmax(logits, dim=1).cpu(), [len(features) for features, _ in entering])
        return [found for _, found in sorted(zip(order, split, strict=True), key=lambda pair: pair[0])]

    def _join(self, entering: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
        """Return the logits of batches in the order of their cuts."""
        x, waiting = entering[0][0], entering[1:]
        for number in range(entering[0][1] + 1, self._depth + 1):
            while waiting and waiting[0][1] < number:
                x = torch.cat([x, waiting.pop(0)[0]])
            x = self.modules[f"layer{number}"](x)
        return x

    def _layers(self, x: torch.Tensor, cut: int) -> torch.Tensor:
        for number in range(cut + 1, self._depth + 1):
            x = self.modules[f"layer{number}"](x)
        return x

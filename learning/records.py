"""What clients and servers answer to each sample of a held-out split: all that choosing an entropy bound needs to know."""

from dataclasses import dataclass

import torch

from learning.errors import TensorError
from learning.exit_rule import is_answered
from learning.tensors import State

_OF_SAMPLES = ("samples", "labels")
_OF_ANSWERS = ("client_predicted", "server_predicted", "entropy")


@dataclass(frozen=True)
class Records:
    """The answers of some clients, and of the servers to their features, to the same samples.

    cuts: (clients,) of Python integers. samples: int64 (samples,), their indices in the split, ascending. labels: int64
    (samples,). client_predicted, server_predicted: int64 (clients, samples). entropy: of the clients' exits in nats, float32
    (clients, samples).
    """

    cuts: tuple[int, ...]
    samples: torch.Tensor
    labels: torch.Tensor
    client_predicted: torch.Tensor
    server_predicted: torch.Tensor
    entropy: torch.Tensor

    def __len__(self) -> int:
        return len(self.samples)

    def by_cut(self) -> dict[int, "Records"]:
        """Return the records of the clients of each cut, by growing cut."""
        rows: dict[int, list[int]] = {}
        for row, cut in enumerate(self.cuts):
            rows.setdefault(cut, []).append(row)
        return {cut: self._of_clients(own) for cut, own in sorted(rows.items())}

    def take(self, chosen: torch.Tensor) -> "Records":
        """Return the records of the samples at these places, int64 (chosen,)."""
        return Records(self.cuts, **{name: tensor[..., chosen] for name, tensor in self.state().items()})

    def answered(self, max_entropy: float) -> torch.Tensor:
        """Return which samples clients answer themselves under a bound; bool (clients, samples)."""
        return is_answered(self.entropy, max_entropy)

    def client_correct(self) -> torch.Tensor:
        """Return which samples the clients' exits tell right; bool (clients, samples)."""
        return self.client_predicted == self.labels

    def server_correct(self) -> torch.Tensor:
        """Return which samples the servers tell right from the clients' features; bool (clients, samples)."""
        return self.server_predicted == self.labels

    def correct(self, answered: torch.Tensor) -> torch.Tensor:
        """Return which samples are told right if clients answer those of ``answered`` and servers the rest.

        Both are bool (clients, samples).
        """
        return torch.where(answered, self.client_correct(), self.server_correct())

    def state(self) -> State:
        """Return all tensors by name."""
        return {name: getattr(self, name) for name in (*_OF_SAMPLES, *_OF_ANSWERS)}

    @classmethod
    def from_state(cls, state: State, cuts: tuple[int, ...], classes: int) -> "Records":
        """Return the records in named tensors; raise TensorError if names, dtypes, shapes or values are not those of records."""
        if state.keys() != {*_OF_SAMPLES, *_OF_ANSWERS}:
            raise TensorError(f"records have the tensors {', '.join((*_OF_SAMPLES, *_OF_ANSWERS))}")
        samples = len(state["samples"]) if state["samples"].ndim else 0
        for name, tensor in state.items():
            shape = (samples,) if name in _OF_SAMPLES else (len(cuts), samples)
            dtype = torch.float32 if name == "entropy" else torch.int64
            if tensor.shape != shape or tensor.dtype != dtype:
                raise TensorError(f"{name} is {tensor.dtype} {tuple(tensor.shape[:8])}, expected {dtype} {shape}")
        found = cls(cuts, **state)
        found._check_values(classes)
        return found

    def _of_clients(self, rows: list[int]) -> "Records":
        answers = {name: getattr(self, name)[rows] for name in _OF_ANSWERS}
        return Records(tuple(self.cuts[row] for row in rows), self.samples, self.labels, **answers)

    def _check_values(self, classes: int) -> None:
        if not len(self) or not self.cuts:
            raise TensorError("records of no sample, or of no client")
        if self.samples[0] < 0 or not bool((self.samples.diff() > 0).all()):
            raise TensorError("samples are not ascending indices")
        for name in ("labels", "client_predicted", "server_predicted"):
            low, high = (int(bound) for bound in torch.aminmax(getattr(self, name)))
            if low < 0 or high >= classes:
                raise TensorError(f"{name} are {low} to {high}, there are {classes} classes")
        if bool((self.entropy < 0).any()):
            raise TensorError("an entropy is negative")

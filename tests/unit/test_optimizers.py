"""Schedules as functions of the round, and optimizer state as named tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from learning.errors import TensorError
from learning.optimizers import learning_rate, load_optimizer_state, make_optimizer, optimizer_state, set_learning_rate
from learning.settings import OptimizerSettings

KINDS = [
    OptimizerSettings(name="adam"),
    OptimizerSettings(name="adamw", weight_decay=0.1),
    OptimizerSettings(name="sgd", momentum=0.9),
    OptimizerSettings(name="sgd"),
]


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, layers: slice = slice(None)) -> None:
    optimizer.zero_grad(set_to_none=True)
    x = torch.randn(8, 4 if layers.start in (None, 0) else 3, generator=torch.Generator().manual_seed(seed))
    model[layers](x).square().sum().backward()
    optimizer.step()


class TestSchedules:
    @given(st.integers(1, 200), st.integers(1, 200))
    def test_constant(self, round: int, rounds: int) -> None:
        assert learning_rate(OptimizerSettings(lr=0.3), round, rounds) == 0.3

    @given(st.integers(1, 200))
    def test_cosine_falls_from_the_whole_rate_and_stays_positive(self, rounds: int) -> None:
        rates = [learning_rate(OptimizerSettings(lr=0.3, schedule="cosine"), number, rounds) for number in range(1, rounds + 1)]
        assert rates[0] == 0.3
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] > 0
        if rounds % 2 == 0:
            assert rates[rounds // 2] == pytest.approx(0.15)

    def test_step(self) -> None:
        settings = OptimizerSettings(lr=1.0, schedule="step", step_rounds=2, step_factor=0.1)
        rates = [learning_rate(settings, number, 5) for number in range(1, 6)]
        assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])

    def test_a_rate_that_is_set_is_used(self) -> None:
        slow, fast = module(), module()
        for model, rate in ((slow, 1e-3), (fast, 1.0)):
            optimizer = make_optimizer(OptimizerSettings(name="sgd", lr=0.5), model.parameters())
            set_learning_rate(optimizer, rate)
            step(model, optimizer, 0)
        moved = [(model[0].weight - module()[0].weight).abs().max().item() for model in (slow, fast)]
        assert moved[1] == pytest.approx(1000 * moved[0], rel=1e-3)


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: f"{settings.name}-{settings.momentum}")
class TestState:
    def test_kept_state_gives_the_same_bits(self, settings: OptimizerSettings) -> None:
        straight, resumed = module(), module()
        first = make_optimizer(settings, straight.parameters())
        for seed in range(3):
            step(straight, first, seed)
        resumed.load_state_dict(straight.state_dict())
        second = make_optimizer(settings, resumed.parameters())
        saved = {name: tensor.clone() for name, tensor in optimizer_state(first, dict(straight.named_parameters())).items()}
        load_optimizer_state(second, dict(resumed.named_parameters()), saved)
        for seed in range(3, 6):
            step(straight, first, seed)
            step(resumed, second, seed)
        assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))

    def test_without_its_state_an_optimizer_with_memory_goes_elsewhere(self, settings: OptimizerSettings) -> None:
        straight, reset = module(), module()
        first = make_optimizer(settings, straight.parameters())
        step(straight, first, 0)
        reset.load_state_dict(straight.state_dict())
        second = make_optimizer(settings, reset.parameters())
        step(straight, first, 1)
        step(reset, second, 1)
        remembers = settings.name != "sgd" or settings.momentum > 0
        assert torch.equal(straight[0].weight, reset[0].weight) != remembers

    def test_loading_replaces_and_does_not_share(self, settings: OptimizerSettings) -> None:
        one, other = module(), module(1)
        first, second = make_optimizer(settings, one.parameters()), make_optimizer(settings, other.parameters())
        step(one, first, 0)
        step(other, second, 1)
        saved = optimizer_state(first, dict(one.named_parameters()))
        load_optimizer_state(second, dict(other.named_parameters()), saved)
        copies = {name: tensor.clone() for name, tensor in saved.items()}
        step(other, second, 2)
        assert all(torch.equal(saved[name], copies[name]) for name in copies)
        load_optimizer_state(second, dict(other.named_parameters()), {})
        assert optimizer_state(second, dict(other.named_parameters())) == {}


def test_what_was_never_trained_has_no_state() -> None:
    model = module()
    optimizer = make_optimizer(OptimizerSettings(), model.parameters())
    step(model, optimizer, 0, slice(1, 2))
    names = {name.rpartition("/")[0] for name in optimizer_state(optimizer, dict(model.named_parameters()))}
    assert names == {"1.weight", "1.bias"}


@pytest.mark.parametrize(
    ("label", "value", "reason"),
    [
        ("2.weight/exp_avg", torch.zeros(3, 4), "no parameter"),
        ("0.weight/exp_avg", torch.zeros(4, 3), "shape"),
        ("0.weight/exp_avg", torch.full((3, 4), torch.nan), "not finite"),
    ],
)
def test_state_that_does_not_fit_is_refused(label: str, value: torch.Tensor, reason: str) -> None:
    model = module()
    optimizer = make_optimizer(OptimizerSettings(), model.parameters())
    with pytest.raises(TensorError, match=reason):
        load_optimizer_state(optimizer, dict(model.named_parameters()), {label: value})

"""The rules of a step: each decides whether the accuracy comes out right."""

from pathlib import Path

import pytest
import torch
from torch import nn

from learning.errors import TensorError
from learning.exits import automatic_exit
from learning.halves import ClientHalf, Half, ServerHalf
from learning.layers import Layer, Network, build_network
from learning.settings import ModelSettings, OptimizerSettings, TrainingSettings
from learning.tensors import State
from workers.client_state import ClientState, Counters

CUT = 3
DRAW = ("client-01", 1, 0)
OPTIMIZERS = [{"name": "adam", "schedule": "cosine"}, {"name": "adamw", "weight_decay": 0.1}, {"name": "sgd", "momentum": 0.9}]


def settings(**training: object) -> TrainingSettings:
    return TrainingSettings.model_validate({"device": "cpu", "precision": "float32", "memory_format": "contiguous", **training})


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(ModelSettings(width=4), (1, 8, 8), 10, seed=0)


def with_dropout() -> Network:
    layers = [
        Layer("first", lambda: nn.Linear(6, 6)),
        Layer("dropout", nn.Dropout),
        Layer("last", lambda: nn.Linear(6, 3)),
    ]
    return Network(layers, (6,), 3, 0, automatic_exit)


def images(seed: int = 0, batch: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, 8, 8, generator=random), torch.randint(10, (batch,), generator=random)


def features(network: Network, cut: int, seed: int = 0, batch: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *network.feature_shape(cut), generator=random), torch.randint(10, (batch,), generator=random)


def everything(half: Half) -> State:
    """Return copies of all that a step may change."""
    state = {f"module/{name}": tensor for name, tensor in half.modules.state_dict().items()}
    state |= {f"optimizer/{name}": tensor for name, tensor in half.optimizer_state().items()}
    return {name: tensor.clone() for name, tensor in state.items()}


def changed(before: State, after: State) -> set[str]:
    assert before.keys() <= after.keys()
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


def test_one_channel_whatever_its_strides_say(network: Network) -> None:
    """Crop and flip leave such strides. Where oneDNN goes by them, it kills the process within a few steps."""
    whole, same, half = ServerHalf(network, 1, settings()), ServerHalf(network, 1, settings()), ClientHalf(network, CUT, settings())
    for number in range(8):
        x, labels = images(number, batch=16)
        odd = x.squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2)
        assert odd.stride() != x.stride()
        draw = (DRAW[0], 1, number)
        assert whole.step(odd, labels, 0, draw) == same.step(x, labels, 0, draw)
        half.step(odd, labels, draw)


class TestSkippedLayers:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_what_a_batch_skips_does_not_move(self, network: Network, optimizer: dict[str, object]) -> None:
        half = ServerHalf(network, CUT + 1, settings(server=optimizer))
        for seed in range(3):  # momentum, which would go on moving a layer whose gradient is zero
            half.step(*features(network, CUT, seed), CUT, DRAW)
        before = everything(half)
        half.step(*features(network, 5), 5, DRAW)
        moved = {name.split("/")[1].split(".")[0] for name in changed(before, everything(half))}
        assert moved == {f"layer{number}" for number in range(6, network.depth + 1)}

    def test_its_gradient_is_none(self, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        half = ServerHalf(network, CUT + 1, settings())
        half.step(*features(network, CUT), CUT, DRAW)
        seen: dict[str, bool] = {}
        step = torch.optim.Adam.step

        def look(optimizer: torch.optim.Adam) -> None:
            seen.update({name: parameter.grad is None for name, parameter in half.modules.named_parameters()})
            step(optimizer)

        monkeypatch.setattr(half._optimizer, "step", lambda: look(half._optimizer))
        half.step(*features(network, 5), 5, DRAW)
        for name, is_none in seen.items():
            assert is_none == (name.split(".")[0] in ("layer4", "layer5")), name


class TestClientStep:
    def test_features_are_those_before_the_update(self, network: Network) -> None:
        half, same = ClientHalf(network, CUT, settings()), ClientHalf(network, CUT, settings())
        x, y = images()
        _, published = half.step(x, y, DRAW)
        with torch.no_grad():
            expected = nn.Sequential(*(same.modules[f"layer{number}"] for number in range(1, CUT + 1)))(x)
        assert torch.equal(published, expected)
        assert not published.requires_grad
        assert published.grad_fn is None

    def test_features_are_not_changed_by_what_comes_after(self, network: Network) -> None:
        half = ClientHalf(network, CUT, settings())
        x, y = images()
        _, published = half.step(x, y, DRAW)
        kept = published.clone()
        half.step(x, y, DRAW)
        assert torch.equal(published, kept)

    def test_an_exit_that_works_in_place_does_not_change_them(self) -> None:
        def in_place(shape: tuple[int, ...], classes: int) -> nn.Module:
            return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(shape[0], classes))

        layers = [Layer("first", lambda: nn.Linear(6, 6)), Layer("last", lambda: nn.Linear(6, 3))]
        half = ClientHalf(Network(layers, (6,), 3, 0, in_place), 1, settings())
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
        expected = half.modules["layer1"](x).detach()
        assert torch.equal(half.evaluate(x)[1], expected)
        assert torch.equal(half.step(x, torch.zeros(8, dtype=torch.int64), DRAW)[1], expected)

    def test_batchnorm_moves_once(self, network: Network) -> None:
        half = ClientHalf(network, CUT, settings())
        for steps in (1, 2, 3):
            half.step(*images(steps), DRAW)
            counts = {int(tensor) for name, tensor in half.state().items() if name.endswith("num_batches_tracked")}
            assert counts == {steps}

    def test_loss_and_correct_are_those_of_the_exit_before_the_update(self, network: Network) -> None:
        half, same = ClientHalf(network, CUT, settings()), ClientHalf(network, CUT, settings())
        x, y = images()
        step, published = half.step(x, y, DRAW)
        logits = same.modules["exit"](published)
        assert step.loss == nn.functional.cross_entropy(logits, y).item()
        assert (step.correct, step.samples) == (int((logits.argmax(1) == y).sum()), len(y))

    def test_every_layer_and_the_exit_are_trained(self, network: Network) -> None:
        half = ClientHalf(network, CUT, settings())
        before = everything(half)
        half.step(*images(), DRAW)
        moved = {name.split("/")[1].split(".")[0] for name in changed(before, everything(half)) if name.startswith("module/")}
        assert moved == {"layer1", "layer2", "layer3", "exit"}


class TestEvaluation:
    def test_of_a_client_changes_nothing(self, network: Network) -> None:
        half = ClientHalf(network, CUT, settings())
        half.step(*images(), DRAW)
        before, random = everything(half), torch.get_rng_state()
        logits, published = half.evaluate(images(1)[0])
        assert not changed(before, everything(half))
        assert torch.equal(torch.get_rng_state(), random)
        assert all(module.training for module in half.modules.modules())
        assert (tuple(logits.shape), logits.dtype, tuple(published.shape[1:])) == (
            (8, 10),
            torch.float32,
            network.feature_shape(CUT),
        )

    def test_of_a_server_changes_nothing(self, network: Network) -> None:
        half = ServerHalf(network, CUT + 1, settings())
        half.step(*features(network, CUT), CUT, DRAW)
        before, random = everything(half), torch.get_rng_state()
        probabilities = half.predict(features(network, CUT, 1)[0], CUT)
        assert not changed(before, everything(half))
        assert torch.equal(torch.get_rng_state(), random)
        assert all(module.training for module in half.modules.modules())
        assert torch.allclose(probabilities.sum(dim=1), torch.ones(8))

    def test_uses_running_statistics(self, network: Network) -> None:
        """A sample's prediction does not depend on what else is in its batch."""
        half = ServerHalf(network, CUT + 1, settings())
        half.step(*features(network, CUT), CUT, DRAW)
        x, _ = features(network, CUT, 1)
        assert torch.allclose(half.predict(x, CUT)[:1], half.predict(x[:1], CUT), atol=1e-6)

    def test_between_two_steps_makes_no_difference(self, network: Network) -> None:
        plain, evaluated = (ClientHalf(network, CUT, settings()) for _ in range(2))
        for seed in range(3):
            plain.step(*images(seed), DRAW)
            evaluated.step(*images(seed), DRAW)
            evaluated.evaluate(images(9)[0])
        assert not changed(everything(plain), everything(evaluated))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_enter_the_server_half_as_float32(network: Network, dtype: torch.dtype) -> None:
    low, high = (ServerHalf(network, CUT + 1, settings()) for _ in range(2))
    x, y = features(network, CUT)
    travelled = x.to(dtype)
    assert low.step(travelled, y, CUT, DRAW) == high.step(travelled.float(), y, CUT, DRAW)
    assert not changed(everything(low), everything(high))


def test_the_loss_is_taken_in_float32_when_steps_are_bfloat16(network: Network) -> None:
    half, same = (ServerHalf(network, CUT + 1, settings(precision="bfloat16")) for _ in range(2))
    x, y = features(network, CUT)
    loss = half.step(x, y, CUT, DRAW).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = same._layers(x, CUT)
    assert logits.dtype == torch.bfloat16
    assert loss == nn.functional.cross_entropy(logits.float(), y).item()
    assert all(parameter.dtype == torch.float32 for parameter in half.modules.parameters())


class TestDraws:
    def test_dropout_depends_on_client_round_and_sequence_alone(self) -> None:
        network = with_dropout()
        x, y = torch.randn(16, 6), torch.randint(3, (16,))
        losses: dict[tuple[str, int, int], set[float]] = {}
        for draw in [("a", 1, 0), ("b", 1, 0), ("a", 2, 0), ("a", 1, 1)]:
            for disturb in range(2):
                torch.manual_seed(disturb)
                losses.setdefault(draw, set()).add(ServerHalf(network, 2, settings()).step(x, y, 1, draw).loss)
        assert [len(found) for found in losses.values()] == [1] * 4
        assert len(set.union(*losses.values())) == 4

    def test_a_step_leaves_the_global_generator_alone(self) -> None:
        half = ServerHalf(with_dropout(), 2, settings())
        random = torch.get_rng_state()
        half.step(torch.randn(16, 6, generator=torch.Generator()), torch.zeros(16, dtype=torch.int64), 1, DRAW)
        assert torch.equal(torch.get_rng_state(), random)


class TestNotFinite:
    """What is refused must leave no trace: the replica goes on with the next batch."""

    @pytest.mark.parametrize("scale", [1e38, 1e25], ids=["the loss is infinite", "the loss is finite, BatchNorm's variance is not"])
    def test_a_batch_that_cannot_be_trained_changes_nothing(self, network: Network, scale: float) -> None:
        half = ServerHalf(network, CUT + 1, settings())
        half.step(*features(network, CUT), CUT, DRAW)
        before = everything(half)
        x, y = features(network, CUT, 1)
        with pytest.raises(TensorError, match="not finite"):
            half.step(x * scale, y, CUT, DRAW)
        assert not changed(before, everything(half))
        half.step(x, y, CUT, DRAW)
        assert all(bool(tensor.isfinite().all()) for tensor in everything(half).values())

    def test_a_gradient_that_is_no_number_changes_nothing(self) -> None:
        class Root(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return (x - x).sqrt() * 0 + x  # finite, but its gradient is not

        layers = [Layer("first", lambda: nn.Linear(6, 6)), Layer("root", lambda: nn.Sequential(nn.Linear(6, 3), Root()))]
        half = ServerHalf(Network(layers, (6,), 3, 0, automatic_exit), 2, settings())
        before = everything(half)
        with pytest.raises(TensorError, match="not finite"):
            half.step(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64), 1, DRAW)
        assert not changed(before, everything(half))

    def test_a_client_is_as_careful(self, network: Network) -> None:
        half = ClientHalf(network, CUT, settings())
        half.step(*images(), DRAW)
        before = everything(half)
        x, y = images(1)
        with pytest.raises(TensorError, match="not finite"):
            half.step(x * 1e25, y, DRAW)
        assert not changed(before, everything(half))


class TestResuming:
    @pytest.mark.parametrize("folder", [False, True])
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_a_restored_client_goes_on_with_the_same_bits(
        self, network: Network, optimizer: dict[str, object], folder: bool, tmp_path: Path
    ) -> None:
        training = settings(client=OptimizerSettings.model_validate(optimizer), rounds=3)
        state = ClientState(tmp_path if folder else None)
        straight = ClientHalf(network, CUT, training)
        for number in (1, 2):
            straight.begin_round(number)
            if number == 2:
                state.save(2, straight, Counters(16, 100))
            for sequence in range(2):
                straight.step(*images(10 * number + sequence), ("client-01", number, sequence))
        resumed = ClientHalf(network, CUT, training)
        resumed.step(*images(99), DRAW)  # what it did before does not matter
        assert state.restore(2, resumed) == (2, Counters(16, 100))
        resumed.begin_round(2)
        for sequence in range(2):
            resumed.step(*images(20 + sequence), ("client-01", 2, sequence))
        assert not changed(everything(straight), everything(resumed))
        state.close()

    def test_a_server_half_given_its_state_goes_on_with_the_same_bits(self, network: Network) -> None:
        straight, resumed = (ServerHalf(network, CUT + 1, settings()) for _ in range(2))
        straight.step(*features(network, CUT), CUT, DRAW)
        for number in straight.numbers:
            resumed.load_state_of(f"layer{number}", {name: t.clone() for name, t in straight.state_of(f"layer{number}").items()})
        resumed.load_optimizer_state({name: tensor.clone() for name, tensor in straight.optimizer_state().items()})
        for half in (straight, resumed):
            half.step(*features(network, 5, 1), 5, DRAW)
        assert not changed(everything(straight), everything(resumed))

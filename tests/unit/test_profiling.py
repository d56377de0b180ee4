"""What is measured at a cut: bytes against real messages and modules, memory against what must need more of it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from broker import codec
from broker.messages import ITEM_SIZES, Activations
from coordinator.experiment import Experiment, resolve
from learning.arithmetic import device_shares
from learning.exits import automatic_exit
from learning.halves import ClientHalf
from learning.layers import Layer, Network, build_network
from learning.settings import DataSettings, ModelSettings, TrainingSettings
from workers import process_memory
from workers.features import FIRST_DIGEST, to_wire
from workers.profiling import measure_cut, random_batch
from workers.run_settings import ENVELOPE_BYTES, RunSettings

SHAPE, CLASSES, BATCH = (3, 16, 16), 10, 6


def settings(wire_dtype: str = "float16", **training: object) -> RunSettings:
    experiment = Experiment(
        model=ModelSettings(width=4),
        data=DataSettings(name="cifar10", image_size=16),
        training=TrainingSettings.model_validate({"device": "cpu", "batch_size": BATCH, **training}),
    )
    transport = experiment.transport.model_copy(update={"wire_dtype": wire_dtype})
    return RunSettings.from_json(resolve(experiment.model_copy(update={"transport": transport}), cuda=False).to_json())


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(ModelSettings(width=4), SHAPE, CLASSES, seed=0)


@pytest.mark.parametrize("wire_dtype", ["float32", "float16", "bfloat16"])
def test_bytes_of_a_sample_are_those_of_a_real_message(network: Network, wire_dtype: str) -> None:
    run = settings(wire_dtype)
    for cut in range(1, network.depth):
        half = ClientHalf(network, cut, run.training)
        images, labels = random_batch(network, 0, BATCH)
        _, features = half.step(images, labels, ("client-01", 1, 0))
        wire, label_wire = to_wire(features, run.wire_dtype)[0], to_wire(labels, "int64")[0]
        carried = run.sample_bytes(network, cut) * BATCH
        assert len(wire.data) + len(label_wire.data) == carried
        message = Activations(cut=cut, digest=FIRST_DIGEST, features=wire, labels=label_wire)
        frames = codec.split(message, "client-01", 1, 1, 0, 2**25)
        assert carried < sum(map(len, frames)) < carried + ENVELOPE_BYTES


def test_figures_of_a_cut_are_those_of_its_modules(network: Network) -> None:
    run = settings()
    for cut in (1, 6):
        row = measure_cut(network, run, cut, batches=3)
        modules = [*(network.build_layer(number) for number in range(1, cut + 1)), network.build_exit(cut)]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        values = sum(math.prod(parameter.shape) for parameter in parameters)
        assert row.parameter_bytes == 4 * values
        assert row.optimizer_bytes == 2 * 4 * values + 4 * len(parameters)  # Adam: two moments and a count of steps
        assert (row.cut, row.layer, row.feature_shape) == (cut, network.name(cut), network.feature_shape(cut))
        assert row.sample_bytes == math.prod(row.feature_shape) * ITEM_SIZES["float16"] + 8
        assert 0 < row.step_ms_fastest <= row.step_ms <= row.step_ms_slowest
        assert row.inference_ms > 0
        assert row.samples_per_second == pytest.approx(BATCH / row.step_ms * 1000)


def test_an_optimizer_without_state_has_none(network: Network) -> None:
    assert measure_cut(network, settings(client={"name": "sgd"}), 1, batches=1).optimizer_bytes == 0


def test_a_much_larger_batch_needs_more_memory(network: Network) -> None:
    few, many = (measure_cut(network, settings(batch_size=size), 3, batches=1).memory_bytes for size in (2, 1024))
    kept = (
        1024 * 4 * 16 * 16 * 4 * 10
    )  # what the stem and two blocks keep for going backward: an output of each convolution and norm
    assert many > kept
    assert many > 4 * few


def test_more_parameters_need_more_memory() -> None:
    def wide(width: int) -> Network:
        layers = [Layer("wide", lambda: nn.Linear(100, width)), Layer("last", lambda: nn.Linear(width, 10))]
        return Network(layers, (100,), 10, 0, automatic_exit)

    row = measure_cut(wide(40_000), settings(), 1, batches=1)
    assert row.parameter_bytes > 16_000_000
    assert row.memory_bytes > row.parameter_bytes + row.optimizer_bytes
    assert measure_cut(wide(10), settings(), 1, batches=1).memory_bytes < row.memory_bytes / 4


def test_memory_of_a_block_that_is_over_is_not_counted_again() -> None:
    before = process_memory.settle()
    held = torch.ones(16 * 2**20)  # 64 MiB
    assert process_memory.peak_resident() - before > 60 * 2**20
    del held
    after = process_memory.settle()
    assert process_memory.peak_resident() - after < 32 * 2**20


def test_random_batches_fit_the_network_and_are_the_same_each_time(network: Network) -> None:
    images, labels = random_batch(network, 3, 50)
    assert (images.shape, labels.shape, images.dtype) == ((50, *SHAPE), (50,), torch.float32)
    assert 0 <= int(labels.min()) <= int(labels.max()) < CLASSES
    assert torch.equal(images, random_batch(network, 3, 50)[0])
    assert not torch.equal(images, random_batch(network, 4, 50)[0])


def test_the_share_of_a_device_counts_forward_and_backward_products() -> None:
    layers = [
        Layer("first", lambda: nn.Linear(10, 20)),  # 200 multiplications forward, 200 for its weights
        Layer("second", lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(20, 30))),  # 600, 600, and 600 for its input
        Layer("third", lambda: nn.Linear(30, 5)),  # 150 three times
    ]
    shares = device_shares(Network(layers, (10,), 5, 0, automatic_exit), seed=0)
    assert shares == pytest.approx([400 / 2650, 2200 / 2650])


def test_shares_leave_the_random_generator_alone() -> None:
    layers = [Layer("first", lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout())), Layer("last", lambda: nn.Linear(6, 3))]
    random = torch.get_rng_state()
    assert device_shares(Network(layers, (6,), 3, 0, automatic_exit), seed=0) is not None
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_without_products_has_no_shares() -> None:
    layers = [Layer("first", nn.Identity), Layer("last", lambda: nn.Softmax(dim=1))]
    assert device_shares(Network(layers, (3,), 3, 0, automatic_exit), seed=0) is None


def test_resnet_18_cut_at_3_keeps_a_quarter_of_the_arithmetic() -> None:
    network = build_network(ModelSettings(width=8), (3, 32, 32), 10, seed=0)
    shares = device_shares(network, seed=0)
    assert shares is not None
    assert shares == sorted(shares)
    assert 0.25 < shares[2] < 0.3
    assert 0.99 < shares[-1] < 1


def test_the_process_that_is_asked_for_must_be_there() -> None:
    with pytest.raises(ProcessLookupError, match="has ended"):
        process_memory.resident(2**22 + 1)


def test_a_batch_is_its_samples_and_an_envelope(network: Network) -> None:
    run = settings()
    bigger = replace(run, training=run.training.model_copy(update={"batch_size": 2 * BATCH}))
    assert bigger.batch_bytes(network, 3) - run.batch_bytes(network, 3) == BATCH * run.sample_bytes(network, 3)

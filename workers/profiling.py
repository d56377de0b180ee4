"""What training and inference at one cut take on this device: measured with random samples, for the data does not matter."""

import gc
import time
from collections.abc import Callable
from statistics import median

import torch

from learning.halves import ClientHalf
from learning.layers import Network
from learning.seeds import generator
from learning.settings import TrainingSettings
from workers import process_memory
from workers.cut_choice import CutProfile
from workers.run_settings import RunSettings

WARM_UP = 2  # steps that are not counted: memory is allocated, kernels are chosen
_CLIENT = "profile"
_FEW = 2  # samples of the step with which torch loads what it needs


def measure_cut(network: Network, settings: RunSettings, cut: int, batches: int) -> CutProfile:
    """Return what a cut asks of this device, over a number of batches of the run's size after the warm-up.

    The process should do nothing else and have one torch thread, as a client has: on a CPU its whole memory is looked at.
    What torch itself loads at its first step is not counted; on CUDA only the device's memory is. Raises SettingsError if
    there is no such device, ModelError if there is no such cut, TensorError if training diverges.
    """
    training = settings.training
    _load_kernels(network, training, cut)
    above = _peak_memory(training.device)
    half = ClientHalf(network, cut, training)
    half.begin_round(1)
    images, labels = random_batch(network, training.seed, training.batch_size)
    steps = _milliseconds(lambda number: half.step(images, labels, (_CLIENT, 1, number)), batches)
    memory = above()
    inferences = _milliseconds(lambda _: half.evaluate(images[:1]), batches)
    return CutProfile(
        cut=cut,
        layer=network.name(cut),
        feature_shape=network.feature_shape(cut),
        step_ms=median(steps),
        step_ms_fastest=min(steps),
        step_ms_slowest=max(steps),
        inference_ms=median(inferences),
        memory_bytes=memory,
        parameter_bytes=sum(parameter.nbytes for parameter in half.modules.parameters()),
        optimizer_bytes=sum(tensor.nbytes for tensor in half.optimizer_state().values()),
        sample_bytes=settings.sample_bytes(network, cut),
        samples_per_second=training.batch_size / median(steps) * 1000,
    )


def random_batch(network: Network, seed: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples (batch, ...) as normalised ones are, of mean 0 and deviation 1, and labels (batch,)."""
    random = generator(seed, "profile")
    images = torch.randn(samples, *network.sample_shape, generator=random)
    return images, torch.randint(network.classes, (samples,), generator=random)


def _load_kernels(network: Network, training: TrainingSettings, cut: int) -> None:
    """Take one step with few samples: code that is read and contexts that are made are torch's, not the half's."""
    half = ClientHalf(network, cut, training)
    images, labels = random_batch(network, training.seed, _FEW)
    half.step(images, labels, (_CLIENT, 1, 0))
    half.evaluate(images[:1])


def _peak_memory(device: str) -> Callable[[], int]:
    """Return what tells the most bytes that were taken since now."""
    if device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - allocated
    before = process_memory.settle()
    return lambda: process_memory.peak_resident() - before


def _milliseconds(work: Callable[[int], object], times: int) -> list[float]:
    """Return how long something takes each time, after the warm-up. Steps and evaluations end when the device has ended."""
    found = []
    for number in range(WARM_UP + times):
        began = time.perf_counter()
        work(number)
        found.append((time.perf_counter() - began) * 1000)
    return found[WARM_UP:]

"""From an experiment to what a coordinator starts with: everything resolved, checked and written down."""

import errno
import os
import platform
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path

import torch

from broker.codec import MAX_FRAMES
from cli.errors import CommandError
from coordinator.baseline import parts_of
from coordinator.errors import ExperimentError
from coordinator.experiment import Experiment, resolve
from coordinator.needs import Needs, check_store, compute_needs
from coordinator.store.interface import Store
from coordinator.store.records import RunRecord
from learning.data import evaluation_batches
from learning.describe import Description, describe
from learning.halves import usable_device
from learning.layers import Network, build_network
from learning.strategies import is_split
from workers.batches import half_bytes
from workers.client_data import open_data
from workers.run_settings import RunSettings


@dataclass(frozen=True)
class Prepared:
    """An experiment that can be run."""

    experiment: Experiment  # every "auto" resolved
    record: RunRecord
    network: Network
    needs: Needs


def prepare(experiment: Experiment) -> Prepared:
    """Resolve and check an experiment.

    Raises DataError or ModelError if data, model and cuts do not fit each other, ExperimentError if data and layout do not, or
    messages would have too many parts.
    """
    resolved, data, network = resolve_network(experiment)
    for entry in resolved.clients.roster():
        network.check_cut(entry.cut)
    if is_split(resolved.training):
        _check_parts(RunSettings.from_json(resolved.to_json()), network, {entry.cut for entry in resolved.clients.roster()})
    record = RunRecord(
        name=resolved.name,
        experiment=resolved.to_json(),
        fingerprint=resolved.fingerprint(),
        sample_shape=data.sample_shape,
        classes=data.classes,
        versions=versions(),
        id=secrets.token_hex(8),
        class_names=list(data.class_names),
    )
    return Prepared(resolved, record, network, compute_needs(resolved, network, data.samples))


def resolve_network(experiment: Experiment) -> tuple[Experiment, Description, Network]:
    """Return the experiment with every "auto" resolved, what is known of its data, and its network.

    Raises DataError or ModelError if data and model do not fit each other, ExperimentError if data and layout do not. Which
    clients there are does not matter.
    """
    resolved = resolve(experiment, torch.cuda.is_available())
    seed = resolved.training.seed
    data = describe(resolved.data, seed)
    _check_layout(resolved, data.sample_shape)
    return resolved, data, build_network(resolved.model, data.sample_shape, data.classes, seed)


def _check_parts(settings: RunSettings, network: Network, cuts: set[int]) -> None:
    """Raise ExperimentError if a batch, or an end of round with a client's half, would have more parts than a message may have."""
    sizes = {cut: max(settings.batch_bytes(network, cut), half_bytes(network, cut)) for cut in cuts or {network.depth - 1}}
    cut, size = max(sizes.items(), key=itemgetter(1))
    parts = settings.parts(size)
    if parts > MAX_FRAMES:
        raise ExperimentError(
            f"transport.message_limit = {settings.transport.message_limit}: a client at cut {cut} sends up to {size} bytes in "
            f"a message, which makes {parts} parts, at most {MAX_FRAMES} are taken; set it to {2 * -(-size // MAX_FRAMES)} or more"
        )


def _check_layout(experiment: Experiment, sample_shape: tuple[int, ...]) -> None:
    training = experiment.training
    if training.memory_format == "channels_last" and training.device == "cpu" and len(sample_shape) == 3 and sample_shape[0] == 1:
        raise ExperimentError(
            "training.memory_format = channels_last: with images of one channel torch's convolutions crash on the CPU; "
            "set it to contiguous or auto"
        )


def check_has_servers(experiment: Experiment) -> None:
    """Raise ExperimentError if an experiment is trained without servers."""
    if not is_split(experiment.training):
        raise ExperimentError(
            f"training.strategy = {experiment.training.strategy} trains whole networks without servers: "
            "use `splitee train` without --broker, --store and --servers (SPLITEE_BROKER_URL, SPLITEE_STORE_URL)"
        )


def check_clients_here(prepared: Prepared) -> None:
    """Raise LearningError if clients of this machine could not train: before a run is created, not in its midst."""
    record = prepared.record
    settings = RunSettings.from_json(record.experiment)
    usable_device(settings.training.device)
    dataset, _ = open_data(settings, parts_of(prepared.experiment), record.sample_shape, record.classes)
    evaluation_batches(dataset, settings.data, settings.training.seed, 1, whole=False)


def check_output(prepared: Prepared, output: Path) -> None:
    """Make the folder of the results.

    Raises CommandError if it cannot be written, ExperimentError if it holds another experiment's run.
    """
    there = output / "experiment.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
        text = there.read_text(errors="replace") if there.exists() else None
        if not os.access(output, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise CommandError(f"results cannot be written to {output}: {error.strerror}; name another folder with --output") from None
    if text is not None and not _is_same(text, prepared):
        raise ExperimentError(
            f"{output} holds the run of another experiment; "
            "name another folder with --output or another run with --set name=..., or delete it"
        )


def _is_same(text: str, prepared: Prepared) -> bool:
    try:
        return Experiment.from_json(text).fingerprint() == prepared.record.fingerprint
    except ExperimentError:
        return False


def say_needs(prepared: Prepared, store: Store, say: Callable[[str], None]) -> None:
    """Say what the run will need of store and broker; raise RunFailed if the store's bound is below it."""
    say(f"{prepared.experiment.name}: {prepared.needs}")
    if not prepared.needs.backlog_fits:
        say("transport.run_ahead_bytes is below one round of a client: where clients share a stream, later ones will wait")
    check_store(prepared.needs, store.usage())


def versions() -> dict[str, str]:
    """Return the versions that decide bits."""
    return {
        "hetero-splitee": version("hetero-splitee"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }

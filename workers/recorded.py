"""Recorded answers to a finished run's test split: made once, kept in its folder, made anew when its layers are others."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.codec import first_fault
from broker.messages import ClientId, Positive, WireDtype
from learning.data import test_samples
from learning.errors import DataError, TensorError
from learning.records import Records
from learning.sweep import Costs
from learning.tensors import notes_of, pack, unpack
from workers.client_data import open_data
from workers.inference_folder import Digest, parameters_sha256, place, read, write
from workers.recorder import Advance, Recorder
from workers.trained_run import TrainedRun

FILE = "records.safetensors"


@dataclass(frozen=True)
class Recorded:
    """Records, what a sample costs at each cut, and the layers that both are of."""

    records: Records
    costs: dict[int, Costs]
    parameters_sha256: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Client(_Part):
    id: ClientId
    cut: Positive


class _Cost(_Part):
    bytes: Positive
    client_seconds: Annotated[float, Field(ge=0)]
    server_seconds: Annotated[float, Field(ge=0)]


class _Origin(_Part):
    """What answers depend on."""

    parameters_sha256: Digest
    clients: tuple[_Client, ...]
    data: str
    split: Literal["test"] = "test"
    wire_dtype: WireDtype


class _Notes(_Part):
    """What stands in the file's header, beside the tensors."""

    origin: _Origin
    split_samples: Positive
    samples: Positive
    costs: dict[Positive, _Cost]


def recorded(run: TrainedRun, limit: int | None, say: Callable[[str], None], advance: Advance) -> Recorded:
    """Return the answers to the test split, or to the seeded random ``limit`` of its samples.

    The run's folder keeps them: those of the same layers and of all these samples are taken from there, else they are made and
    take the place of what is there. Nothing is lost with records that are damaged: they are made anew, and ``say`` hears why.
    Raises DataError if the test split is not here, RunFolderError or TensorError if layers are missing or damaged or the folder
    cannot be written.
    """
    path = place(run.folder, FILE)
    origin = _origin(run)
    kept = _kept(path, origin, run.network.classes, say)
    if kept is not None:
        notes, records = kept
        found = _among(records, test_samples(notes.split_samples, limit, run.settings.training.seed))
        if found is not None:
            return _recorded(notes, found)
    notes, records = _make(run, limit, origin, advance)
    write(path, pack(records.state(), notes.model_dump(mode="json")))
    return _recorded(notes, records)


def _origin(run: TrainedRun) -> _Origin:
    return _Origin(
        parameters_sha256=parameters_sha256(run.folder),
        clients=tuple(_Client(id=client, cut=member.cut) for client, member in run.clients.items()),
        data=run.settings.data.name,
        wire_dtype=run.settings.wire_dtype,
    )


def _recorded(notes: _Notes, records: Records) -> Recorded:
    costs = {cut: Costs(**cost.model_dump()) for cut, cost in notes.costs.items()}
    return Recorded(records, costs, notes.origin.parameters_sha256)


def _kept(path: Path, origin: _Origin, classes: int, say: Callable[[str], None]) -> tuple[_Notes, Records] | None:
    """Return what a file holds; None if there is none, or it is damaged or of another origin."""
    data = read(path)
    try:
        return None if data is None else _parse(data, origin, classes)
    except TensorError as error:
        say(f"{path} is damaged, its records are made anew: {error}")
        return None


def _parse(data: bytes, origin: _Origin, classes: int) -> tuple[_Notes, Records] | None:
    """Return what bytes hold, None if it is of another origin; raise TensorError if they are no records."""
    state = unpack(data)
    try:
        notes = _Notes.model_validate(notes_of(data))
    except ValidationError as error:
        raise TensorError(first_fault(error)) from None
    if notes.origin != origin:
        return None
    cuts = tuple(client.cut for client in origin.clients)
    records = Records.from_state(state, cuts, classes)
    if len(records) != notes.samples or int(records.samples[-1]) >= notes.split_samples or notes.costs.keys() != set(cuts):
        raise TensorError("its notes do not fit its tensors")
    return notes, records


def _among(records: Records, wanted: torch.Tensor) -> Records | None:
    """Return the records of the samples that are wanted, None if one is missing."""
    places = torch.searchsorted(records.samples, wanted).clamp(max=len(records) - 1)
    return records.take(places) if torch.equal(records.samples[places], wanted) else None


def _make(run: TrainedRun, limit: int | None, origin: _Origin, advance: Advance) -> tuple[_Notes, Records]:
    dataset, _ = open_data(run.settings, 0, run.network.sample_shape, run.network.classes)
    if dataset.test is None:
        raise DataError(f"data set {dataset.name} has no test split to choose an entropy bound on")
    samples = test_samples(len(dataset.test), limit, run.settings.training.seed)
    recorder = Recorder(run, dataset, limit, advance)
    records = recorder.record(samples, dataset.test.labels[samples])
    costs = {cut: _Cost(**asdict(cost)) for cut, cost in recorder.costs().items()}
    return _Notes(origin=origin, split_samples=len(dataset.test), samples=len(samples), costs=costs), records

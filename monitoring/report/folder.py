"""A run's folder as a report reads it: whatever is there, checked; what is missing or null is None."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from monitoring.errors import ReportError

LARGEST = 1e30  # beyond it no figure of a run is meant


def _drawable(value: object) -> object:
    """Return None for a number that no axis can show: not finite, or absurd."""
    return None if isinstance(value, float) and not abs(value) < LARGEST else value


Count = Annotated[int, Field(ge=0, le=2**63)]
Measure = Annotated[float | None, BeforeValidator(_drawable)]
Share = Annotated[float | None, BeforeValidator(_drawable), Field(ge=0, le=1)]
ByCut = dict[str, dict[str, Share]]  # by cut: "client" at its exit and "server"; "network" where one network does it all
MeasuresByCut = dict[str, dict[str, Measure]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Line(_Part):
    """A round, as metrics.jsonl has it. ``accuracy`` is None where it was not evaluated; sizes in bytes, times in seconds."""

    round: Annotated[int, Field(ge=1, le=999_999)]
    seconds: Measure = None
    samples: Count | None = None
    clients: Count | None = None
    client_loss: Measure = None
    server_loss: Measure = None
    loss_by_cut: MeasuresByCut | None = None
    accuracy: ByCut | None = None
    bytes: Count | None = None
    duplicates_dropped: Count | None = None
    refused: Count | None = None


class Dropout(_Part):
    """A client that left before the end."""

    client: str | None = None
    incarnation: Count | None = None
    round: Count | None = None
    reason: str | None = None
    at: str | None = None
    batches_kept: Count | None = None


class Summary(_Part):
    """The results of a finished run."""

    run: str | None = None
    strategy: str | None = None
    rounds: Count | None = None
    clients: Count | None = None
    samples_trained: Count | None = None
    samples_discarded: Count | None = None
    seconds: Measure = None
    samples_per_second: Measure = None
    bytes_published: Count | None = None
    parameters_sha256: str | None = None
    accuracy: ByCut | None = None
    accuracy_by_client: ByCut | None = None
    dropouts: list[Dropout] | None = None
    duplicates_dropped: Count | None = None
    refused: Count | None = None
    divergent_replay: Count | None = None
    store_rollbacks: list[Any] | None = None
    fingerprint: str | None = None
    versions: dict[str, Any] | None = None


class Member(_Part):
    """A client's place in a run."""

    cut: Count | None = None


class Description(_Part):
    """What run.json says of the data and the clients."""

    sample_shape: list[Count] | None = None
    classes: Count | None = None
    clients: dict[str, Member] | None = None


class Bound(_Part):
    """What one bound of the exit's entropy gives. ``adoption``: the share of samples that clients answer themselves."""

    max_entropy: float | None = None  # nats; infinity: clients answer everything
    accuracy: Share = None
    adoption: Share = None
    bytes_per_sample: Measure = None
    seconds_per_sample: Measure = None
    pareto: bool | None = None


class Sweep(_Part):
    """Bounds by cut, and "all" for the clients of all cuts together."""

    parameters_sha256: str | None = None
    split: str | None = None
    samples: Count | None = None
    wire_dtype: str | None = None
    cuts: dict[str, list[Bound]] | None = None


class Calibration(_Part):
    """The bounds that were chosen for a promise, by cut, and what they gave on the samples that they were chosen on."""

    parameters_sha256: str | None = None
    target: str | None = None
    value: Measure = None
    confidence: Measure = None
    samples: Count | None = None
    max_entropy: dict[str, float | None] | None = None
    estimated: MeasuresByCut | None = None


@dataclass(frozen=True)
class Run:
    """What there is of a run. ``name`` is unique among the runs of a report; ``summary`` is None as long as it is not finished."""

    folder: Path
    name: str
    lines: tuple[Line, ...] = ()  # by round
    summary: Summary | None = None
    experiment: dict[str, Any] = field(default_factory=dict)
    description: Description = field(default_factory=Description)
    sweep: Sweep = field(default_factory=Sweep)
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.summary is not None

    @property
    def planned(self) -> int | None:
        """The rounds that were asked for, if the experiment is there."""
        training = self.experiment.get("training")
        rounds = training.get("rounds") if isinstance(training, dict) else None
        return rounds if isinstance(rounds, int) else None

    @property
    def strategy(self) -> str:
        """How the servers' layers are shared, empty if it is not known."""
        training = self.experiment.get("training")
        asked = training.get("strategy") if isinstance(training, dict) else None
        return (self.summary and self.summary.strategy) or (asked if isinstance(asked, str) else "")

    @property
    def whole(self) -> bool:
        """Whether whole networks are trained, without servers: a baseline."""
        return self.strategy in ("alone", "centralized") or any("network" in found for found in self.accuracy.values())

    @property
    def accuracy(self) -> ByCut:
        """The final accuracy by cut; of an unfinished run the last one that was evaluated."""
        if self.summary and self.summary.accuracy:
            return self.summary.accuracy
        return next((line.accuracy for line in reversed(self.lines) if line.accuracy), {})


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the folders of runs, each under a name that no other has. Raises ReportError if one is none, or damaged."""
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    with_folder = [f"{run.name} ({run.folder})" if names.count(run.name) > 1 else run.name for run in runs]
    return [
        replace(run, name=f"{name} #{with_folder[: index + 1].count(name)}" if with_folder.count(name) > 1 else name)
        for index, (run, name) in enumerate(zip(runs, with_folder, strict=True))
    ]


def read_run(folder: Path) -> Run:
    """Read a run's folder, finished or not. Raises ReportError if it is none, or if a file in it is damaged."""
    if not any((folder / name).exists() for name in ("summary.json", "metrics.jsonl", "experiment.json")):
        raise ReportError(f"{folder} is no run's folder: there is no summary.json, metrics.jsonl or experiment.json in it")
    summary = _read(folder / "summary.json", _SUMMARY)
    experiment = _read(folder / "experiment.json", _OBJECT) or {}
    named = experiment.get("name")
    return Run(
        folder=folder,
        name=(summary.run if summary else None) or (named if isinstance(named, str) else "") or folder.resolve().name,
        lines=_lines(folder / "metrics.jsonl"),
        summary=summary,
        experiment=experiment,
        description=_read(folder / "run.json", _DESCRIPTION) or Description(),
        sweep=_read(folder / "inference" / "sweep.json", _SWEEP) or Sweep(),
        calibration=_read(folder / "inference" / "calibration.json", _CALIBRATION) or Calibration(),
    )


T = TypeVar("T")
_SUMMARY = TypeAdapter(Summary)
_DESCRIPTION = TypeAdapter(Description)
_SWEEP = TypeAdapter(Sweep)
_CALIBRATION = TypeAdapter(Calibration)
_OBJECT = TypeAdapter(dict[str, Any])
_LINE = TypeAdapter(Line)


def _lines(path: Path) -> tuple[Line, ...]:
    """Return the rounds of metrics.jsonl. A last line without its end is still being written."""
    text = _text(path) or ""
    complete = text[: text.rfind("\n") + 1].split("\n")
    found = [_check(_LINE, line, f"{path}, line {number}") for number, line in enumerate(complete, start=1) if line.strip()]
    return tuple(sorted({line.round: line for line in found}.values(), key=lambda line: line.round))


def _read(path: Path, kind: TypeAdapter[T]) -> T | None:
    text = _text(path)
    return None if text is None else _check(kind, text, str(path))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ReportError(f"{path} is damaged: not UTF-8") from None


def _check(kind: TypeAdapter[T], text: str, where: str) -> T:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ReportError(f"{where} is damaged: {place + ': ' if place else ''}{fault['msg']}") from None


def finite(value: float | None) -> bool:
    """Return whether a value is there and can be drawn."""
    return value is not None and math.isfinite(value)

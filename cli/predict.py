"""``splitee predict``: a trained network answers for image files, at the client where it is sure, at the servers where not."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from cli.errors import CommandError
from cli.servers import check_broker
from learning.errors import DataError
from learning.images import read_image
from workers.calibrated import calibrated_bounds
from workers.inference_client import InferenceClient, Predictions, Where
from workers.trained_run import TrainedRun

MAX_ENTROPY = 0.5  # nats, where nothing else is said and none was calibrated
BATCH = 64  # images
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}  # looked for in folders

Answer = dict[str, object]


def predict(
    *,
    folder: Path,
    inputs: Sequence[Path],
    client: str | None,
    max_entropy: float | None,
    broker: str | None,
    patience: float | None,
    as_json: bool,
) -> None:
    """Answer for image files, a line or a row each. What cannot be read is said and left out; then the exit code is 1."""
    torch.set_num_threads(1)
    files = _files(inputs)
    check_broker(broker)
    run = TrainedRun.open(folder)
    name = client or next(iter(run.clients))
    bound = max_entropy if max_entropy is not None else _usual(folder, run.member(name).cut)
    report = _Report(run, as_json)
    with ExitStack() as stack:
        opened = InferenceClient.open(folder, client=name, broker=broker, max_entropy=bound, patience=patience)
        stack.callback(opened.close)
        reading = _Reading(files, run.network.sample_shape)
        for found in opened.iterate(reading):
            report.add(reading.names.pop(0), found)
    report.close(f"client {name} at cut {run.member(name).cut}, max_entropy {bound:g}")
    if reading.bad:
        raise CommandError(f"{reading.bad} of {len(files)} images could not be read; the lines above say why")


class _Reading:
    """Batches of images from files. names: those of each batch that was read. bad: files that could not be."""

    def __init__(self, files: Sequence[Path], shape: tuple[int, ...]) -> None:
        self._files = files
        self._shape = shape
        self.names: list[list[Path]] = []
        self.bad = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for start in range(0, len(self._files), BATCH):
            read = dict(self._read(self._files[start : start + BATCH]))
            if read:
                self.names.append(list(read))
                yield torch.stack(list(read.values()))

    def _read(self, files: Iterable[Path]) -> Iterator[tuple[Path, torch.Tensor]]:
        for file in files:
            try:
                yield file, read_image(file, self._shape)
            except DataError as error:
                self.bad += 1
                print(f"splitee: {' '.join(str(error).split())}", file=sys.stderr)


class _Report:
    """Answers as JSON lines at once, or as a table at the end."""

    def __init__(self, run: TrainedRun, as_json: bool) -> None:
        self._names = run.class_names or tuple(map(str, range(run.network.classes)))
        self._json = as_json
        self._table = Table("image", "class", "probability", "entropy", "answered by")
        self._counts = dict.fromkeys(Where, 0)
        self._reason = ""

    def add(self, files: Sequence[Path], found: Predictions) -> None:
        """Report a batch."""
        self._reason = found.reason or self._reason
        for number, file in enumerate(files):
            label, where = int(found.labels[number]), found.where[number]
            probability, entropy = float(found.probabilities[number, label]), float(found.entropy[number])
            self._counts[where] += 1
            if self._json:
                answer: Answer = {
                    "image": str(file),
                    "label": label,
                    "class": self._names[label],
                    "probability": probability,
                    "entropy": entropy,
                    "where": where.value,
                }
                print(json.dumps(answer), flush=True)
            else:
                self._table.add_row(str(file), self._names[label], f"{probability:.3f}", f"{entropy:.3f}", where.value)

    def close(self, what: str) -> None:
        """Print what is left, and how many were answered where."""
        if not self._json:
            Console().print(self._table)
        degraded = f" ({self._reason})" if self._counts[Where.DEGRADED] else ""
        counts = ", ".join(f"{count} {where.value}" for where, count in self._counts.items())
        print(f"{what}: {counts}{degraded}", file=sys.stderr)


def _usual(folder: Path, cut: int) -> float:
    """Return the bound that was calibrated for a cut, or one that is sensible."""
    calibrated = calibrated_bounds(folder) or {}
    return calibrated.get(cut, MAX_ENTROPY)


def _files(inputs: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and the images in folders that are; raise CommandError if there are none."""
    if not inputs:
        raise CommandError("no images: name files or folders with --input")
    files: list[Path] = []
    for path in inputs:
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise CommandError(f"--input {path}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
        files += found
    return files

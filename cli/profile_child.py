"""A process for each cut that is measured: its memory is the cut's own, and what it cannot bear ends it alone."""

import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import torch

from cli.errors import CommandError, is_debugging
from cli.processes import Children
from learning.errors import LearningError
from learning.imports import describe
from learning.layers import build_network
from workers.cut_choice import CutProfile
from workers.profiling import measure_cut
from workers.run_settings import RunSettings


class OutOfMemory(CommandError):
    """This device has not enough memory for a cut."""


def measure_apart(settings: RunSettings, sample_shape: tuple[int, ...], classes: int, cut: int, batches: int) -> CutProfile:
    """Return what a cut asks of this device, measured in a process of its own.

    Raises OutOfMemory if its memory does not suffice, CommandError if the process fails.
    """
    children = Children()
    reader, writer = Pipe(duplex=False)
    process = children.start(
        measure_here, settings=settings, sample_shape=sample_shape, classes=classes, cut=cut, batches=batches, report=writer
    )
    writer.close()
    try:
        found = json.loads(reader.recv_bytes())
    except EOFError:
        process.join()
        raise _ended(cut, process.exitcode or 0) from None
    finally:
        children.stop()
        reader.close()
    if "row" not in found:
        kind = OutOfMemory if found["memory"] else CommandError
        raise kind(f"cut {cut} cannot be measured: {found['error']}")
    return CutProfile(**{**found["row"], "feature_shape": tuple(found["row"]["feature_shape"])})


def measure_here(
    settings: RunSettings, sample_shape: tuple[int, ...], classes: int, cut: int, batches: int, report: Connection
) -> None:
    """Measure a cut in this process with one torch thread, as a client has, and report the row, or what is wrong, as JSON."""
    torch.set_num_threads(1)
    os.dup2(sys.stderr.fileno(), 1)  # stdout is for the results: a model of the user's own may print
    found: dict[str, object]
    try:
        network = build_network(settings.model, sample_shape, classes, settings.training.seed)
        found = {"row": asdict(measure_cut(network, settings, cut, batches))}
    except Exception as error:  # noqa: BLE001  a model of the user's own may raise anything
        if is_debugging():
            traceback.print_exc()
        said = str(error) if isinstance(error, LearningError) else describe(error)
        memory = _is_memory(error)
        found = {"error": f"not enough memory: {said}" if memory else said, "memory": memory}
    report.send_bytes(json.dumps(found).encode())


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


def _ended(cut: int, code: int) -> CommandError:
    """Return what it means that a process ended without a word."""
    if code == -signal.SIGKILL:
        return OutOfMemory(f"cut {cut} cannot be measured: its process was killed, as the system does when memory runs out")
    if code < 0:
        return CommandError(f"cut {cut} cannot be measured: its process was ended by {signal.Signals(-code).name}")
    return CommandError(f"cut {cut} cannot be measured: its process ended with exit code {code}; its message is above")

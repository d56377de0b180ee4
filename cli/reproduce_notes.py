"""What is to be said under a table of runs: of the clients' halves, of the spread, of time and machine."""

import statistics
from collections.abc import Iterator, Sequence

from cli.reproduce_plan import VARIANTS, Request
from cli.reproduce_table import Done, has_same_clients
from monitoring.lines import count

_MACHINE = ("processor", "cores", "torch")


def clients_notes(done: Sequence[Done], odd: Sequence[str]) -> Iterator[str]:
    """Yield what is to be said of the clients' halves; odd: the mismatches."""
    chosen = list(dict.fromkeys(one.trial.variant for one in done))
    same = [name for name in chosen if has_same_clients(name)]
    if odd:
        yield f"The clients' halves differ between strategies, which must not be: {'; '.join(odd[:10])}."
    elif len(same) > 1:
        yield f"The clients' halves are the same, bit for bit, under {', '.join(same)}: their accuracies are equal."
    own = [name for name in chosen if VARIANTS[name].own_clients]
    if own:
        yield f"Under {' and '.join(own)} the clients' halves are averaged too and have accuracies of their own."


def run_notes(request: Request, done: Sequence[Done]) -> Iterator[str]:
    """Yield what the spread is of, the command, and how long a run took on which machine."""
    if request.seeds > 1:
        yield (
            "± is over seeds: a seed decides first weights, which images are trained on and by which client, the order of batches, "
            "and augmentation. The test images stay the same: what others would change is not in it."
        )
    yield f"Command: {request.command}"
    timed = [one for one in done if one.time]
    if timed:
        yield f"On {'; '.join(dict.fromkeys(map(_machine, timed)))}: mean wall time of a run {', '.join(_seconds(timed))}."


def _machine(one: Done) -> str:
    processor, cores, torch = (one.time["machine"][key] for key in _MACHINE)
    return f"{processor}, {cores} cores, torch {torch}, {count(one.time['jobs'], 'run')} at a time"


def _seconds(timed: Sequence[Done]) -> Iterator[str]:
    for name in dict.fromkeys(one.trial.variant for one in timed):
        wall, cpu = (
            statistics.mean(one.time[key] for one in timed if one.trial.variant == name) for key in ("seconds", "cpu_seconds")
        )
        yield f"{name} {wall:.0f} s ({cpu:.0f} s of one core)"

"""``splitee calibrate``: the entropy bound of each cut that keeps a promise, chosen on the test split."""

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.errors import CommandError
from cli.inference_run import open_recorded, say
from learning.calibration import Choice, Target, choose
from workers.calibrated import Calibration, Estimate, save_calibration
from workers.inference_folder import place

_PROMISES = {"max_accuracy_loss": "expected accuracy loss at most", "max_offload": "expected share offloaded at most"}


def run_calibrate(
    *, folder: Path, max_accuracy_loss: float | None, max_offload: float | None, confidence: float, limit: int | None, json: bool
) -> None:
    """Choose the bounds of a run's cuts, write calibration.json and print it. Raises the package's errors, each one line."""
    target, value = _target(max_accuracy_loss, max_offload)
    _check_share("--confidence", confidence)
    run, answers = open_recorded(folder, limit)
    seed = run.settings.training.seed
    chosen = {cut: choose(own, target, value, confidence, seed) for cut, own in answers.records.by_cut().items()}
    calibration = Calibration(
        run=run.settings.run,
        parameters_sha256=answers.parameters_sha256,
        target=target,
        value=value,
        confidence=confidence,
        samples=len(answers.records),
        max_entropy={cut: choice.max_entropy for cut, choice in chosen.items()},
        estimated={cut: _estimate(choice) for cut, choice in chosen.items()},
    )
    save_calibration(folder, calibration)
    if json:
        print(calibration.model_dump_json(indent=2))
    else:
        Console().print(_table(calibration))
        Console().print(f"Written to {place(folder, 'calibration.json')}", soft_wrap=True)
    for cut, choice in chosen.items():
        if not choice.promised:
            say(_safe_end(cut, choice, calibration))


def _target(max_accuracy_loss: float | None, max_offload: float | None) -> tuple[Target, float]:
    """Return what is asked for; raise CommandError unless it is one thing, with a value that can be promised."""
    if (max_accuracy_loss is None) == (max_offload is None):
        said = "neither" if max_offload is None else "both"
        raise CommandError(f"{said} of --max-accuracy-loss and --max-offload is given: give exactly one, it is what is promised")
    if max_accuracy_loss is not None:
        _check_share("--max-accuracy-loss", max_accuracy_loss)
        return "max_accuracy_loss", max_accuracy_loss
    assert max_offload is not None
    _check_share("--max-offload", max_offload)
    return "max_offload", max_offload


def _check_share(option: str, value: float) -> None:
    if not 0 < value < 1:
        raise CommandError(f"{option} {value:g}: it must be above 0 and below 1")


def _estimate(choice: Choice) -> Estimate:
    return Estimate(accuracy=choice.accuracy, accuracy_loss=choice.accuracy_loss, offload=choice.offload)


def _safe_end(cut: int, choice: Choice, calibration: Calibration) -> str:
    bound = "infinity, which offloads nothing" if choice.max_entropy == math.inf else "0, which offloads everything"
    return (
        f"cut {cut}: {calibration.samples} samples are not enough to promise any other bound than {bound}; "
        "use more samples, a larger value or a smaller --confidence"
    )


def _table(found: Calibration) -> Table:
    title = f"{found.run}: {_PROMISES[found.target]} {found.value:g} with confidence {found.confidence:g}, for each cut by itself"
    caption = f"accuracy, loss and share: as they were on the {found.samples} samples of the test split that chose the bound"
    table = Table(title=title, caption=caption)
    for name in ("cut", "max_entropy", "accuracy", "accuracy loss", "offloaded"):
        table.add_column(name, justify="right")
    for cut, bound in found.max_entropy.items():
        own = found.estimated[cut]
        table.add_row(str(cut), f"{bound:g}", f"{own.accuracy:.4f}", f"{own.accuracy_loss:.4f}", f"{own.offload:.1%}")
    return table

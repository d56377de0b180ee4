"""The command line of trained runs: what they answer, how sure they have to be, how they look."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Folder, Json, Limit, OptionalBroker


def predict(
    folder: Folder,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="More images.", show_default=False)] = None,
    inputs: Annotated[
        list[Path] | None, typer.Option("--input", metavar="IMAGE", help="Image file, or folder of images; repeatable.")
    ] = None,
    client: Annotated[str | None, typer.Option(metavar="ID", help="Client whose layers to use; default the first.")] = None,
    max_entropy: Annotated[
        float | None,
        typer.Option(metavar="H", help="Nats below which a client answers itself; default as calibrated, or 0.5."),
    ] = None,
    broker: OptionalBroker = None,
    patience: Annotated[float | None, typer.Option(metavar="S", help="Seconds that a server's answer may take.")] = None,
    json: Json = False,
) -> None:
    """Classify images with a trained network, early where its exit is sure."""
    from cli.predict import predict as answer

    images = [*(inputs or ()), *(more or ())]
    answer(folder=folder, inputs=images, client=client, max_entropy=max_entropy, broker=broker, patience=patience, as_json=json)


def sweep(folder: Folder, limit: Limit = None, json: Json = False) -> None:
    """Compare entropy bounds of adaptive inference on a finished run: accuracy, adoption, bytes and seconds."""
    from cli.sweep import run_sweep

    run_sweep(folder=folder, limit=limit, json=json)


def calibrate(
    folder: Folder,
    max_accuracy_loss: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Accuracy that may be lost against offloading everything, as 0.01.")
    ] = None,
    max_offload: Annotated[float | None, typer.Option(metavar="SHARE", help="Samples that may be offloaded, as 0.3.")] = None,
    confidence: Annotated[float, typer.Option(metavar="SHARE", help="With which the promise is kept, for each cut.")] = 0.95,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Choose each cut's entropy bound on the test split, so that a promise is kept on fresh samples."""
    from cli.calibrate import run_calibrate

    run_calibrate(
        folder=folder,
        max_accuracy_loss=max_accuracy_loss,
        max_offload=max_offload,
        confidence=confidence,
        limit=limit,
        json=json,
    )


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, finished or not.", show_default=False)],
    output: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path("report.html"),
    figures: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for PNG figures and their numbers as CSV.")] = None,
) -> None:
    """Write one HTML page on runs: accuracy, loss, traffic, dropouts and settings, side by side."""
    from cli.report import report as write

    write(runs=runs, output=output, figures=figures)

"""`splitee bench`: the command line of benchmarks."""

from typing import Annotated, Literal

import typer

from cli.options import Json, OptionalBroker, OptionalStore, Precision, Quick

bench = typer.Typer(help="Measure this machine.", no_args_is_help=True)


@bench.command("train")
def bench_train(
    json: Json = False,
    broker: OptionalBroker = None,
    store: OptionalStore = None,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of all that is compared.")] = "auto",
    repetitions: Annotated[int | None, typer.Option(min=1, metavar="N", help="Measurements of each; default 5.")] = None,
    batches: Annotated[int | None, typer.Option(min=1, metavar="N", help="Batches of a client in a round; default 10.")] = None,
    width: Annotated[int | None, typer.Option(min=1, metavar="N", help="Width of the network; default 64.")] = None,
    metrics: Annotated[
        Literal["on", "off"], typer.Option(help="on: over RabbitMQ and Redis, with exporters in all roles against without.")
    ] = "off",
    quick: Quick = False,
) -> None:
    """Measure samples trained a second: a plain loop, in one process, and over RabbitMQ and Redis."""
    from cli.bench import train as measure

    measure(
        json=json,
        broker=broker,
        store=store,
        precision=precision,
        repetitions=repetitions,
        batches=batches,
        width=width,
        quick=quick,
        metrics=metrics == "on",
    )


@bench.command("memory")
def bench_memory(json: Json = False, broker: OptionalBroker = None, store: OptionalStore = None, quick: Quick = False) -> None:
    """Measure a server worker's memory with 96 clients against 12."""
    from cli.bench import memory as measure

    measure(json=json, broker=broker, store=store, quick=quick)


@bench.command("inference")
def bench_inference(json: Json = False, broker: OptionalBroker = None, store: OptionalStore = None, quick: Quick = False) -> None:
    """Measure offloaded inference: samples a second against both halves in one loop, and latency."""
    from cli.bench import inference as measure

    measure(json=json, broker=broker, store=store, quick=quick)

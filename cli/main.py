"""The `splitee` command: parses, then calls the module that does the work. torch is imported there, not here."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.bench_commands import bench
from cli.dead_commands import dead
from cli.errors import report_errors
from cli.options import (
    LOOPBACK,
    Broker,
    File,
    Json,
    LogFormat,
    LogLevel,
    MetricsAddress,
    MetricsByClient,
    MetricsPort,
    OptionalBroker,
    OptionalFile,
    OptionalStore,
    Output,
    Overrides,
    Run,
    Store,
)
from cli.trained_commands import calibrate, predict, report, sweep

app = typer.Typer(
    name="splitee",
    help="Train and serve one neural network across many unequal devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.add_typer(dead, name="dead")
for command in (predict, sweep, calibrate, report):
    app.command()(command)


@app.command()
def train(
    file: OptionalFile = None,
    overrides: Overrides = None,
    output: Output = None,
    broker: OptionalBroker = None,
    store: OptionalStore = None,
    servers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Server workers.")] = None,
    metrics_port: MetricsPort = None,
    metrics_address: MetricsAddress = LOOPBACK,
    metrics_by_client: MetricsByClient = False,
    log_format: LogFormat = "auto",
    log_level: LogLevel = "info",
) -> None:
    """Train with coordinator, clients and server workers in this one process; the baselines need none of them."""
    from cli.logs import LogAs

    LogAs("coordinator" if broker and store else "train", log_format, log_level, (broker, store)).begin()
    from coordinator.experiment import load_experiment

    experiment = load_experiment(file, overrides or ())
    from cli.metrics import MetricsAt
    from cli.train import train as run

    metrics = MetricsAt(metrics_port, metrics_address, metrics_by_client)
    output = output or Path("runs") / experiment.name
    run(experiment=experiment, output=output, broker=broker, store=store, servers=servers, metrics=metrics)


@app.command()
def coordinator(
    file: File,
    broker: Broker,
    store: Store,
    overrides: Overrides = None,
    output: Output = None,
    metrics_port: MetricsPort = None,
    metrics_address: MetricsAddress = LOOPBACK,
    metrics_by_client: MetricsByClient = False,
    log_format: LogFormat = "auto",
    log_level: LogLevel = "info",
) -> None:
    """Run the coordinator of a distributed run."""
    from cli.logs import LogAs

    LogAs("coordinator", log_format, log_level, (broker, store)).begin()
    from coordinator.experiment import load_experiment

    experiment = load_experiment(file, overrides or ())
    from cli.metrics import MetricsAt
    from cli.roles import coordinator as run

    metrics = MetricsAt(metrics_port, metrics_address, metrics_by_client)
    run(experiment=experiment, output=output or Path("runs") / experiment.name, broker=broker, store=store, metrics=metrics)


@app.command()
def server(
    run: Run,
    broker: Broker,
    store: Store,
    stay: Annotated[bool, typer.Option("--stay", help="When the run is finished, stay and answer inference.")] = False,
    metrics_port: MetricsPort = None,
    metrics_address: MetricsAddress = LOOPBACK,
    log_format: LogFormat = "auto",
    log_level: LogLevel = "info",
) -> None:
    """Run a server worker."""
    from cli.logs import LogAs

    LogAs("server", log_format, log_level, (broker, store)).begin()
    from cli.metrics import MetricsAt
    from cli.roles import server as serve

    serve(run=run, broker=broker, store=store, stay=stay, metrics=MetricsAt(metrics_port, metrics_address))


@app.command()
def client(
    run: Run,
    id: Annotated[str, typer.Option(metavar="ID", help="Id of this client.")],
    cut: Annotated[int, typer.Option(min=1, metavar="L", help="Layer after which this client cuts the network.")],
    broker: Broker,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Own samples, imagefolder:PATH or module:function; else a part of the run's data."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="Own first layers.")] = None,
    exit: Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="Own early exit.")] = None,
    state: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder that lets this client go on after a restart.")] = None,
    metrics_port: MetricsPort = None,
    metrics_address: MetricsAddress = LOOPBACK,
    log_format: LogFormat = "auto",
    log_level: LogLevel = "info",
) -> None:
    """Run a client: the first layers, on this device's own data."""
    from cli.logs import LogAs

    LogAs("client", log_format, log_level, (broker,)).begin()
    from cli.metrics import MetricsAt
    from cli.roles import client as take_part

    metrics = MetricsAt(metrics_port, metrics_address)
    take_part(run=run, id=id, cut=cut, broker=broker, data=data, model=model, exit=exit, state=state, metrics=metrics)


@app.command()
def status(
    run: Run,
    store: Store,
    broker: Annotated[
        str | None, typer.Option(metavar="URL", envvar="SPLITEE_BROKER_URL", help="RabbitMQ, to see its queues, too.")
    ] = None,
    json: Json = False,
    once: Annotated[bool, typer.Option("--once", help="Print and end.")] = False,
) -> None:
    """Show where a run is, and what it waits for: rounds, clients, streams and queues."""
    from cli.status import status as show

    show(run=run, store=store, broker=broker, json=json, once=once)


@app.command()
def doctor(broker: OptionalBroker = None, store: OptionalStore = None, json: Json = False) -> None:
    """Check this machine: versions, devices, servers; say how to get what is missing."""
    from cli.doctor import examine, print_checks

    checks = examine(broker, store)
    print_checks(checks, json)
    if any(check.failed for check in checks):
        raise typer.Exit(1)


@app.command()
def profile(
    file: OptionalFile = None,
    overrides: Overrides = None,
    max_step_ms: Annotated[float | None, typer.Option(metavar="MS", help="Milliseconds that a training step may take.")] = None,
    max_memory_mb: Annotated[
        float | None, typer.Option(metavar="MB", help="Megabytes that training may take, beside what a process with torch has.")
    ] = None,
    max_mbps: Annotated[float | None, typer.Option(metavar="MBPS", help="Mbit/s that training at full speed may send.")] = None,
    batches: Annotated[int, typer.Option(min=1, metavar="N", help="Batches measured at each cut.")] = 10,
    json: Json = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="File for the figures as JSON.")] = None,
) -> None:
    """Measure what each cut asks of this device; within a budget, recommend the deepest. Needs no data."""
    from coordinator.experiment import load_experiment
    from workers.cut_choice import Budget

    experiment = load_experiment(file, overrides or ())
    budget = Budget(max_step_ms=max_step_ms, max_memory_mb=max_memory_mb, max_mbps=max_mbps)
    from cli.profile import profile as measure

    measure(experiment=experiment, budget=budget, batches=batches, json=json, output=output)


@app.command()
def init(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="File to write; with --compose, the project's folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what exists.")] = False,
    compose: Annotated[bool, typer.Option("--compose", help="Make the secrets of docker-compose.yml instead.")] = False,
) -> None:
    """Write an experiment file with every key, its default and what it is; or the secrets of docker-compose.yml."""
    if compose:
        from cli.compose import write_secrets

        for line in write_secrets(path or Path(), force):
            typer.echo(line)
        return
    from cli.init import write_experiment

    file = path or Path("experiment.toml")
    write_experiment(file, force)
    typer.echo(f"Wrote {file}; train with: splitee train {file}")


@app.command()
def clean(
    run: Run,
    broker: Broker,
    store: Store,
    force: Annotated[bool, typer.Option("--force", help="Even while roles work on it.")] = False,
) -> None:
    """Remove everything that a run has left in broker and store."""
    from cli.clean import clean as remove

    remove(run=run, broker=broker, store=store, force=force)


@app.command()
def reproduce(
    experiment: Annotated[
        Literal["homogeneous", "heterogeneous", "threshold", "wire"],
        typer.Argument(
            help="All clients at one cut; four each at three; these, with each entropy bound; with each wire dtype.",
            show_default=False,
        ),
    ],
    data: Annotated[str, typer.Option(metavar="DATA", help="cifar10, cifar100, stl10, digits or imagefolder:PATH.")] = "cifar10",
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of downloaded data sets; default data.")] = None,
    scale: Annotated[Literal["small", "paper"], typer.Option(help="For two CPU cores, or the paper's.")] = "small",
    seeds: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Runs of each, from seeds 0 to N-1.")] = 3,
    strategies: Annotated[str | None, typer.Option(metavar="A,B", help="Strategies, or wire dtypes, to compare.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rounds of each run; default by scale.")] = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of all runs; default runs/reproduce-SCALE.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Runs at a time; default one a core, or one on a GPU.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and end.")] = False,
    json: Json = False,
) -> None:
    """Train an experiment of the paper, from several seeds, and print its table."""
    from cli.reproduce_plan import Request

    names = tuple(name.strip() for name in strategies.split(",")) if strategies is not None else ()
    request = Request(experiment, data, root, scale, seeds, names, rounds, tuple(overrides or ()))
    from cli.reproduce import reproduce as run

    run(request=request, output=output or Path("runs") / f"reproduce-{scale}", jobs=jobs, dry_run=dry_run, json=json)


@functools.cache
def command_line() -> Callable[[], object]:
    """Return the program: all commands and their options, built once a process."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line."""
    report_errors(command_line())


if __name__ == "__main__":
    main()

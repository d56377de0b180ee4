"""What options and arguments of several commands are."""

from pathlib import Path
from typing import Annotated, Literal

import typer

File = Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="Experiment file.", show_default=False)]
OptionalFile = Annotated[
    Path | None, typer.Argument(metavar="EXPERIMENT.toml", help="Experiment file; without it, digits.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key of the experiment; repeatable.")
]
Output = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the results; default runs/NAME.")]
Broker = Annotated[str, typer.Option(metavar="URL", envvar="SPLITEE_BROKER_URL", help="RabbitMQ, amqp://user:password@host:port/.")]
Store = Annotated[str, typer.Option(metavar="URL", envvar="SPLITEE_STORE_URL", help="Redis, redis://:password@host:port/0.")]
OptionalBroker = Annotated[
    str | None, typer.Option(metavar="URL", envvar="SPLITEE_BROKER_URL", help="RabbitMQ; without it, in this process.")
]
OptionalStore = Annotated[
    str | None, typer.Option(metavar="URL", envvar="SPLITEE_STORE_URL", help="Redis; without it, in this process.")
]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, runs/NAME.", show_default=False)]
Run = Annotated[str, typer.Option(metavar="NAME", help="Name of the run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Dead letters, by the beginning of their ids.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters of the run.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only a seeded random N of the test split's samples.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, metavar="PORT", envvar="SPLITEE_METRICS_PORT", help="Serve /metrics and /healthz here; 0: any free port."
    ),
]
MetricsAddress = Annotated[
    str, typer.Option(metavar="ADDRESS", envvar="SPLITEE_METRICS_ADDRESS", help="Address of the metrics port; 0.0.0.0: all.")
]
MetricsByClient = Annotated[
    bool, typer.Option("--metrics-by-client", help="Label what clients count with their ids: a series for each.")
]
LogFormat = Annotated[
    Literal["auto", "text", "json"],
    typer.Option(envvar="SPLITEE_LOG_FORMAT", help="Log lines; auto: text on a terminal, else JSON, one object a line."),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(envvar="SPLITEE_LOG_LEVEL", help="Least that is logged.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny sizes: shows that it works, measures nothing.")]
LOOPBACK = "127.0.0.1"
Precision = Literal["auto", "float32", "bfloat16"]

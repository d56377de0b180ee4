"""`splitee dead`: the command line of dead letters."""

from typing import Annotated

import typer

from cli.options import All, Broker, Ids, Json, Run, Store

dead = typer.Typer(help="What a run has refused: its dead letters.", no_args_is_help=True)


@dead.command("list")
def dead_list(run: Run, broker: Broker, json: Json = False) -> None:
    """List dead letters: where each was refused, and why. They stay."""
    from cli.dead import list_letters

    list_letters(run=run, broker=broker, json=json)


@dead.command("show")
def dead_show(
    run: Run, broker: Broker, id: Annotated[str, typer.Argument(metavar="ID", help="Dead letter, by the beginning of its id.")]
) -> None:
    """Show one dead letter in full. It stays."""
    from cli.dead import show

    show(run=run, broker=broker, id=id)


@dead.command("drop")
def dead_drop(run: Run, broker: Broker, ids: Ids = None, everything: All = False) -> None:
    """Remove dead letters for good."""
    from cli.dead import drop

    drop(run=run, broker=broker, ids=ids or (), everything=everything)


@dead.command("requeue")
def dead_requeue(run: Run, broker: Broker, store: Store, ids: Ids = None, everything: All = False) -> None:
    """Send dead letters again, into a round that is still open."""
    from cli.dead import requeue

    requeue(run=run, broker=broker, store=store, ids=ids or (), everything=everything)

"""A round is a set of streams; a strategy decides how the clients are grouped into them.

Sequential is one stream of N clients, Averaging and Distributed are N streams of one client, ``streams = G`` is
anything between. A stream trains one replica on its clients' batches, in list order.
"""

from collections.abc import Sequence

from learning.settings import TrainingSettings


def group(clients: Sequence[tuple[int, str]], training: TrainingSettings) -> dict[str, list[str]]:
    """Return stream name -> clients in order, for clients given as (index in the roster, id).

    A client stays in its stream for the whole run, whoever comes and goes: its stream follows from its index alone.
    Dealt in turn, so that every stream gets a mix of cuts when the roster lists them in blocks.
    """
    ordered = sorted(clients)
    if training.strategy == "sequential":
        return {"all": [client for _, client in ordered]} if ordered else {}
    if training.streams is None:
        return {client: [client] for _, client in ordered}
    streams: dict[str, list[str]] = {}
    for index, client in ordered:
        streams.setdefault(f"stream-{index % training.streams + 1}", []).append(client)
    return dict(sorted(streams.items()))


def averaged(training: TrainingSettings) -> bool:
    """Return whether replicas are averaged at the end of a round; else each goes on from itself."""
    return training.strategy != "distributed"

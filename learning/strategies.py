"""A round is a set of streams; a strategy decides how the clients are grouped into them.

Sequential is one stream of N clients, Averaging and Distributed are N streams of one client, ``streams = G`` is
anything between. A stream trains one replica on its clients' batches, in list order.

The baselines alone and centralized have neither streams nor servers: see coordinator/baseline.py.
"""

from collections.abc import Sequence

from learning.errors import SettingsError
from learning.settings import TrainingSettings


def is_split(training: TrainingSettings) -> bool:
    """Return whether clients and servers train a network between them; the baselines train whole ones, without servers."""
    return training.strategy not in ("alone", "centralized")


def group(clients: Sequence[tuple[int, str]], training: TrainingSettings) -> dict[str, list[str]]:
    """Return stream name -> clients in order, for clients given as (index in the roster, id).

    A client stays in its stream for the whole run, whoever comes and goes: its stream follows from its index alone.
    Dealt in turn, so that every stream gets a mix of cuts when the roster lists them in blocks. Raises SettingsError for a
    baseline.
    """
    _check_split(training)
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
    """Return whether replicas are averaged at the end of a round; else each goes on from itself.

    Raises SettingsError for a baseline, which has no replicas.
    """
    _check_split(training)
    return training.strategy != "distributed"


def _check_split(training: TrainingSettings) -> None:
    if not is_split(training):
        raise SettingsError(f"training.strategy = {training.strategy} trains whole networks: there are no streams and no replicas")

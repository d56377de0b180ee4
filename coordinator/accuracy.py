"""Accuracy from the scores that clients have reported."""

from collections.abc import Mapping

from broker.messages import Score
from coordinator.store.records import Roster, Scores

Accuracy = dict[str, dict[str, float]]
"""By cut or client: at the clients' exits ("client") and at the servers ("server"); or of whole networks ("network")."""


def by_cut(scores: Scores, roster: Roster) -> Accuracy:
    """Return the mean over the clients of each cut, of those that have reported."""
    clients = sorted(roster.clients.values(), key=lambda client: client.cut)
    return mean_by(by_client(scores), {client.id: str(client.cut) for client in clients})


def by_client(scores: Scores) -> Accuracy:
    """Return each client's own."""
    return {client: _share(score) for client, score in sorted(scores.clients.items()) if score.samples}


def mean_by(own: Accuracy, groups: Mapping[str, str]) -> Accuracy:
    """Return the mean over the members of each group that have one; groups: member -> group, in the order of the groups."""
    found: dict[str, list[dict[str, float]]] = {}
    for member, group in groups.items():
        if member in own:
            found.setdefault(group, []).append(own[member])
    return {
        group: {where: sum(one[where] for one in members) / len(members) for where in members[0]}
        for group, members in found.items()
    }


def _share(score: Score) -> dict[str, float]:
    return {"client": score.client_correct / score.samples, "server": score.server_correct / score.samples}

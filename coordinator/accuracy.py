"""Accuracy from the scores that clients have reported."""

from broker.messages import Score
from coordinator.store.records import Roster, Scores

Accuracy = dict[str, dict[str, float]]  # by cut or client: at the clients' exits ("client") and at the servers ("server")


def by_cut(scores: Scores, roster: Roster) -> Accuracy:
    """Return the mean over the clients of each cut, of those that have reported."""
    found: dict[int, list[dict[str, float]]] = {}
    own = by_client(scores)
    for client in roster.clients.values():
        if client.id in own:
            found.setdefault(client.cut, []).append(own[client.id])
    return {
        str(cut): {where: sum(one[where] for one in clients) / len(clients) for where in ("client", "server")}
        for cut, clients in sorted(found.items())
    }


def by_client(scores: Scores) -> Accuracy:
    """Return each client's own."""
    return {client: _share(score) for client, score in sorted(scores.clients.items()) if score.samples}


def _share(score: Score) -> dict[str, float]:
    return {"client": score.client_correct / score.samples, "server": score.server_correct / score.samples}

"""What each entropy bound gives on recorded answers: accuracy, adoption, bytes and seconds a sample."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from learning.records import Records

# Fixed in advance, so that a choice among them can be promised: the paper's 0.0..4.0, in steps half as long because the
# entropies of a network that is not sure yet lie close together, and below them those of one that is sure of nearly everything.
BOUNDS = (
    *(0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
    *(step / 20 for step in range(1, 81)),
    math.inf,
)
ALL = "all"


@dataclass(frozen=True)
class Costs:
    """What a sample costs at one cut.

    bytes: of its features in the wire dtype, if it is offloaded. client_seconds: of computation at the client, exit
    included; every sample has them. server_seconds: of computation at the servers, if it is offloaded.
    """

    bytes: int
    client_seconds: float
    server_seconds: float


@dataclass(frozen=True)
class Point:
    """One bound's figures, means over samples and clients.

    adoption: the share that clients answer. bytes_per_sample: of features offloaded. seconds_per_sample: of computation at
    client and server. pareto: no other bound of the sweep has a higher accuracy for as few bytes, or as high a one for fewer;
    of bounds with equal figures the lowest is marked.
    """

    max_entropy: float
    accuracy: float
    adoption: float
    bytes_per_sample: float
    seconds_per_sample: float
    pareto: bool


def sweep(records: Records, costs: Mapping[int, Costs]) -> dict[str, list[Point]]:
    """Return the points of BOUNDS for the clients of each cut ("3"), by growing cut, and for all clients ("all")."""
    groups = {str(cut): own for cut, own in records.by_cut().items()} | {ALL: records}
    return {name: _points(own, [costs[cut] for cut in own.cuts]) for name, own in groups.items()}


def _points(records: Records, costs: Sequence[Costs]) -> list[Point]:
    return _marked([_point(records, bound, costs) for bound in BOUNDS])


def _point(records: Records, bound: float, costs: Sequence[Costs]) -> Point:
    """Return a bound's figures; samples are counted in integers, so that equal figures are equal."""
    answered = records.answered(bound)
    samples, answers = len(records), answered.numel()
    offloaded = [samples - own for own in answered.sum(dim=1).tolist()]
    sent = sum(count * cost.bytes for count, cost in zip(offloaded, costs, strict=True))
    shares = [cost.client_seconds + cost.server_seconds * count / samples for count, cost in zip(offloaded, costs, strict=True)]
    return Point(
        max_entropy=bound,
        accuracy=int(records.correct(answered).sum()) / answers,
        adoption=(answers - sum(offloaded)) / answers,
        bytes_per_sample=sent / answers,
        seconds_per_sample=sum(shares) / len(shares),
        pareto=False,
    )


def _marked(points: Sequence[Point]) -> list[Point]:
    """Return points of growing bound, so of bytes that never grow, with those marked that no other one is better than."""
    marked, best = [], -1.0
    for point in sorted(points, key=lambda point: (point.bytes_per_sample, -point.accuracy, point.max_entropy)):
        marked.append(replace(point, pareto=point.accuracy > best))
        best = max(best, point.accuracy)
    return sorted(marked, key=lambda point: point.max_entropy)

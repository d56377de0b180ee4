"""Division of the training samples over the clients."""

import numpy
import torch

from learning.errors import DataError
from learning.seeds import derive, generator
from learning.settings import DataSettings

LEAST = 2  # samples a client needs: BatchNorm cannot train on one
_ATTEMPTS = 100  # draws of a dirichlet partition before it is given up


def partition(labels: torch.Tensor, parts: int, data: DataSettings, seed: int) -> list[torch.Tensor]:
    """Return the indices of each part's samples, ascending; no sample is in two parts.

    iid: a random division into parts whose sizes differ by at most one. dirichlet: each class is divided in proportions
    drawn from Dirichlet(alpha) (Hsu et al., arXiv 1909.06335). shards: each part holds samples of ``classes_per_client``
    classes, every class equally often as far as it comes out even; classes that no part holds stay unused.

    labels: (samples,). Raises DataError if a part would have fewer than 2 samples.
    """
    if parts < 1:
        raise DataError(f"cannot divide samples over {parts} clients")
    if len(labels) < LEAST * parts:
        raise DataError(
            f"{len(labels)} training samples are too few for {parts} clients, each needs {LEAST}: "
            "use fewer clients or a larger data.train_limit"
        )
    if data.partition == "iid":
        divided = _iid(labels, parts, seed)
    elif data.partition == "dirichlet":
        divided = _dirichlet(labels, parts, data.alpha, seed)
    else:
        divided = _shards(labels, parts, data.classes_per_client, seed)
    return [indices.sort().values for indices in divided]


def _iid(labels: torch.Tensor, parts: int, seed: int) -> list[torch.Tensor]:
    return list(torch.randperm(len(labels), generator=generator(seed, "partition")).tensor_split(parts))


def _dirichlet(labels: torch.Tensor, parts: int, alpha: float, seed: int) -> list[torch.Tensor]:
    smallest = 0
    for attempt in range(_ATTEMPTS):
        divided = _draw_dirichlet(labels, parts, alpha, derive(seed, "partition", attempt))
        smallest = min(range(parts), key=lambda part: len(divided[part]))
        if len(divided[smallest]) >= LEAST:
            return divided
    raise DataError(
        f"no dirichlet partition with alpha = {alpha} gives each of {parts} clients {LEAST} samples "
        f"({_ATTEMPTS} draws; client {smallest + 1} of the last got {len(divided[smallest])}): "
        "raise data.alpha, use fewer clients or a larger data.train_limit"
    )


def _draw_dirichlet(labels: torch.Tensor, parts: int, alpha: float, seed: int) -> list[torch.Tensor]:
    random = numpy.random.default_rng(seed)
    pieces: list[list[torch.Tensor]] = [[] for _ in range(parts)]
    for label in sorted(set(labels.tolist())):
        members = random.permutation((labels == label).nonzero().flatten().numpy())
        shares = random.dirichlet([alpha] * parts)
        bounds = (shares.cumsum()[:-1] * len(members)).round().astype(int)
        for part, piece in enumerate(numpy.split(members, bounds)):
            pieces[part].append(torch.from_numpy(piece))
    return [torch.cat(piece) for piece in pieces]


def _shards(labels: torch.Tensor, parts: int, classes_per_client: int, seed: int) -> list[torch.Tensor]:
    classes = sorted(set(labels.tolist()))
    if classes_per_client > len(classes):
        raise DataError(f"data.classes_per_client = {classes_per_client}, but there are {len(classes)} classes")
    random = generator(seed, "partition")
    holders = _holders(classes, parts, classes_per_client, random)
    pieces: list[list[torch.Tensor]] = [[] for _ in range(parts)]
    for label, holding in holders.items():
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=random)]
        for part, piece in zip(holding, shuffled.tensor_split(max(len(holding), 1)), strict=False):
            pieces[part].append(piece)
    divided = [torch.cat(piece) for piece in pieces]
    for part, indices in enumerate(divided):
        if len(indices) < LEAST:
            raise DataError(
                f"the shards partition gives client {part + 1} of {parts} only {len(indices)} samples, each needs {LEAST}: "
                "raise data.classes_per_client, use fewer clients or a larger data.train_limit"
            )
    return divided


def _holders(classes: list[int], parts: int, classes_per_client: int, random: torch.Generator) -> dict[int, list[int]]:
    """Give each part distinct classes, those with the fewest holders first, ties at random: class -> parts."""
    holders: dict[int, list[int]] = {label: [] for label in classes}
    for part in range(parts):
        order = [classes[position] for position in torch.randperm(len(classes), generator=random).tolist()]
        for label in sorted(order, key=lambda label: len(holders[label]))[:classes_per_client]:
            holders[label].append(part)
    return holders

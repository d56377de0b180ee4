"""The paper's experiments as lists of ordinary runs: which variants, at which cuts, from which seeds, in which size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cli.errors import CommandError
from coordinator.experiment import Experiment, load_experiment

CLIENTS = 12
CUTS = (3, 4, 5)
DATA = ("cifar10", "cifar100", "stl10", "digits")  # or imagefolder:PATH
_FOLDER = "imagefolder:"
_EXPERIMENTS = Path(__file__).parents[1] / "experiments"

ExperimentName = Literal["homogeneous", "heterogeneous", "threshold"]
Scale = Literal["small", "paper"]


@dataclass(frozen=True)
class Variant:
    """A way to train: overrides of the experiment.

    split: between clients and servers, so that cuts matter; else one run stands for all cuts.
    """

    overrides: tuple[str, ...]
    split: bool = True


VARIANTS = {
    "sequential": Variant(("training.strategy=sequential",)),
    "averaging": Variant(("training.strategy=averaging",)),
    "centralized": Variant(("training.strategy=centralized",), split=False),
    "distributed": Variant(("training.strategy=distributed",)),
    "alone": Variant(("training.strategy=alone",), split=False),
}

# small: sized so that the heterogeneous table of three seeds takes under an hour on two idle cores, evaluation included
_BASES: dict[Scale, tuple[str, tuple[str, ...]]] = {
    "paper": ("cifar10.toml", ()),
    "small": ("cifar10-small.toml", ("data.image_size=16", "data.train_limit=6000", "training.rounds=15")),
}


_LAST_ONLY = "training.evaluate_every=999999"  # twelve clients over the test split take as long as some rounds


@dataclass(frozen=True)
class Request:
    """What is asked for. strategies: names of variants; none: all. overrides: as of ``splitee train --set``, which win."""

    experiment: ExperimentName
    data: str = "cifar10"
    root: Path | None = None
    scale: Scale = "small"
    seeds: int = 3
    strategies: tuple[str, ...] = ()
    rounds: int | None = None
    overrides: tuple[str, ...] = ()

    @property
    def trains(self) -> str:
        """The experiment whose runs it needs: threshold looks at heterogeneous ones once more."""
        return "heterogeneous" if self.experiment == "threshold" else self.experiment

    @property
    def variants(self) -> list[str]:
        """The names of the variants asked for; raises CommandError if one is not there."""
        there = [name for name, variant in VARIANTS.items() if variant.split or self.experiment != "threshold"]
        unknown = [name for name in self.strategies if name not in there]
        if unknown:
            raise CommandError(f"--strategies {','.join(unknown)}: for {self.experiment} there are {', '.join(there)}")
        return [name for name in there if name in self.strategies] if self.strategies else there


@dataclass(frozen=True)
class Trial:
    """One run: a variant from a seed, at cuts. folder: of the run, in the experiment's."""

    variant: str
    cuts: tuple[int, ...]
    seed: int
    folder: Path
    experiment: Experiment

    @property
    def name(self) -> str:
        """Its place, for people."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def plan(request: Request, folder: Path) -> list[Trial]:
    """Return all runs of an experiment, in the order in which they are trained: seed by seed.

    folder: of the experiment that is trained. Raises CommandError or ExperimentError if something asked for is not there.
    """
    names = request.variants
    wanted = ((seed, name, cuts) for seed in range(request.seeds) for name in names for cuts in _cuts(request, name))
    return [_trial(request, folder, name, cuts, seed) for seed, name, cuts in wanted]


def _cuts(request: Request, variant: str) -> Iterator[tuple[int, ...]]:
    """Yield the cuts of each of a variant's runs; all clients have the same in homogeneous runs."""
    if request.trains == "heterogeneous":
        yield CUTS
    elif VARIANTS[variant].split:
        yield from ((cut,) for cut in CUTS)
    else:
        yield CUTS[:1]


def _trial(request: Request, folder: Path, variant: str, cuts: tuple[int, ...], seed: int) -> Trial:
    at = f"-cut-{cuts[0]}" if len(cuts) == 1 and VARIANTS[variant].split else ""
    file, base = _BASES[request.scale]
    overrides = [
        *base,
        *_data(request),
        _LAST_ONLY,
        f"clients.count={CLIENTS}",
        f"clients.cuts={list(cuts)}",
        *([f"training.rounds={request.rounds}"] if request.rounds else []),
        *request.overrides,
        *VARIANTS[variant].overrides,
        f"training.seed={seed}",
        f"name={request.trains}-{variant}{at}-seed-{seed}",
    ]
    experiment = load_experiment(_EXPERIMENTS / file, overrides, environ={})
    return Trial(variant, cuts, seed, folder / f"{variant}{at}" / f"seed-{seed}", experiment)


def _data(request: Request) -> Iterator[str]:
    name = request.data
    if name.startswith(_FOLDER):
        name = _FOLDER + str(Path(name.removeprefix(_FOLDER)).expanduser().resolve())
    elif name not in DATA:
        raise CommandError(
            f"--data {name}: there are {', '.join(DATA)} and {_FOLDER}PATH, with PATH/train/CLASS and PATH/test/CLASS"
        )
    yield f"data.name={name}"
    yield "data.augment=none" if name == "digits" else "data.augment=crop-flip"
    yield f"data.download={str(not name.startswith(_FOLDER)).lower()}"
    if request.root is not None:
        yield f"data.root={request.root}"

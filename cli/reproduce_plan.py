"""The paper's experiments as lists of ordinary runs: which variants, at which cuts, from which seeds, in which size."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cli.errors import CommandError
from coordinator.experiment import Experiment, load_experiment

CLIENTS = 12
CUTS = (3, 4, 5)
TIME = "time.json"  # beside the summary of a run that was trained in one go: its seconds and machine
DATA = ("cifar10", "cifar100", "stl10", "digits")  # or imagefolder:PATH
_FOLDER = "imagefolder:"
_EXPERIMENTS = Path(__file__).parents[1] / "experiments"

ExperimentName = Literal["homogeneous", "heterogeneous", "threshold", "wire"]
Scale = Literal["small", "paper"]


@dataclass(frozen=True)
class Variant:
    """A way to train: overrides of the experiment.

    split: between clients and servers, so that cuts matter; else one run stands for all cuts. own_clients: the clients' halves hear
    of each other; else they are the same, bit for bit, under all variants.
    """

    overrides: tuple[str, ...]
    split: bool = True
    own_clients: bool = False


def _training(strategy: str, *, average: str = "server", interleave: bool = False) -> tuple[str, ...]:
    return (f"training.strategy={strategy}", f"training.average={average}", f"training.interleave={str(interleave).lower()}")


_PAPER = {
    "sequential": Variant(_training("sequential")),
    "averaging": Variant(_training("averaging")),
    "centralized": Variant(_training("centralized"), split=False),
    "distributed": Variant(_training("distributed")),
    "alone": Variant(_training("alone"), split=False),
}
_BEYOND = {
    "average-all": Variant(_training("averaging", average="all"), own_clients=True),
    "interleave": Variant(_training("sequential", interleave=True)),
    "interleave-average-all": Variant(_training("sequential", average="all", interleave=True), own_clients=True),
}
WIRE = {name: Variant((*_training("averaging"), f"transport.wire_dtype={name}")) for name in ("float32", "float16", "uint8")}
STRATEGIES = _PAPER | _BEYOND
VARIANTS = STRATEGIES | WIRE

# small: sized so that the 24 heterogeneous runs of three seeds take under an hour on two idle cores, evaluation included
_BASES: dict[Scale, tuple[str, tuple[str, ...]]] = {
    "paper": ("cifar10.toml", ()),
    "small": ("cifar10-small.toml", ("data.image_size=16", "data.train_limit=4800", "training.rounds=15")),
}


_LAST_ONLY = "training.evaluate_every=999999"  # twelve clients over the test split take as long as some rounds


@dataclass(frozen=True)
class Request:
    """What is asked for. strategies: names of variants; none: the default. overrides: as of ``splitee train --set``, which win."""

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
    def command(self) -> str:
        """The command that asks for it."""
        flags = {"--data": self.data, "--root": self.root, "--scale": self.scale, "--seeds": self.seeds, "--rounds": self.rounds}
        given = [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
        chosen = ["--strategies", ",".join(self.strategies)] if self.strategies else []
        sets = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["splitee", "reproduce", self.experiment, *given, *chosen, *sets])

    @property
    def variants(self) -> list[str]:
        """The names of the variants asked for, or the default's; raises CommandError if one is not there."""
        known = WIRE if self.experiment == "wire" else STRATEGIES
        there = [name for name, variant in known.items() if variant.split or self.experiment != "threshold"]
        unknown = [name for name in self.strategies if name not in there]
        if unknown:
            raise CommandError(f"--strategies {','.join(unknown)}: for {self.experiment} there are {', '.join(there)}")
        default = _PAPER if self.experiment in ("homogeneous", "threshold") else known
        return [name for name in there if name in (self.strategies or default)]


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
    if request.experiment != "homogeneous":
        yield CUTS
    elif VARIANTS[variant].split:
        yield from ((cut,) for cut in CUTS)
    else:
        yield CUTS[:1]


def _trial(request: Request, folder: Path, variant: str, cuts: tuple[int, ...], seed: int) -> Trial:
    at = f"-cut-{cuts[0]}" if len(cuts) == 1 and VARIANTS[variant].split else ""
    file, base = _BASES[request.scale]
    free = [
        *base,
        *_data(request),
        _LAST_ONLY,
        *([f"training.rounds={request.rounds}"] if request.rounds else []),
        *request.overrides,
    ]
    fixed = [
        f"clients.count={CLIENTS}",
        f"clients.cuts={list(cuts)}",
        *VARIANTS[variant].overrides,
        f"training.seed={seed}",
        f"name={request.trains}-{variant}{at}-seed-{seed}",
    ]
    _check_free(request.overrides, fixed)
    experiment = load_experiment(_EXPERIMENTS / file, [*free, *fixed], environ={})
    return Trial(variant, cuts, seed, folder / f"{variant}{at}" / f"seed-{seed}", experiment)


def _check_free(overrides: Iterable[str], fixed: Iterable[str]) -> None:
    """Raise CommandError for an override of what makes a run the run that it is."""
    keys = {setting.partition("=")[0] for setting in fixed} - {"transport.wire_dtype"}  # shared runs may have had one
    for override in overrides:
        if override.partition("=")[0].strip() in keys:
            raise CommandError(f"--set {override}: what is reproduced says that itself; choose with --strategies and --seeds")


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

"""The paper's claims, named before anything is trained, and whether runs bear them out: paired t-tests over seeds."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from cli.reproduce_figure import Figure
from cli.reproduce_grid import Grid
from monitoring.lines import count

LEVEL = 0.05  # of a test
MEAN = "mean of cuts"

Verdict = Literal["holds", "does not hold", "not decided"]
Servers = Mapping[str, Mapping[str, Figure]]  # variant -> cut or MEAN -> server accuracy, or that of a whole network


@dataclass(frozen=True)
class Claim:
    """One claim: at the servers, each of the strategies is more accurate than each of the others, less a margin.

    margin: by how much it may be less, as a fraction of images. each_cut: every cut decides; else the mean of cuts.
    """

    name: str
    statement: str
    against: tuple[str, ...]
    margin: float = 0.0
    each_cut: bool = False
    strategies: tuple[str, ...] = ("averaging", "sequential")


CLAIMS = (
    Claim(
        "collaboration beats Distributed",
        "averaging and sequential are each more accurate than distributed, in the mean of cuts",
        against=("distributed",),
    ),
    Claim(
        "both strategies stay near Centralized",
        "averaging and sequential are each at most 0.05 less accurate than centralized, in the mean of cuts",
        against=("centralized",),
        margin=0.05,
    ),
    Claim(
        "every cut gains",
        "averaging and sequential are each more accurate than distributed and than alone, at every cut",
        against=("distributed", "alone"),
        each_cut=True,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """A difference over seeds, tested. lower, upper: its one-sided confidence bounds, none of one seed."""

    difference: Figure
    lower: float | None
    upper: float | None
    verdict: Verdict

    def plain(self) -> dict[str, object]:
        """Return it as plain data."""
        return {**self.difference.plain(), "lower": self.lower, "upper": self.upper, "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """A strategy against another. outcomes: by cut and over the mean of cuts; places: those that decide; missing: not trained."""

    strategy: str
    against: str
    outcomes: Mapping[str, Outcome]
    places: Sequence[str]
    missing: Sequence[str] = ()

    @property
    def verdict(self) -> Verdict:
        """Whether the strategy is better in all places that decide."""
        return _all(self.outcomes[place].verdict for place in self.places)

    def plain(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            "strategy": self.strategy,
            "against": self.against,
            "differences": {place: outcome.plain() for place, outcome in self.outcomes.items()},
            "decided_by": list(self.places),
            "missing": list(self.missing),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Checked:
    """A claim and what came of it."""

    claim: Claim
    comparisons: Sequence[Comparison]
    verdict: Verdict

    def plain(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            "claim": self.claim.name,
            "statement": self.claim.statement,
            "margin": self.claim.margin,
            "level": LEVEL,
            "verdict": self.verdict,
            "comparisons": [comparison.plain() for comparison in self.comparisons],
        }


def check(servers: Servers, claims: Sequence[Claim] = CLAIMS) -> list[Checked]:
    """Test all claims; figures of different variants are paired by seed."""
    return [_check(claim, servers) for claim in claims]


def decide(difference: Figure, margin: float) -> Outcome:
    """Test by one-sided t-tests at LEVEL whether a difference is above, or below, minus a margin."""
    half = bound_in_deviations(len(difference.values))
    if half is None or difference.deviation is None:
        return Outcome(difference, None, None, "not decided")
    lower, upper = (difference.mean + sign * half * difference.deviation for sign in (-1, 1))
    verdict: Verdict = "holds" if lower > -margin else "does not hold" if upper < -margin else "not decided"
    return Outcome(difference, lower, upper, verdict)


def bound_in_deviations(seeds: int) -> float | None:
    """Return how many sample standard deviations a one-sided confidence bound is from the mean, None of one seed."""
    return float(stdtrit(seeds - 1, 1 - LEVEL)) / math.sqrt(seeds) if seeds > 1 else None


def grid(checked: Sequence[Checked]) -> Grid:
    """Return a table of all differences that claims are about, by cut and over the mean of cuts; without rows if there are none."""
    found = {_name(comparison): comparison.outcomes for one in checked for comparison in one.comparisons if comparison.outcomes}
    places = list(next(iter(found.values()), {}))
    rows = [[name, *(outcomes[place].difference.signed() for place in places)] for name, outcomes in found.items()]
    return Grid("Differences in server accuracy", ["difference", *places], rows)


def notes(checked: Sequence[Checked], seeds: int) -> Iterator[str]:
    """Yield each claim with its verdict, and how it was tested."""
    half = bound_in_deviations(seeds)
    for one in checked:
        claim, why = one.claim, ", one seed" if half is None else ": " + "; ".join(map(_text, one.comparisons))
        yield f"Claim '{claim.name}' ({claim.statement}): {one.verdict.upper()}{why}."
    if half is None:
        return
    freedom = count(seeds - 1, "degree")
    yield (
        f"The claims were named before the runs. Differences are paired by seed; each has one-sided t-tests at level {LEVEL:g}, "
        f"not corrected for their number, of {freedom} of freedom: it holds where the mean less {half:.2f} sample standard "
        "deviations is above minus the margin, does not where the mean plus as many is below that, and else is not decided, which "
        "speaks neither for nor against it. A claim holds if all its differences hold, and does not if one does not. The test "
        "takes differences to be normally distributed, which a few seeds cannot show."
    )


def _name(comparison: Comparison) -> str:
    return f"{comparison.strategy} - {comparison.against}"


def _text(comparison: Comparison) -> str:
    """Return a comparison with its verdict, and the cuts that are behind one that does not hold."""
    if comparison.missing:
        return f"{_name(comparison)} not decided ({' and '.join(comparison.missing)} not trained)"
    others = [f"{place} {comparison.outcomes[place].verdict}" for place in comparison.places]
    behind = [text for text in others if not text.endswith(" holds")] if len(others) > 1 else []
    return f"{_name(comparison)} {comparison.verdict}" + (f" ({', '.join(behind)})" if behind else "")


def _check(claim: Claim, servers: Servers) -> Checked:
    comparisons = [_compare(claim, servers, strategy, against) for strategy in claim.strategies for against in claim.against]
    return Checked(claim, comparisons, _all(comparison.verdict for comparison in comparisons))


def _compare(claim: Claim, servers: Servers, strategy: str, against: str) -> Comparison:
    missing = [name for name in (strategy, against) if name not in servers]
    if missing:
        return Comparison(strategy, against, {}, (), missing)
    outcomes = {place: decide(figure - servers[against][place], claim.margin) for place, figure in servers[strategy].items()}
    return Comparison(strategy, against, outcomes, [place for place in outcomes if (place != MEAN) == claim.each_cut])


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    """Return whether all of several things hold; one that does not is enough."""
    found = set(verdicts)
    return "does not hold" if "does not hold" in found else "holds" if found == {"holds"} else "not decided"

"""Claims on hand-computed figures: 2.920 is the 95 % quantile of Student's t with two degrees of freedom, 6.314 with one."""

import json
import math

import pytest

from cli.reproduce_claims import CLAIMS, MEAN, Checked, Claim, bound_in_deviations, check, decide, grid, notes
from cli.reproduce_figure import Figure, mean_of

T2, T1 = 2.920, 6.314
PLACES = ("cut 3", "cut 4", "cut 5")
Values = tuple[float, ...]
Cuts = list[Values]


def servers(**variants: Values | Cuts) -> dict[str, dict[str, Figure]]:
    """Return figures of each variant: the same values at all cuts, or a list of values by cut."""
    found = {}
    for name, values in variants.items():
        cuts = [Figure(own) for own in (values if isinstance(values, list) else [values] * 3)]
        found[name] = {**dict(zip(PLACES, cuts, strict=True)), MEAN: mean_of(cuts)}
    return found


def checked(name: str, **variants: Values | Cuts) -> Checked:
    return next(one for one in check(servers(**variants)) if one.claim.name == name)


def test_bounds_are_those_of_student() -> None:
    assert bound_in_deviations(3) == pytest.approx(T2 / math.sqrt(3), rel=1e-3)
    assert bound_in_deviations(2) == pytest.approx(T1 / math.sqrt(2), rel=1e-3)
    assert bound_in_deviations(1) is None
    outcome = decide(Figure((0.01, 0.02, 0.03)), 0.0)  # mean 0.02, deviation 0.01
    assert outcome.lower == pytest.approx(0.02 - T2 * 0.01 / math.sqrt(3), rel=1e-3)
    assert outcome.upper == pytest.approx(0.02 + T2 * 0.01 / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize(
    ("values", "margin", "verdict"),
    [
        ((0.01, 0.02, 0.03), 0.0, "holds"),  # lower bound 0.0031
        ((-0.01, -0.02, -0.03), 0.0, "does not hold"),
        ((-0.01, -0.02, -0.03), 0.05, "holds"),  # lower bound -0.0369
        ((-0.04, -0.05, -0.06), 0.05, "not decided"),
        ((-0.07, -0.08, -0.09), 0.05, "does not hold"),  # upper bound -0.0631
        ((0.00, 0.02, 0.04), 0.0, "not decided"),  # lower bound -0.0137
        ((0.02, 0.02, 0.02), 0.0, "holds"),
        ((0.0, 0.0, 0.0), 0.0, "not decided"),
        ((0.9,), 0.0, "not decided"),
        ((0.02, 0.03), 0.0, "not decided"),  # lower bound -0.0066, though both are above
    ],
)
def test_verdicts(values: Values, margin: float, verdict: str) -> None:
    assert decide(Figure(values), margin).verdict == verdict


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by far more than strategies: unpaired nothing could be said."""
    distributed = (0.30, 0.40, 0.50)
    found = checked(
        "collaboration beats Distributed", averaging=(0.31, 0.42, 0.51), sequential=(0.32, 0.42, 0.52), distributed=distributed
    )
    assert found.verdict == "holds"
    averaging, sequential = found.comparisons
    assert averaging.outcomes["cut 4"].difference.values == pytest.approx((0.01, 0.02, 0.01))
    assert sequential.outcomes[MEAN].difference.mean == pytest.approx(0.02)
    assert (averaging.strategy, averaging.against, averaging.verdict) == ("averaging", "distributed", "holds")


def test_a_claim_needs_both_strategies() -> None:
    better, same, worse = (0.41, 0.42, 0.43), (0.39, 0.40, 0.42), (0.35, 0.36, 0.37)
    name, base = "collaboration beats Distributed", (0.40, 0.40, 0.40)
    assert checked(name, averaging=better, sequential=better, distributed=base).verdict == "holds"
    assert checked(name, averaging=better, sequential=same, distributed=base).verdict == "not decided"
    assert checked(name, averaging=same, sequential=worse, distributed=base).verdict == "does not hold"


def test_the_mean_of_cuts_decides_where_a_claim_is_of_it() -> None:
    """At cut 3 averaging loses, in the mean it wins: only the claim of every cut fails."""
    mixed: Cuts = [(0.38, 0.39, 0.38), (0.50, 0.51, 0.50), (0.60, 0.61, 0.60)]
    base = (0.40, 0.41, 0.40)
    variants: dict[str, Values | Cuts] = {
        "averaging": mixed,
        "sequential": (0.50, 0.51, 0.50),
        "distributed": base,
        "alone": base,
        "centralized": base,
    }
    verdicts = {one.claim.name: one.verdict for one in check(servers(**variants))}
    assert verdicts == {
        "collaboration beats Distributed": "holds",
        "both strategies stay near Centralized": "holds",
        "every cut gains": "does not hold",
    }
    gains = checked("every cut gains", **variants)
    assert [(one.strategy, one.against, one.verdict) for one in gains.comparisons] == [
        ("averaging", "distributed", "does not hold"),
        ("averaging", "alone", "does not hold"),
        ("sequential", "distributed", "holds"),
        ("sequential", "alone", "holds"),
    ]


def test_the_margin_of_centralized_is_five_points() -> None:
    name, central = "both strategies stay near Centralized", (0.50, 0.51, 0.52)
    near, far = tuple(value - 0.04 for value in central), tuple(value - 0.06 for value in central)
    assert checked(name, averaging=near, sequential=near, centralized=central).verdict == "holds"
    assert checked(name, averaging=near, sequential=far, centralized=central).verdict == "does not hold"


def test_one_seed_and_what_was_not_trained_decide_nothing() -> None:
    one_seed = check(servers(averaging=(0.9,), sequential=(0.9,), distributed=(0.1,), alone=(0.1,), centralized=(0.5,)))
    assert {one.verdict for one in one_seed} == {"not decided"}
    assert [note.rpartition(": ")[2] for note in notes(one_seed, 1)] == ["NOT DECIDED, one seed."] * 3
    assert grid(one_seed).rows[0] == ["averaging - distributed", *["+0.8000"] * 4]
    partly = check(servers(averaging=(0.5, 0.5, 0.5), distributed=(0.1, 0.1, 0.1)))
    assert {one.verdict for one in partly} == {"not decided"}
    assert grid(partly).rows == [["averaging - distributed", *["+0.4000 ± 0.0000"] * 4]]
    first, second, *_ = notes(partly, 3)
    assert first.endswith(
        "NOT DECIDED: averaging - distributed holds; sequential - distributed not decided (sequential not trained)."
    )
    assert "sequential - centralized not decided (sequential and centralized not trained)" in second
    assert grid(check(servers(alone=(0.5, 0.6)))).rows == []


def test_what_is_said_names_verdict_cuts_and_test() -> None:
    b = (0.4, 0.5, 0.6)
    c: Cuts = [(0.5, 0.6, 0.7), (0.3, 0.3, 0.3), (0.5, 0.6, 0.5)]
    claims = (
        Claim("wins", "a beats b", against=("b",), strategies=("a",)),
        Claim("loses", "c beats b", against=("b",), strategies=("c",), each_cut=True),
    )
    found = check(servers(a=(0.5, 0.6, 0.7), b=b, c=c), claims)
    assert grid(found).head == ["difference", *PLACES, MEAN]
    assert [row[0] for row in grid(found).rows] == ["a - b", "c - b"]
    wins, loses, how = notes(found, 3)
    assert wins == "Claim 'wins' (a beats b): HOLDS: a - b holds."
    assert loses == "Claim 'loses' (c beats b): DOES NOT HOLD: c - b does not hold (cut 4 does not hold, cut 5 not decided)."
    assert "2 degrees of freedom" in how
    assert "less 1.69 sample standard deviations" in how


def test_the_paper_s_claims_as_plain_data() -> None:
    plain = [one.plain() for one in check(servers(averaging=(0.5, 0.6), centralized=(0.5, 0.7)))]
    assert [(one["claim"], one["margin"], one["level"]) for one in plain] == [
        ("collaboration beats Distributed", 0.0, 0.05),
        ("both strategies stay near Centralized", 0.05, 0.05),
        ("every cut gains", 0.0, 0.05),
    ]
    near, missing = json.loads(json.dumps(plain))[1]["comparisons"]
    assert near["differences"][MEAN]["values"] == pytest.approx([0.0, -0.1])
    assert (near["decided_by"], near["verdict"], missing["missing"]) == ([MEAN], "not decided", ["sequential"])
    assert [claim.each_cut for claim in CLAIMS] == [False, False, True]

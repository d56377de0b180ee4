"""Targets that come in late or twice, and those of a store that went back."""

import pytest

from broker.messages import Target
from workers.aim import Aim


def target(closed: int, round: int, answers: int = 0) -> Target:
    return Target(
        client="client-01",
        incarnation=1,
        round=round,
        closed=closed,
        durable_round=closed + 1,
        durable_sequence=0,
        recorded=0,
        finished=False,
        answers=answers,
    )


def test_the_furthest_counts_in_whatever_order_they_come() -> None:
    aim = Aim()
    for told in (target(0, 2, 1), target(1, 3, 3), target(0, 2, 2), target(1, 2)):
        assert not aim.take(told, heartbeats=3)
    assert aim.target == target(1, 3, 3)


@pytest.mark.parametrize(("answers", "counts"), [(0, False), (4, False), (5, False), (6, True)])
def test_one_behind_counts_when_it_answers_what_was_asked_after_the_last_step(answers: int, counts: bool) -> None:
    aim = Aim()
    aim.take(target(3, 4, 4), heartbeats=5)
    aim.take(target(3, 4, 5), heartbeats=7)  # says nothing new
    assert aim.take(target(1, 2, answers), heartbeats=8) is counts
    assert aim.target is not None
    assert aim.target.closed == (1 if counts else 3)


def test_after_it_went_back_it_goes_forward_again() -> None:
    aim = Aim()
    aim.take(target(3, 4), heartbeats=1)
    assert aim.take(target(1, 2, 2), heartbeats=2)
    assert not aim.take(target(2, 3, 3), heartbeats=3)
    assert aim.target == target(2, 3, 3)

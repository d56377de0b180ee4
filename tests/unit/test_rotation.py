"""The order in which a worker tries streams."""

from coordinator.store.records import StreamPlan
from tests.unit.test_intake import CLIENT
from workers.rotation import Rotation

PLANS = [StreamPlan(id=name, clients=[CLIENT]) for name in "abcde"]


def nowhere(_stream: str) -> bool:
    return False


def ids(plans: list[StreamPlan]) -> str:
    return "".join(plan.id for plan in plans)


def test_whose_state_is_here_goes_first() -> None:
    assert ids(Rotation().order(1, PLANS, "d".__eq__)) == "dabce"


def test_every_stream_has_its_turn_however_many_are_silent() -> None:
    rotation, tried = Rotation(), ""
    for _ in range(2 * len(PLANS)):
        chosen = rotation.order(1, PLANS, nowhere)[0].id
        rotation.give_back(1, chosen)
        tried += chosen
    assert tried == "abcdeabcde"


def test_a_new_round_begins_anew() -> None:
    rotation = Rotation()
    rotation.give_back(1, "a")
    assert ids(rotation.order(1, PLANS, nowhere)) == "bcdea"
    assert ids(rotation.order(2, PLANS, nowhere)) == "abcde"
    rotation.give_back(2, "b")
    assert ids(rotation.order(2, PLANS, nowhere)) == "acdeb"

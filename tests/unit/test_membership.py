"""Who takes part: admission, silence, a client's return, and what each is told."""

import dataclasses
import re

import pytest

from broker.events import ClientDropped, ignore
from broker.messages import Heartbeat, Join, Refusal, Score, Target, Welcome
from coordinator import membership
from coordinator.experiment import Experiment
from coordinator.membership import Membership
from coordinator.store.interface import Lease
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import LEADER, RunRecord, RunState
from learning.layers import Network, build_network
from learning.settings import ModelSettings

TIMEOUT = 30.0


class Time:
    """Stands in for the module ``time`` of membership: a monotonic clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    stopped = Time()
    monkeypatch.setattr(membership, "time", stopped)
    return stopped


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(ModelSettings(width=4), (1, 8, 8), 10, seed=0)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(MemoryStore())


@pytest.fixture
def lead(ledger: Ledger) -> Lease:
    lease = ledger.store.acquire(LEADER, "nonce", "coordinator", 1000.0)
    assert lease is not None
    return lease


@pytest.fixture
def members(time: Time, network: Network, ledger: Ledger, lead: Lease) -> Membership:
    experiment = Experiment.model_validate(
        {"name": "run", "clients": {"count": 3, "cuts": [3, 4, 5]}, "training": {"rounds": 7, "evaluate_every": 3}}
    )
    record = RunRecord(
        name="run", experiment=experiment.to_json(), fingerprint="f", sample_shape=(1, 8, 8), classes=10, versions={}
    )
    return Membership(ledger, experiment, record, network, lead, ignore, listening_since=time.monotonic())


def join(client: str = "client-01", cut: int = 3, process: str = "p1", incarnation: int | None = None, lost: str = "") -> Join:
    return Join(client=client, cut=cut, incarnation=incarnation, process=process, samples=None, lost=lost)


def beat(
    client: str = "client-01", process: str = "p1", incarnation: int = 1, scores: tuple[Score, ...] = (), number: int = 1
) -> Heartbeat:
    said = {"round": 1, "confirmed": 0, "samples": 0, "bytes": 0, "loss": 0.0, "scores": scores, "number": number}
    return Heartbeat(client=client, incarnation=incarnation, process=process, **said)


def score(number: int, correct: int = 5) -> Score:
    return Score(round=number, samples=10, client_correct=correct, server_correct=6, server_answered=10)


def set_state(members: Membership, **state: object) -> None:
    assert members.ledger.lead(members.leader, [members.ledger.state().change(RunState.model_validate(state))])


def welcomed(answer: object) -> Welcome:
    assert isinstance(answer, Welcome), answer
    return answer


class TestJoining:
    def test_a_listed_client_is_told_everything(self, members: Membership) -> None:
        welcome = welcomed(members.join(join("client-02", 4)))
        assert (welcome.incarnation, welcome.part, welcome.parts, welcome.first_round) == (1, 1, 3, 1)
        assert (welcome.sample_shape, welcome.classes, welcome.cut, welcome.process) == ((1, 8, 8), 10, 4, "p1")
        assert Experiment.from_json(welcome.experiment) == members.experiment

    @pytest.mark.parametrize(
        ("message", "reason"),
        [(join("stranger"), "'stranger' is not in the experiment's list"), (join(cut=4), "cut 4, but the experiment has .* cut 3")],
    )
    def test_a_client_that_does_not_fit_is_refused(self, members: Membership, message: Join, reason: str) -> None:
        answer = members.join(message)
        assert isinstance(answer, Refusal)
        assert re.search(reason, answer.reason), answer.reason
        assert not members.ledger.roster().record.clients

    @pytest.mark.parametrize("incarnation", [1, 7])
    def test_a_state_of_an_earlier_run_changes_nothing(self, members: Membership, incarnation: int) -> None:
        welcomed(members.join(join()))
        before = members.ledger.roster()
        answer = members.join(join(process="p2", incarnation=incarnation).model_copy(update={"run_id": "earlier"}))
        assert isinstance(answer, Refusal)
        assert "its state is of an earlier run of that name; use another --state folder" in answer.reason
        assert members.ledger.roster() == before

    def test_a_repeated_message_is_answered_alike(self, members: Membership) -> None:
        assert members.join(join()) == members.join(join())

    def test_a_restart_with_its_directory_keeps_its_incarnation(self, members: Membership) -> None:
        members.join(join())
        welcome = welcomed(members.join(join(process="p2", incarnation=1)))
        assert (welcome.incarnation, welcome.first_round) == (1, 1)
        assert isinstance(members.hear(beat(process="p2")), Target)
        assert not isinstance(members.hear(beat(process="p1")), Target), "the process before it is still heard"

    def test_lost_state_ends_its_part_and_it_is_admitted_anew(self, members: Membership) -> None:
        members.join(join())
        set_state(members, phase="training", round=2, closed=1)
        assert members.join(join(process="p2")) is None
        assert members.ledger.roster().record.clients["client-01"].state == "closing"
        assert members.join(join(process="p2")) is None, "admitted before its stream is closed"

    def test_one_that_cannot_go_on_is_given_up_for_its_reason_and_admitted_anew(self, members: Membership) -> None:
        members.join(join())
        again = join(process="p2", incarnation=1, lost="its state does not reach back to round 2")
        assert members.join(again) is None
        (departure,) = members.ledger.roster().record.departures
        assert departure.reason == "its state does not reach back to round 2"
        welcome = welcomed(members.join(again))
        assert welcome.incarnation == 2
        assert members.join(again) == welcome, "a repeated message is answered alike"

    @pytest.mark.parametrize("incarnation", [1, 4])
    def test_an_incarnation_that_the_store_has_lost_is_not_given_again(self, members: Membership, incarnation: int) -> None:
        assert welcomed(members.join(join(incarnation=incarnation))).incarnation == incarnation + 1

    def test_a_later_incarnation_than_the_store_knows_ends_the_one_it_knows(self, members: Membership) -> None:
        members.join(join())
        assert isinstance(members.hear(beat(incarnation=2)), Refusal)
        assert members.join(join(process="p2", incarnation=2)) is None
        assert members.ledger.roster().record.departures[0].reason == "the store has lost that it had joined again"
        assert welcomed(members.join(join(process="p2", incarnation=2))).incarnation == 3

    def test_it_takes_part_from_the_next_round(self, members: Membership) -> None:
        set_state(members, phase="training", round=2, closed=1)
        assert welcomed(members.join(join())).first_round == 3

    def test_a_run_that_is_over_admits_nobody(self, members: Membership) -> None:
        set_state(members, phase="finished", round=7, closed=7)
        answer = members.join(join())
        assert isinstance(answer, Refusal)
        assert "is finished" in answer.reason


class TestSilence:
    def test_a_client_is_silent_after_a_whole_timeout(self, members: Membership, time: Time) -> None:
        members.join(join())
        time.now += TIMEOUT
        assert members.silent() == []
        time.now += 1
        assert [client.id for client in members.silent()] == ["client-01"]
        members.hear(beat())
        assert members.silent() == []

    def test_the_coordinators_own_outage_drops_nobody(self, members: Membership, time: Time) -> None:
        members.join(join())
        time.now += 10 * TIMEOUT
        members.listening_again()
        assert members.silent() == []
        time.now += TIMEOUT - 1
        assert members.silent() == []
        time.now += 2
        assert [client.id for client in members.silent()] == ["client-01"]

    def test_a_new_coordinator_gives_everybody_a_whole_timeout(self, members: Membership, time: Time) -> None:
        members.join(join())
        time.now += 10 * TIMEOUT
        heir = dataclasses.replace(members, listening_since=time.monotonic(), _heard={})
        assert heir.silent() == []
        time.now += TIMEOUT + 1
        assert [client.id for client in heir.silent()] == ["client-01"]

    def test_one_that_is_given_up_is_recorded_once_with_round_and_reason(self, members: Membership) -> None:
        said: list[object] = []
        members.emit = said.append
        members.join(join())
        set_state(members, phase="training", round=2, closed=1)
        members.give_up("client-01", "silent for 30 s")
        members.give_up("client-01", "another reason")
        roster = members.ledger.roster().record
        assert (roster.clients["client-01"].state, roster.active()) == ("closing", [])
        (departure,) = roster.departures
        assert (departure.client, departure.cut, departure.round, departure.reason) == ("client-01", 3, 2, "silent for 30 s")
        assert said == [ClientDropped(client="client-01", round=2, reason="silent for 30 s", kind="replaced")]

    def test_one_that_is_in_no_stream_need_not_be_closed(self, members: Membership) -> None:
        set_state(members, phase="training", round=2, closed=1)
        members.join(join())  # from round 3
        members.give_up("client-01", "silent for 30 s")
        assert members.ledger.roster().record.clients["client-01"].state == "gone"
        welcome = welcomed(members.join(join(process="p2", incarnation=1)))
        assert (welcome.incarnation, welcome.first_round) == (2, 3)


class TestHeartbeats:
    def test_of_a_process_that_took_over_and_is_lost_from_the_store_is_heard_when_the_other_is_silent(
        self, members: Membership, time: Time
    ) -> None:
        members.join(join())
        assert members.hear(beat(process="p2")) is None
        time.now += TIMEOUT / 2 + 1
        assert isinstance(members.hear(beat(process="p2")), Target)
        assert members.hear(beat(process="p1")) is None

    def test_an_answer_says_which_it_answers(self, members: Membership) -> None:
        members.join(join())
        answer = members.hear(beat(number=7))
        assert isinstance(answer, Target)
        assert answer.answers == 7
        assert members.target(members.ledger.roster().record.clients["client-01"]).answers == 0

    def test_of_one_not_known_is_refused(self, members: Membership) -> None:
        assert isinstance(members.hear(beat("client-03")), Refusal)

    @pytest.mark.parametrize(
        ("state", "target"),
        [
            ({"phase": "waiting"}, 0),
            ({"phase": "training", "round": 1, "closed": 0}, 3),
            ({"phase": "training", "round": 3, "closed": 2}, 3),
            ({"phase": "training", "round": 3, "closed": 3}, 3),
            ({"phase": "training", "round": 4, "closed": 3}, 6),
            ({"phase": "training", "round": 7, "closed": 6}, 7),
        ],
    )
    def test_the_target_never_passes_the_next_evaluation(self, members: Membership, state: dict[str, object], target: int) -> None:
        members.join(join())
        set_state(members, **state)
        answer = members.hear(beat())
        assert isinstance(answer, Target)
        assert (answer.round, answer.closed) == (target, state.get("closed", 0))
        assert not answer.finished

    def test_where_halves_are_averaged_the_target_never_passes_the_open_round(self, members: Membership) -> None:
        training = members.experiment.training.model_copy(update={"average": "all"})
        members.experiment = members.experiment.model_copy(update={"training": training})
        members.join(join())
        for state, target in (((1, 0), 1), ((2, 1), 2), ((2, 2), 2), ((7, 6), 7), ((7, 7), 7)):
            set_state(members, phase="training", round=state[0], closed=state[1])
            answer = members.hear(beat())
            assert isinstance(answer, Target)
            assert answer.round == target

    def test_scores_are_recorded_once_and_only_of_closed_rounds(self, members: Membership) -> None:
        members.join(join())
        set_state(members, phase="training", round=4, closed=3)
        first = members.hear(beat(scores=(score(3), score(6))))
        assert isinstance(first, Target)
        assert first.recorded == 3
        members.hear(beat(scores=(score(3, correct=9),)))
        assert members.ledger.scores(3).record.clients == {"client-01": score(3)}
        assert not members.ledger.scores(6).record.clients

    def test_the_end_is_told(self, members: Membership) -> None:
        members.join(join())
        for phase in ("finished", "failed"):
            set_state(members, phase=phase, round=7, closed=7)
            answers = members.hear(beat()), members.hear(beat())
            members.over = True
            answers += (members.hear(beat()),)
            told = [answer.finished for answer in answers if isinstance(answer, Target)]
            assert told == [phase == "failed", phase == "failed", True], "the end must not be told while the store may lose it"
            members.over = False

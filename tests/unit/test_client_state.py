"""What a client keeps to start again."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learning.errors import LearningError, SettingsError
from learning.halves import ClientHalf
from learning.layers import Network, build_network
from learning.settings import ModelSettings, TrainingSettings
from workers.client_state import ClientState, Counters, Identity

ME = Identity(run="run", fingerprint="f" * 64, client="client-01", cut=3, incarnation=1)
TRAINING = TrainingSettings(device="cpu", precision="float32", memory_format="contiguous")

HARM: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "replaced": lambda _: b"junk",
    "cut short": lambda file: file[:-4],
    "a byte flipped in the middle": lambda file: (
        file[: len(file) // 2] + bytes([file[len(file) // 2] ^ 1]) + file[len(file) // 2 + 1 :]
    ),
    "something appended": lambda file: file + b"\0",
}


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(ModelSettings(width=4), (1, 8, 8), 10, seed=0)


@pytest.fixture
def half(network: Network) -> ClientHalf:
    return ClientHalf(network, 3, TRAINING)


@pytest.fixture(params=["folder", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> ClientState:
    return ClientState(tmp_path / "state" if request.param == "folder" else None)


def mark(half: ClientHalf, value: float) -> None:
    """Make a half recognisable."""
    with torch.no_grad():
        half.modules["exit"].get_parameter("2.bias").fill_(value)


def mark_of(half: ClientHalf) -> float:
    return half.modules["exit"].get_parameter("2.bias")[0].item()


def saved(state: ClientState, half: ClientHalf, *rounds: int) -> None:
    for number in rounds:
        mark(half, number)
        state.save(number, half, Counters(10 * number, 100 * number))


class TestSnapshots:
    @pytest.mark.parametrize(("asked", "found"), [(1, 1), (2, 2), (3, 2), (4, 4), (9, 4)])
    def test_the_last_at_or_before_a_round_is_restored(self, state: ClientState, half: ClientHalf, asked: int, found: int) -> None:
        saved(state, half, 1, 2, 4)
        mark(half, -1)
        assert state.restore(asked, half) == (found, Counters(10 * found, 100 * found))
        assert mark_of(half) == found

    def test_where_there_is_none_nothing_is_changed(self, state: ClientState, half: ClientHalf) -> None:
        assert state.restore(5, half) is None
        saved(state, half, 3)
        mark(half, -1)
        assert state.restore(2, half) is None
        assert mark_of(half) == -1

    def test_a_snapshot_does_not_change_with_training(self, state: ClientState, half: ClientHalf) -> None:
        saved(state, half, 1)
        mark(half, 7)
        state.restore(1, half)
        assert mark_of(half) == 1

    @pytest.mark.parametrize(("closed", "kept"), [(0, [1, 2, 4]), (1, [1, 2, 4]), (2, [2, 4]), (3, [2, 4]), (9, [4])])
    def test_what_may_still_be_asked_for_is_kept(self, state: ClientState, half: ClientHalf, closed: int, kept: list[int]) -> None:
        """After round c is closed, round c + 1 must be recomputable; and c too, where the store loses that it was closed."""
        saved(state, half, 1, 2, 4)
        state.forget(closed)
        found = {state.restore(number, half) for number in range(1, 6)} - {None}
        assert sorted(pair[0] for pair in found if pair) == kept

    @pytest.mark.parametrize(("first", "found"), [(1, 2), (2, 2), (3, 2), (4, 4), (9, 4)])
    def test_a_new_incarnation_starts_from_what_is_nearest(
        self, state: ClientState, half: ClientHalf, first: int, found: int
    ) -> None:
        saved(state, half, 2, 4)
        state.begin(first)
        assert state.first() == first
        assert state.restore(99, half) == (first, Counters(10 * found, 100 * found))
        assert mark_of(half) == found

    def test_a_new_incarnation_without_any_starts_with_none(self, state: ClientState, half: ClientHalf) -> None:
        state.begin(3)
        assert state.first() is None


class TestFolder:
    def test_another_process_goes_on(self, tmp_path: Path, half: ClientHalf) -> None:
        first = ClientState(tmp_path)
        assert first.identity() is None
        first.claim(ME)
        saved(first, half, 1)
        first.close()
        second = ClientState(tmp_path)
        assert second.of(ME.run, ME.client, ME.cut) == ME
        assert second.restore(1, half) == (1, Counters(10, 100))

    def test_two_processes_cannot_share_it(self, tmp_path: Path) -> None:
        first = ClientState(tmp_path)
        with pytest.raises(SettingsError, match="in use by another client process"):
            ClientState(tmp_path)
        first.close()
        ClientState(tmp_path).close()

    @pytest.mark.parametrize(
        "change", [{"run": "other"}, {"fingerprint": "0"}, {"client": "client-02"}, {"cut": 4}, {"run_id": "another"}]
    )
    def test_anothers_state_is_refused(self, tmp_path: Path, change: dict[str, object]) -> None:
        state = ClientState(tmp_path)
        state.claim(ME)
        other = Identity(**{**ME.__dict__, **change})  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="use another --state folder"):
            state.claim(other)
        assert state.identity() == ME

    def test_a_new_incarnation_of_the_same_client_is_not_anothers(self, tmp_path: Path) -> None:
        state = ClientState(tmp_path)
        state.claim(ME)
        again = Identity(**{**ME.__dict__, "incarnation": 2})
        state.claim(again)
        assert state.identity() == again

    def test_a_write_that_was_cut_short_leaves_the_old_snapshot(self, tmp_path: Path, half: ClientHalf) -> None:
        state = ClientState(tmp_path)
        saved(state, half, 1)
        (tmp_path / "round-000001.snapshot.part").write_bytes(b"half a file")
        (tmp_path / "round-000002.snapshot.part").write_bytes(b"half a file")
        assert state.restore(2, half) == (1, Counters(10, 100))

    @pytest.mark.parametrize("harm", HARM)
    def test_a_snapshot_that_was_changed_is_named(self, tmp_path: Path, half: ClientHalf, harm: str) -> None:
        state = ClientState(tmp_path)
        state.claim(ME)
        saved(state, half, 1)
        file = tmp_path / "round-000001.snapshot"
        file.write_bytes(HARM[harm](file.read_bytes()))
        with pytest.raises(LearningError, match=r"round-000001.snapshot is damaged: .*remove the folder"):
            state.restore(1, half)
        with pytest.raises(LearningError, match=r"round-000001.snapshot is damaged: .*remove the folder"):
            state.of(ME.run, ME.client, ME.cut)

    def test_a_snapshot_in_anothers_place_is_refused(self, tmp_path: Path, half: ClientHalf) -> None:
        state, other = ClientState(tmp_path / "a"), ClientState(tmp_path / "b")
        state.claim(ME)
        other.claim(Identity(**{**ME.__dict__, "client": "client-02"}))
        saved(state, half, 1, 2)
        saved(other, half, 1)
        for source in (tmp_path / "a" / "round-000002.snapshot", tmp_path / "b" / "round-000001.snapshot"):
            shutil.copy(source, tmp_path / "a" / "round-000001.snapshot")
            with pytest.raises(
                LearningError, match=r"round-000001.snapshot is of another round, client or run .*remove the folder"
            ):
                state.of(ME.run, ME.client, ME.cut)

    def test_snapshots_without_their_identity_are_refused(self, tmp_path: Path, half: ClientHalf) -> None:
        state = ClientState(tmp_path)
        state.claim(ME)
        saved(state, half, 1)
        state.close()
        (tmp_path / "client.json").unlink()
        with pytest.raises(LearningError, match="is of another round, client or run"):
            ClientState(tmp_path).of(ME.run, ME.client, ME.cut)

    def test_a_client_that_joins_again_keeps_its_snapshots(self, state: ClientState, half: ClientHalf) -> None:
        state.of(ME.run, ME.client, ME.cut)
        state.claim(ME)
        saved(state, half, 1)
        state.of(ME.run, ME.client, ME.cut)
        state.claim(Identity(**{**ME.__dict__, "incarnation": 2}))
        assert state.restore(1, half) == (1, Counters(10, 100))

    def test_a_snapshot_of_another_cut_is_refused(self, tmp_path: Path, network: Network, half: ClientHalf) -> None:
        state = ClientState(tmp_path)
        saved(state, half, 1)
        with pytest.raises(LearningError, match="is damaged"):
            state.restore(1, ClientHalf(network, 4, TRAINING))

    @pytest.mark.parametrize("old", [b'"incarnation": 1', b'"cut": 3', b'"run"', b'"fingerprint": "f'])
    def test_an_edited_identity_is_refused(self, tmp_path: Path, old: bytes) -> None:
        ClientState(tmp_path).claim(ME)
        file = tmp_path / "client.json"
        file.write_bytes(file.read_bytes().replace(old, old[:-1] + b"9"))
        with pytest.raises(SettingsError, match=r"client.json is damaged: .*remove the folder"):
            ClientState(tmp_path).of(ME.run, ME.client, ME.cut)

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run": 1, "odd": 2}', "[" * 100_000])
    @pytest.mark.parametrize("sealed", [True, False])
    def test_a_damaged_identity_is_named(self, tmp_path: Path, text: str, sealed: bool) -> None:
        seal = hashlib.sha256(text.encode()).hexdigest() + "\n" if sealed else ""
        (tmp_path / "client.json").write_text(seal + text)
        with pytest.raises(SettingsError, match=r"client.json is damaged: .*remove the folder"):
            ClientState(tmp_path).identity()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, half: ClientHalf) -> None:
    state = ClientState(tmp_path)
    (tmp_path / "client.json.part").mkdir()
    (tmp_path / "round-000001.snapshot.part").mkdir()
    with pytest.raises(SettingsError, match=r"client.json cannot be written or removed: Is a directory"):
        state.claim(ME)
    with pytest.raises(SettingsError, match=r"round-000001.snapshot cannot be written or removed: Is a directory"):
        saved(state, half, 1)

"""What a client keeps to start again."""

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

    @pytest.mark.parametrize(("closed", "kept"), [(0, [1, 2, 4]), (1, [2, 4]), (2, [2, 4]), (3, [4]), (9, [4])])
    def test_what_may_still_be_asked_for_is_kept(self, state: ClientState, half: ClientHalf, closed: int, kept: list[int]) -> None:
        """After round c is closed, round c + 1 must be recomputable."""
        saved(state, half, 1, 2, 4)
        state.forget(closed)
        found = {state.restore(number, half) for number in range(1, 6)} - {None}
        assert sorted(pair[0] for pair in found if pair) == kept


class TestFolder:
    def test_another_process_goes_on(self, tmp_path: Path, half: ClientHalf) -> None:
        first = ClientState(tmp_path)
        assert first.identity() is None
        first.claim(ME)
        saved(first, half, 1)
        first.close()
        second = ClientState(tmp_path)
        assert second.identity() == ME
        assert second.restore(1, half) == (1, Counters(10, 100))

    def test_two_processes_cannot_share_it(self, tmp_path: Path) -> None:
        first = ClientState(tmp_path)
        with pytest.raises(SettingsError, match="in use by another client process"):
            ClientState(tmp_path)
        first.close()
        ClientState(tmp_path).close()

    @pytest.mark.parametrize("change", [{"run": "other"}, {"fingerprint": "0"}, {"client": "client-02"}, {"cut": 4}])
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
        (tmp_path / "round-000001.safetensors.part").write_bytes(b"half a file")
        (tmp_path / "round-000002.safetensors.part").write_bytes(b"half a file")
        assert state.restore(2, half) == (1, Counters(10, 100))

    @pytest.mark.parametrize("damage", [b"", b"junk", None])
    def test_a_damaged_snapshot_is_named(self, tmp_path: Path, half: ClientHalf, damage: bytes | None) -> None:
        state = ClientState(tmp_path)
        saved(state, half, 1)
        file = tmp_path / "round-000001.safetensors"
        file.write_bytes(file.read_bytes()[:-4] if damage is None else damage)
        with pytest.raises(LearningError, match=r"round-000001.safetensors is damaged: .*remove the folder"):
            state.restore(1, half)

    def test_a_snapshot_of_another_cut_is_refused(self, tmp_path: Path, network: Network, half: ClientHalf) -> None:
        state = ClientState(tmp_path)
        saved(state, half, 1)
        with pytest.raises(LearningError, match="is damaged"):
            state.restore(1, ClientHalf(network, 4, TRAINING))

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run": 1, "odd": 2}'])
    def test_a_damaged_identity_is_named(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "client.json").write_text(text)
        with pytest.raises(SettingsError, match=r"client.json is damaged: .*remove the folder"):
            ClientState(tmp_path).identity()

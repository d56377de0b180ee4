"""How a round's clients form streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.errors import SettingsError
from learning.settings import TrainingSettings
from learning.strategies import averaged, group, is_split

rosters = st.sets(st.integers(0, 40), max_size=12).map(lambda indices: [(index, f"client-{index:02}") for index in indices])
trainings = st.one_of(
    st.sampled_from(["sequential", "averaging", "distributed"]).map(lambda name: TrainingSettings(strategy=name)),
    st.integers(1, 6).map(lambda streams: TrainingSettings(strategy="averaging", streams=streams)),
)
FOUR = [(index, f"client-{index + 1}") for index in range(4)]


def test_sequential_is_one_stream_in_list_order() -> None:
    assert group(FOUR[::-1], TrainingSettings(strategy="sequential")) == {"all": ["client-1", "client-2", "client-3", "client-4"]}


@pytest.mark.parametrize("strategy", ["averaging", "distributed"])
def test_averaging_and_distributed_are_a_stream_a_client(strategy: str) -> None:
    assert group(FOUR, TrainingSettings.model_validate({"strategy": strategy})) == {client: [client] for _, client in FOUR}


def test_streams_deal_clients_in_turn() -> None:
    assert group(FOUR, TrainingSettings(streams=3)) == {
        "stream-1": ["client-1", "client-4"],
        "stream-2": ["client-2"],
        "stream-3": ["client-3"],
    }


@given(rosters, trainings)
def test_every_client_is_in_one_stream_and_none_is_empty(clients: list[tuple[int, str]], training: TrainingSettings) -> None:
    streams = group(clients, training)
    assert sorted(client for members in streams.values() for client in members) == sorted(client for _, client in clients)
    assert all(members == sorted(members) and members for members in streams.values())
    assert list(streams) == sorted(streams), "averaging goes by this order"


@given(rosters, trainings, st.data())
def test_a_client_stays_in_its_stream_whoever_else_is_there(
    clients: list[tuple[int, str]], training: TrainingSettings, data: st.DataObject
) -> None:
    there = [client for client in clients if data.draw(st.booleans())]
    everyone, some = group(clients, training), group(there, training)
    for stream, members in some.items():
        assert set(members) <= set(everyone[stream])


@pytest.mark.parametrize("strategy", ["alone", "centralized"])
def test_baselines_have_no_streams(strategy: str) -> None:
    training = TrainingSettings.model_validate({"strategy": strategy})
    assert not is_split(training)
    with pytest.raises(SettingsError, match=f"strategy = {strategy} trains whole networks"):
        group(FOUR, training)
    with pytest.raises(SettingsError):
        averaged(training)


def test_only_distributed_is_never_averaged() -> None:
    assert averaged(TrainingSettings(strategy="averaging"))
    assert averaged(TrainingSettings(strategy="sequential"))
    assert not averaged(TrainingSettings(strategy="distributed"))

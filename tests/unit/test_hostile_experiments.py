"""Experiment files that are not what anybody would write: they load, or are refused in one line; in bounded time and memory."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.init import text
from coordinator.errors import ExperimentError
from coordinator.experiment import MOST_BYTES, Experiment, load_experiment
from tests.hostile import Hostile, check_line

ROOT = Path(__file__).parents[2]
FILES = [*sorted(ROOT.glob("experiments/*.toml")), *sorted(ROOT.glob("examples/*.toml"))]
MUTATIONS = 150
LINES = [
    "rounds = 0x" + "f" * 5000, "rounds = " + "9" * 5000, "lr = 1e999", "lr = nan", "lr = -inf", "seed = 1979-05-27",
    "count = 1000000000", "count = 10000", "cuts = [" + "3," * 20_000 + "]", "width = none", "list = [{}]", "batch_size = -1",
    "[training]", "[[training]]", "[clients]", "[training.client.lr]", "x = " + "[" * 3000, "x = " + "{a=" * 3000, "a.b.c = 1",
    'name = "\\u202e"', '"a\\nb" = 1', '"\\u001b[2J" = 1', "name = '''", 'name = """', "= 1", "name", "open = true",
    "x" * 5000 + " = 1", "list = [{id = 'a', cut = 3}]", "\x00", "\ufeff",
]  # fmt: skip


def loaded(path: Path, *overrides: str) -> Experiment | None:
    """Load a file; None if it is refused as it should be."""
    try:
        experiment = load_experiment(path, overrides, {})
    except ExperimentError as error:
        check_line(error, most=4000)
        return None
    assert Experiment.from_json(experiment.to_json()) == experiment
    assert len(experiment.clients.roster()) <= 20_000
    return experiment


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hostile.toml"


@pytest.mark.parametrize("source", [*FILES, None], ids=lambda path: path.stem if path else "init")
def test_changed_files(source: Path | None, file: Path) -> None:
    hostile = Hostile(source.stem if source else "init")
    whole = source.read_bytes() if source else text(Path("experiment.toml")).encode()
    outcomes = set()
    for _ in range(MUTATIONS):
        file.write_bytes(hostile.data(whole))
        outcomes.add(loaded(file) is not None)
        lines = whole.decode().splitlines()
        for _ in range(hostile.random.choice([1, 1, 2, 5])):
            at = hostile.random.randrange(len(lines))
            lines[at : at + hostile.random.choice([0, 1, 1])] = [hostile.random.choice([*LINES, *lines])]
        file.write_text("\n".join(lines), encoding="utf-8")
        outcomes.add(loaded(file) is not None)
    assert outcomes == {True, False}


def test_changed_experiments_as_json() -> None:
    hostile, whole = Hostile("json"), Experiment().to_json().encode()
    outcomes = set()
    for _ in range(MUTATIONS):
        document = hostile.json(whole).decode()
        try:
            outcomes.add(isinstance(Experiment.from_json(document), Experiment))
        except ExperimentError as error:
            check_line(error, most=4000)
            outcomes.add(False)
    assert outcomes == {True, False}


@given(st.text(max_size=80))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(content, encoding="utf-8", errors="surrogatepass")
    loaded(file)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_override(key: str, value: str) -> None:
    loaded(FILES[0], f"{key}={value}")
    loaded(FILES[0], f"training.{key}={value}")


@pytest.mark.parametrize(
    "value", ["[" * 100_000, "{a=" * 30_000, "0x" + "f" * 50_000, "9" * 50_000, "1" + ".1" * 50_000, "\udcff", "1\nx = 2"]
)
def test_overrides_that_would_take_long(value: str) -> None:
    assert loaded(FILES[0], f"training.rounds={value}") is None
    assert loaded(FILES[0], f"{value}=1") is None


@pytest.mark.parametrize("content", [
    "x = " + "[" * 100_000, "x = " + "[" * 100_000 + "]" * 100_000, "x = " + "{x=" * 100_000, "x = " + "[" * 90 + "]" * 90,
    "x = " + "[" * 250 + "]" * 250, "[" + "a." * 200_000 + "a]", "[[" + "a." * 200_000 + "a]]", "a." * 200_000 + "a = 1",
    '"".' * 200_000 + "a = 1", '"\u2028".' * 100_000 + "a = 1", "x = {" + "a." * 200_000 + "a = 1}", "[[x]]\n" * 100_000,
    "[a]\n" + "".join(f"b{n} = 1\n" for n in range(20_000)), "".join(f"[s{n}]\n" for n in range(20_000)),
    "[clients]\nlist = [" + "{}," * 30_000 + "]", "[clients]\nlist = [" + "{id='a',cut=1}," * 30_000 + "]",
    "[clients]\ncuts = [" + "3," * 300_000 + "]", "[clients]\ncount = 1000000000", "[clients]\ncount = 0x" + "f" * 16,
    "a" * 500_000, "a" * 500_000 + " = 1", '"' + "\\n" * 200_000 + '" = 1', "x = '" + "a" * 500_000,
    "[training]\nrounds = 0x" + "f" * 500_000, "[training]\nrounds = " + "9" * 500_000, "[training]\nrounds = 1" + "_0" * 200_000,
    "#" * 900_000 + "\nodd = 1", "\n" * 900_000 + "odd = 1",
], ids=lambda content: ascii(content[:20]))  # fmt: skip
def test_bombs(content: str, file: Path) -> None:
    file.write_text(content, encoding="utf-8")
    assert loaded(file) is None or "cuts" in content


def test_what_is_too_large_is_not_read(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(100 * 2**20)
    tracemalloc.start()
    try:
        assert loaded(file) is None
        assert loaded(Path(os.devnull).with_name("zero")) is None
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST_BYTES
    finally:
        tracemalloc.stop()


def test_many_mistakes_are_not_all_told(file: Path) -> None:
    file.write_text("".join(f"odd{number} = {json.dumps('x' * 90)}\n" for number in range(5000)))
    with pytest.raises(ExperimentError, match="and 4990 more") as caught:
        load_experiment(file, (), {})
    assert len(str(caught.value)) < 4000

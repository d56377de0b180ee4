"""Experiments: precedence, one-line errors, rosters, resolution and identity."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from coordinator.errors import ExperimentError
from coordinator.experiment import DEFAULT, Experiment, load_experiment, name_of, resolve
from coordinator.settings import ClientsSettings

ROOT = Path(__file__).parents[2]
NOTHING: dict[str, str] = {}


def write(folder: Path, text: str, name: str = "experiment.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def mistake(path: Path | None, *overrides: str, environ: dict[str, str] = NOTHING) -> str:
    with pytest.raises(ExperimentError) as caught:
        load_experiment(path, overrides, environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nrounds = 2\nbatch_size = 32\nlocal_epochs = 5\n")
    environ = {"SPLITEE_EXPERIMENT__TRAINING__ROUNDS": "3", "SPLITEE_EXPERIMENT__TRAINING__BATCH_SIZE": "64", "HOME": "/"}
    training = load_experiment(path, ["training.rounds=4"], environ).training
    assert (training.rounds, training.batch_size, training.local_epochs, training.seed) == (4, 64, 5, 0)


def test_environment_of_the_process_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITEE_EXPERIMENT__TRAINING__CLIENT__LR", "0.5")
    assert load_experiment(write(tmp_path, "")).training.client.lr == 0.5


def test_override_values_are_toml_and_bare_words_are_text(tmp_path: Path) -> None:
    overrides = [
        "training.client.lr=1e-2", "training.strategy=sequential", "data.download=true", "data.name=imagefolder:/photos",
        "clients.count=6", "clients.cuts=[2, 7]", "data.image_size=none", "name=other", "training.server.schedule='step'",
    ]  # fmt: skip
    experiment = load_experiment(write(tmp_path, "[data]\nimage_size = 8\n"), overrides, NOTHING)
    assert experiment.training.client.lr == 0.01
    assert experiment.training.strategy == "sequential"
    assert experiment.training.server.schedule == "step"
    assert experiment.data.download is True
    assert experiment.data.name == "imagefolder:/photos"
    assert experiment.data.image_size is None
    assert [entry.cut for entry in experiment.clients.roster()] == [2, 2, 2, 7, 7, 7]
    assert experiment.name == "other"


@pytest.mark.parametrize(
    ("file", "name"),
    [("digits.toml", "digits"), ("My Run_2.toml", "my-run-2"), ("-x-.toml", "x"), ("ü.toml", "experiment"), ("a" * 99, "a" * 63)],
)
def test_name_comes_from_the_file(file: str, name: str) -> None:
    assert name_of(Path("folder") / file) == name
    assert Experiment(name=name).name == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[training]\nround = 3", "experiment.toml: training.round is no key; did you mean training.rounds?"),
        ("[training]\nwidth = 3", "experiment.toml: training.width is no key; did you mean model.width?"),
        ("[training]\nlr = 3", "training.lr is no key; did you mean training.client.lr or training.server.lr?"),
        ("[trainning]\nrounds = 3", "trainning is no section; did you mean training?"),
        ("[training]\nrounds = 0", "experiment.toml: training.rounds = 0: must be greater than or equal to 1"),
        ("[training]\nrounds = true", "training.rounds = true: must be a valid integer"),
        ('[training]\nrounds = "3"', 'training.rounds = "3": must be a valid integer'),
        ("[training.client]\nlr = inf", "training.client.lr = Infinity: must be a finite number"),
        ("[training.client]\nlr = 2020-01-01", 'training.client.lr = "2020-01-01": must be a valid number'),
        ('[data]\naugment = "flip"', "data.augment = \"flip\": must be 'auto', 'none' or 'crop-flip'"),
        ("training = 3", "training = 3: must be a table of keys"),
        ("[clients]\ncuts = 3", "clients.cuts = 3: must be a list"),
        ("[clients]\ncuts = [0]", "clients.cuts[0] = 0: must be greater than or equal to 1"),
        ('name = "Über"', 'name = "\\u00dcber": must be 1 to 63 lower-case letters'),
        ("[training]\nrounds = \n", "experiment.toml: not TOML: Invalid value (at line 2"),
        ('[training]\nstrategy = "sequential"\nstreams = 2', "training: streams = 2 needs strategy = averaging, not sequential"),
        ('[training]\nstrategy = "alone"\naverage = "all"', "average = all needs strategy = averaging or sequential, not alone"),
        ('[training]\nstrategy = "distributed"\naverage = "all"', "or sequential, not distributed"),
        ("[training]\nstreams = 13", "experiment.toml: training.streams = 13 is more than the 12 clients there are"),
        (
            "[training]\ninterleave = true",
            "interleave = true needs streams of several clients: strategy = sequential, or averaging",
        ),
        (
            '[training]\nstrategy = "sequential"\ninterleave = true\n[clients]\non_dropout = "discard"',
            'training.interleave = true cannot undo one client\'s round: clients.on_dropout must be "keep"',
        ),
        ("[transport]\nheld_bytes = 2048", "unconfirmed_bytes = 67108864 must be below held_bytes = 2048"),
    ],
)
def test_mistakes_in_a_file_are_one_plain_line(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in mistake(write(tmp_path, text))


def test_mistakes_name_the_override_or_variable_they_come_from(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert mistake(path, "training.rounds=0").startswith("--set training.rounds=0: training.rounds = 0: must be")
    variable = "SPLITEE_EXPERIMENT__TRAINING__ROUND"
    assert mistake(path, environ={variable: "3"}) == f"{variable}: training.round is no key; did you mean training.rounds?"
    assert mistake(path, "training.streams=13").startswith(f"{path} with --set training.streams=13: training.streams")
    assert "write section.key=value" in mistake(path, "training.rounds")
    assert "rounds has no keys below it" in mistake(write(tmp_path, "[training]\nrounds = 3"), "training.rounds.x=3")
    assert mistake(path, "rounds=3").endswith("rounds is no key; did you mean training.rounds?")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = mistake(write(tmp_path, "[training]\nrounds = 0\n[clients]\nlist = [{id = 'a'}]\n"))
    assert "clients.list[0].cut is missing" in text
    assert "training.rounds = 0" in text
    assert "factory" not in text


def test_unreadable_files(tmp_path: Path) -> None:
    assert "no such file" in mistake(tmp_path / "nothing.toml")
    assert "cannot be read: Is a directory" in mistake(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "not TOML" in mistake(tmp_path / "binary.toml")


def test_roster_by_count_is_blocks_of_cuts() -> None:
    roster = ClientsSettings().roster()
    assert [entry.cut for entry in roster] == [3] * 4 + [4] * 4 + [5] * 4
    assert [entry.id for entry in roster] == [f"client-{number:02}" for number in range(1, 13)]
    assert ClientsSettings(count=100).roster()[0].id == "client-001"
    assert ClientsSettings().min_clients == 1


def test_roster_by_list_and_open() -> None:
    listed = ClientsSettings.model_validate({"list": [{"id": "pi", "cut": 2}, {"id": "phone", "cut": 5}], "min_clients": 1})
    assert [(entry.id, entry.cut) for entry in listed.roster()] == [("pi", 2), ("phone", 5)]
    anyone = ClientsSettings(open=True)
    assert len(anyone.roster()) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('list = [{id = "a", cut = 3}]\ncount = 3\ncuts = [3]', "clients: list, and count and cuts: keep one"),
        ('list = [{id = "a", cut = 3}]\nopen = true', "clients: list, and open = true: keep one"),
        ("open = true\ncount = 3\ncuts = [3]", "clients: count and cuts, and open = true: keep one"),
        ('count = "none"\ncuts = "none"', "nobody takes part"),
        ('count = "none"', "count and cuts go together"),
        ("list = []", "list is empty"),
        ('list = [{id = "a", cut = 3}, {id = "a", cut = 4}]', "list names a more than once"),
        ('list = [{id = "A", cut = 3}]', "must be 1 to 63 lower-case letters"),
        ('list = [{id = "a", cut = 0}]', "clients.list[0].cut = 0: must be greater than or equal to 1"),
        ("min_clients = 13", "min_clients = 13 is more than the 12 clients there are"),
        ("cuts = []", "clients.cuts = []"),
    ],
)
def test_rosters_that_cannot_be(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in mistake(write(tmp_path, f"[clients]\n{text}\n"))


@pytest.mark.parametrize(
    "overrides", [[], ["clients.open=true"], ['clients.list=[{id="a",cut=3}]'], ["data.sample_shape=[1,8,8]", "training.streams=2"]]
)
def test_json_gives_the_same_experiment_back(tmp_path: Path, overrides: list[str]) -> None:
    experiment = load_experiment(write(tmp_path, ""), overrides, NOTHING)
    again = Experiment.from_json(experiment.to_json())
    assert again == experiment
    assert again.to_json() == experiment.to_json()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"training": {"rounds": 0}}', '{"nonsense": 1}'])
def test_json_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(ExperimentError):
        Experiment.from_json(text)


def test_fingerprint_follows_what_matters(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    base = load_experiment(path, environ=NOTHING).fingerprint()
    assert len(base) == 64
    assert load_experiment(path, ["name=other", "training.rounds=15"], NOTHING).fingerprint() == base
    assert load_experiment(path, ["training.seed=1"], NOTHING).fingerprint() != base
    assert load_experiment(path, ["training.client.lr=0.1"], NOTHING).fingerprint() != base


def resolved(cuda: bool, *overrides: str) -> tuple[str, str, str, str, str]:
    experiment = resolve(load_experiment(ROOT / "experiments/cifar10.toml", overrides, NOTHING), cuda)
    training = experiment.training
    kinds = (training.device, training.precision, training.memory_format, experiment.transport.wire_dtype, experiment.data.augment)
    assert resolve(experiment, not cuda) == experiment
    return kinds


def test_auto_is_resolved_by_a_static_rule() -> None:
    auto = "data.augment=auto"
    assert resolved(False, auto) == ("cpu", "float32", "contiguous", "float16", "crop-flip")
    assert resolved(True, auto) == ("cuda", "bfloat16", "channels_last", "bfloat16", "crop-flip")
    assert resolved(True, "training.device=cpu", "data.name=digits", auto) == ("cpu", "float32", "contiguous", "float16", "none")
    assert resolved(False, "training.precision=bfloat16") == ("cpu", "bfloat16", "contiguous", "bfloat16", "crop-flip")
    assert resolved(True, "transport.wire_dtype=float32", "training.precision=float32", "training.memory_format=contiguous") == (
        "cuda", "float32", "contiguous", "float32", "crop-flip",
    )  # fmt: skip


def test_shipped_experiments_say_what_the_paper_does() -> None:
    digits = load_experiment(None, environ=NOTHING)
    assert digits == load_experiment(ROOT / "experiments" / "digits.toml", environ=NOTHING)
    assert (digits.name, digits.model.width, digits.data.image_size, digits.training.rounds) == ("digits", 16, 16, 15)
    cifar = load_experiment(ROOT / "experiments" / "cifar10.toml", environ=NOTHING)
    assert (cifar.name, cifar.model.width, cifar.data.name) == ("cifar10", 64, "cifar10")
    for experiment in (digits, cifar):
        assert [entry.cut for entry in experiment.clients.roster()] == [3] * 4 + [4] * 4 + [5] * 4


def test_installed_program_finds_the_default_experiment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE", "learning", "broker", "coordinator", "workers", "monitoring", "cli", "experiments"):
        (source / name).symlink_to(ROOT / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('wheel'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    ask = "from coordinator import experiment as e; print(e.DEFAULT, e.load_experiment(None).name)"
    answer = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, check=True, capture_output=True
    )
    assert answer.stdout.decode().split() == [str(tmp_path / "site" / "experiments" / DEFAULT.name), "digits"]

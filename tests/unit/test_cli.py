"""The command line: help without torch, one-line errors, files it writes."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from broker.errors import BrokerUnavailable
from cli import errors, keys
from cli.doctor import Check, examine, print_checks
from cli.init import text
from coordinator.experiment import Experiment, load_experiment
from coordinator.experiment import keys as all_keys

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *(
        "train",
        "coordinator",
        "server",
        "client",
        "predict",
        "profile",
        "status",
        "report",
        "reproduce",
        "doctor",
        "init",
        "sweep",
        "calibrate",
        "clean",
    ),
    *("dead", "dead list", "dead show", "dead drop", "dead requeue", "bench", "bench train", "bench memory", "bench inference"),
]


def splitee(*arguments: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_no_help_imports_torch() -> None:
    script = f"""
import sys
from cli.main import app
for command in {["", *COMMANDS]!r}:
    try:
        app([*command.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0, command
heavy = ("torch", "torchvision", "sklearn", "matplotlib", "pika", "redis")
print(sorted(name for name in heavy if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in COMMANDS:
        assert f"{command} [OPTIONS]" in done.stdout or f"{command} [OPTIONS] COMMAND" in done.stdout


def test_mistake_in_an_experiment_is_one_line_and_exit_code_1() -> None:
    mistake = "--set training.round=3: training.round is no key; did you mean training.rounds?"
    done = splitee("train", "--set", "training.round=3", SPLITEE_LOG_FORMAT="text")
    assert (done.returncode, done.stderr) == (1, f"splitee: {mistake}\n")
    done = splitee("train", "--set", "training.round=3")
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert {name: line[name] for name in ("level", "event", "role")} == {"level": "error", "event": mistake, "role": "train"}


def test_debug_shows_the_traceback() -> None:
    done = splitee("train", "nothing.toml", SPLITEE_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--nonsense"], "No such option"),
        (["client", "--run", "x"], "Missing option"),
        (["client", "--run", "x", "--id", "a", "--cut", "0", "--broker", "amqp://localhost"], "--cut"),
        (["server", "--run", "x", "--broker", "amqp://localhost"], "--store"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], said: str) -> None:
    done = splitee(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_of_every_package_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise BrokerUnavailable("no answer\nfrom localhost")

    with pytest.raises(SystemExit) as end:
        errors.report_errors(fail)
    assert end.value.code == "splitee: no answer from localhost"

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        errors.report_errors(interrupt)
    assert end.value.code == 130
    assert capsys.readouterr().err == "splitee: interrupted\n"


def test_faults_of_the_program_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        errors.report_errors(lambda: 1 / 0)


def test_init_writes_all_keys_and_replaces_nothing_unasked(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert splitee("init", cwd=tmp_path).returncode == 0
    assert (tmp_path / "experiment.toml").exists()
    assert splitee("init", "mine.toml", cwd=tmp_path).returncode == 0
    assert load_experiment(path, environ={}) == Experiment(name="mine")
    path.write_text("# edited\n")
    refused = splitee("init", "mine.toml", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "splitee: mine.toml exists; --force replaces it, or name another file\n"
    assert path.read_text() == "# edited\n"
    assert splitee("init", "mine.toml", "--force", cwd=tmp_path).returncode == 0
    assert load_experiment(path, environ={}) == Experiment(name="mine")
    assert "cannot be written" in splitee("init", "no/folder.toml", cwd=tmp_path).stderr


def test_init_file_holds_every_key_with_its_description() -> None:
    written = text(Path("experiment.toml"))
    tree = tomllib.loads(written)
    for path, field in all_keys():
        node = tree
        for part in path:
            assert part in node, ".".join(path)
            node = node[part]
        assert field.description, ".".join(path)
        assert f"# {field.description}\n" in written


def test_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == keys.markdown(), "run `make docs`"


def test_allowed_values_in_words() -> None:
    words = {f"{row.section}.{row.name}": row.allowed for row in keys.rows()}
    assert words["training.rounds"] == "integer at least 1 and at most 999999"
    assert words["training.client.momentum"] == "number at least 0 and below 1"
    assert words["data.partition"] == "`iid`, `dirichlet`, `shards`"
    assert words["clients.list"] == "list of {id, cut}, or none"
    assert words["data.download"] == "true or false"


def test_doctor_finds_this_machine_fit() -> None:
    checks = {check.name: check for check in examine(None, None)}
    assert not [check for check in checks.values() if check.failed]
    assert checks["torch + torchvision"].found == "of one build"
    assert {"python", "torch", "pika", "cpu", "cuda", "RabbitMQ", "Redis"} <= checks.keys()


def test_doctor_says_what_is_missing_and_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [Check("a", True, "1.0"), Check("b", False, "not installed", advice="get b"), Check("c", False, "-", necessary=False)]
    assert [check.failed for check in checks] == [False, True, False]
    print_checks(checks, as_json=False)
    assert "-> get b" in capsys.readouterr().out
    print_checks(checks, as_json=True)
    assert [entry["ok"] for entry in json.loads(capsys.readouterr().out)] == [True, False, False]


def test_doctor_fails_on_a_store_that_is_no_store() -> None:
    done = splitee("doctor", "--json", "--store", "nonsense://x")
    assert done.returncode == 1
    assert [entry["name"] for entry in json.loads(done.stdout) if not entry["ok"] and entry["necessary"]] == ["store"]

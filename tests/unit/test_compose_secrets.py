"""`splitee init --compose`: secrets of one's own, for nobody else to read, never replaced unasked."""

import base64
import hashlib
import json
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cli import compose
from cli.compose import CLIENTS, DEFINITIONS, ENV, POOL, write_secrets
from cli.errors import CommandError
from cli.main import app
from tests.compose import ROOT, environment_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docker-compose.yml").touch()
    return tmp_path


def secrets_of(folder: Path) -> dict[str, str]:
    found = environment_file((folder / ENV).read_text())
    return {name: value for name, value in found.items() if not name.endswith("_PORT")}


def test_secrets_are_long_all_different_and_new_each_time(folder: Path) -> None:
    write_secrets(folder, force=False)
    first = secrets_of(folder)
    assert stat.S_IMODE((folder / ENV).stat().st_mode) == 0o600
    assert all(len(value) == 64 for value in first.values())
    write_secrets(folder, force=True)
    assert stat.S_IMODE((folder / ENV).stat().st_mode) == 0o600
    second = secrets_of(folder)
    assert first.keys() == second.keys()
    assert len({*first.values(), *second.values()}) == 2 * len(first)
    assert sorted(path.name for path in folder.iterdir()) == [ENV, "deploy", "docker-compose.yml"]


def test_rabbitmq_s_users_have_these_passwords_and_no_other(folder: Path) -> None:
    write_secrets(folder, force=False)
    text = (folder / DEFINITIONS).read_text()
    passwords = secrets_of(folder)
    assert not [name for name, value in passwords.items() if value in text], "hashes only"
    users = {user["name"]: base64.b64decode(user["password_hash"]) for user in json.loads(text)["users"]}
    assert users.keys() == {POOL, *CLIENTS}
    for name, stored in users.items():
        password = passwords[f"{name.replace('-', '_').upper()}_PASSWORD"]
        assert stored[4:] == hashlib.sha256(stored[:4] + password.encode()).digest()
    assert len({stored[:4] for stored in users.values()}) == len(users), "salts differ"


@pytest.mark.parametrize("existing", [ENV, DEFINITIONS])
def test_nothing_is_replaced_unasked(folder: Path, existing: str) -> None:
    path = folder / existing
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(CommandError, match=re.escape(f"{path} exists; --force makes new secrets")):
        write_secrets(folder, force=False)
    assert [file.read_text() for file in folder.rglob("*") if file.is_file() and file.name != "docker-compose.yml"] == ["mine"]


def test_force_keeps_what_is_no_secret(folder: Path) -> None:
    (folder / ENV).write_text("# mine\nGRAFANA_PORT=3333\nREDIS_PASSWORD=old\nRUN=two\n")
    write_secrets(folder, force=True)
    text = (folder / ENV).read_text()
    assert text.startswith("# mine\nGRAFANA_PORT=3333\nRUN=two\n")
    assert text.count("REDIS_PASSWORD=") == text.count("GRAFANA_PORT=") == 1
    assert "old" not in text


def test_a_port_in_use_is_said_and_another_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(compose.PORTS, "GRAFANA_PORT", port)
        said = write_secrets(folder, force=False)
    chosen = int(environment_file((folder / ENV).read_text())["GRAFANA_PORT"])
    assert chosen > port
    assert said[1:] == [f"Port {port} is in use here: GRAFANA_PORT={chosen} in {ENV}"]


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"docker-compose\.yml is not there: run this in the folder"):
        write_secrets(tmp_path, force=False)
    (tmp_path / "docker-compose.yml").touch()
    (tmp_path / "deploy").touch()
    with pytest.raises(CommandError, match=r"definitions\.json: cannot be written: (File exists|Not a directory)"):
        write_secrets(tmp_path, force=False)
    assert not (tmp_path / ENV).exists()
    (tmp_path / ENV).write_bytes(b"\xff")
    with pytest.raises(CommandError, match=r"\.env: cannot be read"):
        write_secrets(tmp_path, force=True)


def test_the_command_starts_without_torch(folder: Path) -> None:
    code = (
        "import sys; sys.argv = ['splitee', 'init', '--compose']\n"
        "from cli.main import main\ntry:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Wrote {ENV} and {DEFINITIONS}; start with: docker compose up\n")


def test_with_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["init", "--compose", str(folder)], standalone_mode=False)
    assert capsys.readouterr().out.startswith(f"Wrote {folder / ENV}")
    assert secrets_of(folder)


def test_git_never_takes_them() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {ENV, f"/{DEFINITIONS}"} <= set(ignored)

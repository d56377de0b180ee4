"""The Dockerfile: its files are those that the project consists of, and its step that installs them does.

Its step that installs torch is run by tests/soak/test_dockerfile_steps.py; the image itself is built nowhere in the tests.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.compose import ROOT, services
from tests.dockerfile import Instruction, instructions

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAST = max(one.stage for one in instructions())


def named(name: str, stage: int | None = None) -> list[Instruction]:
    return [one for one in instructions() if one.name == name and stage in (None, one.stage)]


def sources() -> list[str]:
    """Return what is copied from the project."""
    return [word for one in named("COPY") if not one.text.startswith("--from=") for word in one.words[:-1]]


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file from the build: the last line that matches decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = path.split("/")
            tops = ["/".join(parts[: count + 1]) for count in range(len(parts))]
            if any(fnmatch(top, pattern) for top in (parts if "**/" in line else tops)):
                ignored = not line.startswith("!")
    return ignored


def copied(folder: Path) -> Path:
    """Lay out what the build would see; return the folder."""
    for name in sources():
        found = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        files = [file for file in found.stdout.split() if not is_ignored(file)]
        assert files, f"{name} does not reach the build"
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
    return folder


def test_bases_are_pinned_and_the_last_one_runs_as_nobody_special() -> None:
    bases = [one.words[0] for one in named("FROM")]
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases), bases
    assert len(set(bases)) == 1, "what is installed in one is run in the other"
    assert len(bases) == 2, "what builds is left behind"
    (user,) = named("USER", LAST)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.text)
    (entry,) = named("ENTRYPOINT", LAST)
    assert entry.words[0] in PROJECT["project"]["scripts"]
    assert entry.text.startswith("["), "without a shell: signals reach the role"
    environment = " ".join(one.text for one in named("ENV", LAST))
    for variable in ("PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "PATH=/venv/bin:"):
        assert variable in environment


def test_what_volumes_are_mounted_over_belongs_to_the_user() -> None:
    """A new volume takes the owner of the folder that it is mounted over."""
    required = dict.fromkeys(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()), "x")
    targets = {m.target for s in services(ROOT, required).values() if s.is_role for m in s.mounts if m.kind == "volume"}
    (install,) = named("RUN", LAST)
    made = set(re.findall(r"(?<= )/[\w/]+", install.text.partition("install --directory --owner=splitee")[2]))
    assert targets <= made
    assert f"--uid {named('USER', LAST)[0].text.partition(':')[0]} " in install.text


def test_all_packages_are_copied_and_no_secret() -> None:
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(sources())
    for file in (".env", "deploy/rabbitmq/definitions.json", "runs/digits/summary.json", ".git/config", "cli/__pycache__/main.pyc"):
        assert is_ignored(file), file
    for file in (PROJECT["project"]["readme"], "monitoring/report/page.css", "experiments/digits.toml"):
        assert not is_ignored(file), file


def test_the_copied_files_install_and_run_in_a_clean_environment(tmp_path: Path) -> None:
    """Dependencies are those of the tests; the project is what the build would install."""
    install = named("RUN", 0)[-1]
    assert install.text == "pip install ."
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    wheels, build = tmp_path / "wheels", copied(tmp_path / "build")
    pip, quiet = [sys.executable, "-m", "pip"], ["--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", wheels, build], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "--python", python, "install", *quiet, wheel], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    there = {path.name for path in site.iterdir() if path.is_dir() and not path.name.endswith(".dist-info")}
    assert there == {"broker", "cli", "coordinator", "experiments", "learning", "monitoring", "workers"}
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    (tmp_path / "docker-compose.yml").touch()
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    splitee = str(venv / "bin" / "splitee")
    for command in ([splitee, "init", "--compose"], [python, "-c", "import cli.main; print(cli.main.__file__)"]):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site)), "not the checkout"
    assert (tmp_path / ".env").exists()
    assert (site / "experiments" / "digits.toml").exists()
    assert (site / "monitoring" / "report" / "page.css").exists()


@pytest.mark.parametrize("index", ["", "https://pypi.org/simple"])
def test_torch_comes_from_one_index(index: str) -> None:
    """In both variants, and torchvision with it: they have to be of one build."""
    found = instructions(**({"TORCH_INDEX": index} if index else {}))
    (torch,) = [one for one in found if one.name == "RUN" and " torch" in one.text]
    assert torch.text == f"pip install --index-url {index or 'https://download.pytorch.org/whl/cpu'} torch torchvision"

"""The Dockerfile's steps that install, all of them, in a clean environment: minutes and gigabytes.

torch comes from PyPI, as in the CUDA variant; the index of the CPU variant is another server.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dockerfile import instructions
from tests.unit.test_dockerfile import copied


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_steps_install_what_a_role_needs(tmp_path: Path) -> None:
    build = copied(tmp_path / "build")
    venv = tmp_path / "venv"
    environment = {**os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    for one in instructions(TORCH_INDEX="https://pypi.org/simple"):
        if one.stage == 0 and one.name == "RUN":
            words = shlex.split(one.text.replace("/venv", str(venv)))
            if words[0] == "python":
                words[0] = sys.executable
            done = subprocess.run(words, cwd=build, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    for command in ("pip check", "splitee doctor", "splitee train --set training.rounds=1 --set data.train_limit=100"):
        done = subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "digits" / "summary.json").exists()

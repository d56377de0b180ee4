"""The Dockerfile as its instructions."""

import json
import re
from dataclasses import dataclass
from string import Template

from tests.compose import ROOT


@dataclass(frozen=True)
class Instruction:
    """One instruction. text: what follows its name, arguments filled in. stage: counted from 0."""

    name: str
    text: str
    stage: int

    @property
    def words(self) -> list[str]:
        """The words, of the form in JSON or the plain one."""
        return list(json.loads(self.text)) if self.text.startswith("[") else self.text.split()


def instructions(**arguments: str) -> list[Instruction]:
    """Return all instructions; arguments: of the build, in place of their defaults. ENV stays as it is written."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: list[Instruction] = []
    values: dict[str, str] = {}
    stage = -1
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        rest = Template(rest).safe_substitute(values)
        if name == "ARG":
            key, _, default = rest.partition("=")
            values[key] = arguments.get(key, default)
        stage += name == "FROM"
        found.append(Instruction(name, rest, stage))
    return found

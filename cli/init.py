"""`splitee init`: an experiment file with every key, its default and what it is."""

from pathlib import Path

from cli.errors import CommandError
from cli.keys import SECTIONS, KeyRow, by_section, toml
from coordinator.experiment import name_of

_PREFACE = """\
# An experiment for `splitee train {file}`. Every key is here with its default; leave out what you do not change.
# "none" unsets a key that may be none.
"""


def write_experiment(path: Path, force: bool) -> None:
    """Write the commented file; raise CommandError if it exists and force is not given, or cannot be written."""
    content = text(path)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise CommandError(f"{path} exists; --force replaces it, or name another file") from None
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None


def text(path: Path) -> str:
    """Return the file's text; loading it gives the default experiment under the file's name."""
    parts = [_PREFACE.format(file=path)]
    for section, members in by_section().items():
        parts.append(f"\n[{section}]  # {SECTIONS[section]}\n" if section else "")
        parts += [_entry(row, toml(name_of(path)) if not section else row.default) for row in members]
    return "".join(parts)


def _entry(row: KeyRow, value: str) -> str:
    return f"\n# {row.description}\n# {row.allowed.replace('`', '')}\n{row.name} = {value}\n"

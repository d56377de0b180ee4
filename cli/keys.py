"""All keys of an experiment with what they may hold; `python -m cli.keys` prints them as docs/settings.md."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.fields import FieldInfo

from coordinator.experiment import Experiment, keys

SECTIONS = {
    "": "the run",
    "model": "the network",
    "data": "samples and their division over the clients",
    "clients": "who takes part",
    "training": "the procedure",
    "training.client": "the clients' optimizer",
    "training.server": "the server replicas' optimizer",
    "transport": "bounds, time-outs and encodings of messages",
}

_PREFACE = """\
# Settings

Every key of an experiment file. `splitee init` writes a file that holds them all.

What is given in several places: `--set section.key=value` wins over the environment
(`SPLITEE_EXPERIMENT__SECTION__KEY=value`), which wins over the file, which wins over the default.
Values are written as in TOML; on the command line and in the environment text needs no quotes.
`"none"` unsets a key that may be none.

This page is generated: `make docs`.
"""
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_TYPES = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}


@dataclass(frozen=True)
class KeyRow:
    """One key: its section ("" for the run's own), name, allowed values in words, default as TOML, and description."""

    section: str
    name: str
    allowed: str
    default: str
    description: str


def rows() -> Iterator[KeyRow]:
    """Yield all keys in the order of their sections."""
    defaults = Experiment().model_dump(mode="json")
    for (*sections, name), field in keys():
        default: Any = defaults
        for part in (*sections, name):
            default = default[part]
        yield KeyRow(".".join(sections), name, allowed(field), toml(default), field.description or "")


def by_section() -> dict[str, list[KeyRow]]:
    """Return all keys by section, sections in their order."""
    table: dict[str, list[KeyRow]] = {section: [] for section in SECTIONS}
    for row in rows():
        table[row.section].append(row)
    return table


def toml(value: object) -> str:
    """Return a key's value as TOML; None as "none", which a file may say too."""
    return json.dumps("none" if value is None else value)


def allowed(field: FieldInfo) -> str:
    """Return in words what a key may hold."""
    kind: Any = Annotated[field.annotation, Field(), *field.metadata]
    schema = TypeAdapter(kind).json_schema()
    return _words(schema, schema.get("$defs", {}))


def markdown() -> str:
    """Return the page of all settings."""
    parts = [_PREFACE]
    for section, members in by_section().items():
        heading = f"[{section}]: {SECTIONS[section]}" if section else "At the top of the file"
        parts.append(f"\n## {heading}\n\n| key | allowed | default | what it is |\n|---|---|---|---|\n")
        parts += [f"| `{row.name}` | {row.allowed} | `{row.default}` | {row.description} |\n" for row in members]
    return "".join(parts)


def _words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return ", or ".join(_words(option, definitions) for option in schema["anyOf"])
    if "$ref" in schema:
        properties = definitions[schema["$ref"].rpartition("/")[2]]["properties"]
        return "{" + ", ".join(properties) + "}"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "null":
        return "none"
    if schema["type"] == "array":
        return f"list of {_words(schema['items'], definitions)}"
    bounds = [f"{words} {schema[bound]:g}" for bound, words in _BOUNDS.items() if bound in schema]
    return " ".join([_TYPES[schema["type"]], " and ".join(bounds)]).strip()


if __name__ == "__main__":
    print(markdown(), end="")

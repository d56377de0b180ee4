"""An experiment: everything that decides a run, from its file, the environment and flags, checked before anything starts."""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from broker.messages import CLIENT_PATTERN
from broker.settings import TransportSettings
from coordinator.errors import ExperimentError
from coordinator.settings import ClientsSettings
from learning.settings import DataSettings, ModelSettings, Section, TrainingSettings
from learning.strategies import is_split

DEFAULT = Path(__file__).parents[1] / "experiments" / "digits.toml"
ENVIRONMENT = "SPLITEE_EXPERIMENT__"
MOST_BYTES = 2**20  # of a file; a list of 20,000 clients fits
_MOST_DOTS = 32  # in a line: for a key of n parts tomllib takes n squared time
_MOST_FAULTS = 10  # that are told at once
_AUGMENTED = ("cifar10", "cifar100", "stl10")

Key = tuple[str, ...]


class Experiment(Section):
    """A named experiment. It is the same in every role of its run, which all get it from the coordinator."""

    name: Annotated[str, Field(pattern=CLIENT_PATTERN)] = Field(
        "experiment", description="name of the run, in queues and store; left out, the file's name"
    )
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    clients: ClientsSettings = ClientsSettings()
    training: TrainingSettings = TrainingSettings()
    transport: TransportSettings = TransportSettings()

    @model_validator(mode="after")
    def _streams_have_clients(self) -> Self:
        clients, streams = len(self.clients.roster()), self.training.streams
        if streams is not None and not self.clients.open and streams > clients:
            raise ValueError(f"training.streams = {streams} is more than the {clients} clients there are")
        return self

    @model_validator(mode="after")
    def _what_is_interleaved_is_kept(self) -> Self:
        if self.training.interleave and self.clients.on_dropout == "discard":
            raise ValueError('training.interleave = true cannot undo one client\'s round: clients.on_dropout must be "keep"')
        return self

    @model_validator(mode="after")
    def _open_runs_have_servers(self) -> Self:
        if self.clients.open and not is_split(self.training):
            raise ValueError(f"training.strategy = {self.training.strategy} has no servers, which clients.open = true needs")
        return self

    def to_json(self) -> str:
        """Return canonical JSON: the same text for equal experiments."""
        return _canonical(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Return the experiment in the JSON of ``to_json``; raise ExperimentError if it is anything else."""
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise ExperimentError(_explain(error, {}, "experiment")) from None

    def fingerprint(self) -> str:
        """Return the SHA-256 of all sections, in hex; the name is not part of it."""
        return hashlib.sha256(_canonical(self.model_dump(mode="json", exclude={"name"})).encode()).hexdigest()


def load_experiment(path: Path | None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Experiment:
    """Return the experiment in a TOML file; path None: the one that comes with the program.

    overrides: "section.key=value", which win over the environment's SPLITEE_EXPERIMENT__SECTION__KEY=value (environ None:
    this process's), which wins over the file, which wins over the defaults. Values are TOML; what is not TOML is text;
    "none" unsets a key that can be unset. Raises ExperimentError, one line, for every mistake.
    """
    path, label = (path, str(path)) if path else (DEFAULT, DEFAULT.name)
    tree = {"name": name_of(path), **_read(path)}
    origins: dict[Key, str] = {}
    for origin, key, text in [*_from_environment(os.environ if environ is None else environ), *_from_flags(overrides)]:
        _assign(tree, key, _value(text), origin)
        origins[key] = origin
    _unset_nones(tree)
    try:
        # JSON, because there a list may stand for a tuple though nothing else is converted; dates have no place here
        return Experiment.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ExperimentError(_explain(error, origins, label)) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, tables in tables in tables
        raise ExperimentError(f"{label}: {error}") from None


def resolve(experiment: Experiment, cuda: bool) -> Experiment:
    """Return the experiment with every "auto" that depends on the machine or the data replaced by what it means.

    cuda: whether there is a CUDA device. The rules are those in the keys' descriptions.
    """
    training = experiment.training
    device = _auto(training.device, "cuda" if cuda else "cpu")
    precision = _auto(training.precision, "bfloat16" if device == "cuda" else "float32")
    layout = _auto(training.memory_format, "channels_last" if device == "cuda" else "contiguous")
    wire = _auto(experiment.transport.wire_dtype, "bfloat16" if precision == "bfloat16" else "float16")
    augment = _auto(experiment.data.augment, "crop-flip" if experiment.data.name in _AUGMENTED else "none")
    return experiment.model_copy(
        update={
            "data": experiment.data.model_copy(update={"augment": augment}),
            "training": training.model_copy(update={"device": device, "precision": precision, "memory_format": layout}),
            "transport": experiment.transport.model_copy(update={"wire_dtype": wire}),
        }
    )


def keys(model: type[BaseModel] = Experiment, prefix: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Yield every key of an experiment, as a path of names, with its field."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, (*prefix, name))
        else:
            yield (*prefix, name), field


def name_of(path: Path) -> str:
    """Return the run name that a file's name gives."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:63] or "experiment"


def _auto(value: str, meaning: str) -> str:
    return meaning if value == "auto" else value


def _canonical(tree: object) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ExperimentError(f"{path}: no such file; `splitee init {path}` writes one with every key") from None
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ExperimentError(f"{path}: more than {MOST_BYTES} bytes, which no experiment has")
    try:
        return _parse(data.decode())
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise ExperimentError(f"{path}: not TOML: {error!s:.200}") from None


def _parse(text: str) -> dict[str, Any]:
    """Return the tables in TOML; raise ValueError or RecursionError if it is none, or would take too long to read."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MOST_DOTS and not line.lstrip().startswith("#"):
            raise ValueError(f"more than {_MOST_DOTS} dots in a line (at line {number})")
    return tomllib.loads(text)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Key, str]]:
    for variable in sorted(environ):
        if variable.startswith(ENVIRONMENT):
            yield variable, tuple(variable.removeprefix(ENVIRONMENT).lower().split("__")), environ[variable]


def _from_flags(overrides: Sequence[str]) -> Iterator[tuple[str, Key, str]]:
    for override in overrides:
        key, equals, text = override.partition("=")
        origin = f"--set {_shown(override)}"
        if not equals or not key.strip():
            raise ExperimentError(f"{origin}: write section.key=value, such as training.rounds=3")
        yield origin, tuple(part.strip() for part in key.split(".")), text.strip()


def _value(text: str) -> object:
    try:
        tree = _parse(f"value = {text}")
        return tree["value"] if len(tree) == 1 else text
    except (ValueError, RecursionError):
        return text


def _assign(tree: dict[str, Any], key: Key, value: object, origin: str) -> None:
    *sections, leaf = key
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ExperimentError(f"{origin}: {_shown(section)} has no keys below it")
    tree[leaf] = value


def _unset_nones(tree: dict[str, Any]) -> None:
    for (*sections, leaf), field in keys():
        node: Any = tree
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get(leaf) == "none" and type(None) in get_args(field.annotation):
            node[leaf] = None


def _explain(error: ValidationError, origins: Mapping[Key, str], file: str) -> str:
    """Return all faults in one line, each with where it was written."""
    found = error.errors(include_url=False)
    wrong = {fault["loc"][:-1] for fault in found}  # a list whose items are wrong counts as empty too
    faults = [
        fault
        for fault in found
        if fault["type"] != "default_factory_not_called" and not (fault["type"] == "too_short" and fault["loc"] in wrong)
    ]
    more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
    return "; ".join([*(_fault(fault, origins, file) for fault in faults[:_MOST_FAULTS]), *more])


def _fault(fault: ErrorDetails, origins: Mapping[Key, str], file: str) -> str:
    path = fault["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" for part in path).removeprefix(".")
    source = next((origin for at, origin in origins.items() if path[: len(at)] == at), None)
    if source is None:  # a whole section's fault may come from the file and flags together
        within = ", ".join(origin for at, origin in origins.items() if at[: len(path)] == path)
        source = f"{file} with {within}" if within else file
    if fault["type"] == "extra_forbidden":
        return f"{source}: {key} is no {'section' if isinstance(fault['input'], dict) else 'key'}; {_nearest(key)}"
    if fault["type"] in ("missing", "json_invalid"):
        return f"{source}: {key} is missing" if key else f"{source}: {fault['msg']}"
    if fault["type"] == "value_error":
        return f"{source}: {key + ': ' if key else ''}{fault['msg'].removeprefix('Value error, ')}"
    return f"{source}: {key} = {json.dumps(fault['input'], default=str)[:80]}: {_wanted(fault)}"


def _shown(name: str) -> str:
    """Return a name that may be anything, short and without control characters."""
    name = name if len(name) <= 100 else name[:100] + "..."
    return name if name.isprintable() else ascii(name)[1:-1]


def _wanted(fault: ErrorDetails) -> str:
    if fault["type"] == "string_pattern_mismatch":
        return "must be 1 to 63 lower-case letters, digits and dashes, not beginning with a dash"
    if fault["type"] == "tuple_type":
        return "must be a list"
    if fault["type"] == "too_short":
        return f"must have at least {fault['ctx']['min_length']} items" if fault["ctx"]["min_length"] > 1 else "must not be empty"
    if fault["type"] in ("bool_type", "bool_parsing"):
        return "must be true or false"
    if fault["type"] in ("model_type", "model_attributes_type"):
        return "must be a table of keys"
    return fault["msg"].replace("Input should be a valid", "must be a valid").replace("Input should be", "must be")


def _nearest(key: str) -> str:
    known = [".".join(path) for path, _ in keys()]
    leaf = key.rpartition(".")[2]
    close = [name for name in known if name.rpartition(".")[2] == leaf]
    if not 1 <= len(close) <= 2:
        close = difflib.get_close_matches(key, [*known, *Experiment.model_fields], n=1)
    return f"did you mean {' or '.join(close)}?" if close else "docs/settings.md lists all"

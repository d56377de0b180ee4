"""The entropy bounds that were calibrated for a finished run, as its folder keeps them."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from broker.codec import first_fault
from broker.messages import Positive
from workers.inference_folder import Digest, parameters_sha256, place, read, write
from workers.trained_run import RunFolderError

FILE = "calibration.json"

Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


def shown(bound: float) -> float | Literal["inf"]:
    """Return an entropy bound as JSON has it: infinity is the text "inf"."""
    return "inf" if bound == math.inf else bound


Bound = Annotated[float, Field(ge=0), PlainSerializer(shown)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """What a bound gave on the samples that it was chosen on; means over the clients of a cut."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    accuracy_loss: Annotated[float, Field(ge=-1, le=1)]
    offload: Annotated[float, Field(ge=0, le=1)]


class Calibration(_Part):
    """The contents of calibration.json; max_entropy and estimated are by cut."""

    run: str
    parameters_sha256: Digest
    target: Literal["max_accuracy_loss", "max_offload"]
    value: Share
    confidence: Share
    samples: Positive
    max_entropy: Annotated[dict[Positive, Bound], Field(min_length=1)]
    estimated: dict[Positive, Estimate]


def calibrated_bounds(folder: Path) -> dict[int, float] | None:
    """Return cut -> max_entropy in nats, 0 or more or infinity, as `splitee calibrate` chose it for a run; None if it did not.

    Raises RunFolderError if calibration.json is damaged, or of other layers than the run's.
    """
    found = load_calibration(folder)
    return None if found is None else dict(found.max_entropy)


def load_calibration(folder: Path) -> Calibration | None:
    """Return a run's calibration, None if it has none; raise RunFolderError if it is damaged or of other layers."""
    path = place(folder, FILE)
    text = read(path)
    if text is None:
        return None
    try:
        found = Calibration.model_validate_json(text)
    except ValidationError as error:
        raise RunFolderError(f"{path} is damaged: {first_fault(error)}; delete it, or calibrate again") from None
    if found.parameters_sha256 != parameters_sha256(folder):
        raise RunFolderError(f"{path} is of other layers than this run's: calibrate again, or delete it")
    return found


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Keep a calibration in a run's folder, in the place of an earlier one; raise RunFolderError if it cannot be written."""
    write(place(folder, FILE), (calibration.model_dump_json(indent=2) + "\n").encode())

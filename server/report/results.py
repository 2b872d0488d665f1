"""What `results.json` and `run.json` hold, as values. Keys that a report does not show are passed over."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common.errors import RelayError


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
"""A measured number; None where there is none (NaN is read as none)."""


class _Value(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Site(_Value):
    name: str
    patients: int | None = None
    test_patients: int | None = None
    train_slices: tuple[int, ...] = ()
    """A number a fold."""
    left_out: int = 0


class Row(_Value):
    """One method at one target and fold. Dice and IoU in per cent, slice means over the held-out patients."""

    method: str
    target: str
    chosen: bool
    """Of the folds of this method and target, the one with the best validation Dice."""
    headline: bool = False
    """The route whose validation Dice is best at this target."""
    label: str = ""
    route: tuple[str, ...] = ()
    fold: int | None = None
    validation_dice: Figure = None
    dice: Figure = None
    iou: Figure = None
    dice_volume: Figure = None
    hd95_mm: Figure = None
    ci95: tuple[float, float] | None = None
    patients: int | None = None
    slices: int | None = None
    case_dice: dict[str, Figure] | None = None
    """By random case number; None where the site does not permit it."""
    gradient_steps: int | None = None
    bytes_moved: int | None = None
    weights: str = ""
    contributed: tuple[str, ...] | None = None
    stage: str | None = None


class Epoch(_Value):
    epoch: int
    dice: Figure = None


class Stage(_Value):
    id: str
    kind: str = ""
    site: str = ""
    fold: int | None = None
    label: str = ""
    parent: str | None = None
    epochs: tuple[Epoch, ...] = ()
    validation_dice: Figure = None


class Results(_Value):
    relay: str = ""
    study: dict[str, Any] = Field(default_factory=dict)
    synthetic: bool = False
    sites: tuple[Site, ...] = ()
    choices: tuple[tuple[str, ...], ...] = ()
    """What the paper leaves open: what, chosen, remark."""
    rows: tuple[Row, ...]
    stages: tuple[Stage, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)


class Run(_Value):
    """How a study ran. Bytes as the coordinator counts them: sent to a site, received from it."""

    machine: str = ""
    started: str = ""
    seconds: float | None = None
    bytes_sent: dict[str, int] = Field(default_factory=dict)
    bytes_received: dict[str, int] = Field(default_factory=dict)
    messages: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)


Model = TypeVar("Model", bound=_Value)


def _read(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise RelayError(f"{path} cannot be read ({error.strerror}): give the folder's owner's rights.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RelayError(
            f"{path} does not read as relay writes it, at {where or 'its top'} ({first['msg']}):"
            " run the study again into the same folder."
        ) from error
    except ValueError as error:
        raise RelayError(f"{path} is no JSON ({error}): run the study again into the same folder.") from error


def read_results(folder: Path) -> Results:
    """The results of a study.

    Raises:
        RelayError: `folder` holds no results.json, or one that cannot be read.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise RelayError(f"{folder} holds no results.json: run the study to its end first, or name another folder.")
    return _read(path, Results)


def read_run(folder: Path) -> Run | None:
    """How the study ran, or None where nothing says so.

    Raises:
        RelayError: there is a run.json that cannot be read.
    """
    path = folder / "run.json"
    return _read(path, Run) if path.is_file() else None

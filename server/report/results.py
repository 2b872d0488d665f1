"""What `results.json` and `run.json` hold, as values. Keys that a report does not show are passed over."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common.errors import RelayError
from common.plan import Method, method_of


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
    validation_patients: tuple[int, ...] = ()
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
    model: str = ""
    """The network: architecture and encoder."""
    seed: int = 0
    """Of the repeat that this row belongs to."""
    route: tuple[str, ...] = ()
    fold: int | None = None
    validation_dice: Figure = None
    validation_iou: Figure = None
    dice: Figure = None
    iou: Figure = None
    dice_volume: Figure = None
    hd95_mm: Figure = None
    assd_mm: Figure = None
    surface_patients: int | None = None
    """Test patients of whom anything was segmented, so that there is a distance."""
    ci95: tuple[float, float] | None = None
    patients: int | None = None
    slices: int | None = None
    case_dice: dict[str, Figure] | None = None
    """By random case number; None where the site does not permit it."""
    case_slices: dict[str, int] | None = None
    gradient_steps: int | None = None
    bytes_moved: int | None = None
    weights: str = ""
    contributed: tuple[str, ...] | None = None
    absent: tuple[str, ...] = ()
    """Sites that the row should have had, in one of its rounds, folds or hops, and did without."""
    stage: str | None = None

    @property
    def kind(self) -> Method:
        """What is to be known of its method."""
        return method_of(self.method)


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
    gradient_steps: int | None = None
    bytes_moved: int | None = None
    validation: dict[str, Figure] = Field(default_factory=dict)
    """Of an average, its Dice on every site's validation patients."""
    validation_dice: Figure = None


class Spread(_Value):
    """Mean and standard deviation over all folds and repeats."""

    method: str
    target: str
    model: str = ""
    route: tuple[str, ...] = ()
    """Empty for a route that grew: it may be another one in another repeat."""
    runs: int
    dice_mean: Figure = None
    dice_std: Figure = None
    iou_mean: Figure = None
    iou_std: Figure = None
    validation_dice_mean: Figure = None
    validation_dice_std: Figure = None
    validation_iou_mean: Figure = None
    validation_iou_std: Figure = None


class Budget(_Value):
    """What was spent to obtain all rows of a method: folds, repeats, networks and discarded routes included."""

    method: str
    """"all": the whole study, each stage counted once."""
    trainings: int
    scorings: int
    gradient_steps: int
    bytes_moved: int


class Hop(_Value):
    site: str
    dice: dict[str, Figure]
    """By site: the test Dice that the model has there after this hop."""


class Forgetting(_Value):
    """A chosen route, and what every site has of the model after every hop."""

    method: str
    target: str
    route: tuple[str, ...]
    model: str = ""
    seed: int = 0
    headline: bool = False
    after: tuple[Hop, ...]


class Grown(_Value):
    """A route that grew, and how many trainings it took, against those of all routes of that length."""

    target: str
    route: tuple[str, ...]
    model: str = ""
    seed: int = 0
    trainings: int
    trainings_of_all_routes: int


class Unfinished(_Value):
    """A row that could not be finished, and why."""

    label: str
    target: str
    model: str = ""
    seed: int = 0
    fold: int | None = None
    reason: str = ""


class Results(_Value):
    relay: str = ""
    study: dict[str, Any] = Field(default_factory=dict)
    synthetic: bool = False
    sites: tuple[Site, ...] = ()
    choices: tuple[tuple[str, ...], ...] = ()
    """What the paper leaves open: what, chosen, remark."""
    rows: tuple[Row, ...]
    spread: tuple[Spread, ...] = ()
    budgets: tuple[Budget, ...] = ()
    forgetting: tuple[Forgetting, ...] = ()
    grown: tuple[Grown, ...] = ()
    stages: tuple[Stage, ...] = ()
    parked: tuple[Unfinished, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The networks, in the study's order."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    @property
    def seeds(self) -> tuple[int, ...]:
        """One a repeat, in the study's order."""
        return tuple(sorted({row.seed for row in self.rows}))

    @property
    def tested(self) -> bool:
        """Whether any test patient was looked at."""
        said = self.study.get("methods")
        if isinstance(said, dict) and said.get("scored_on") == "validation":
            return False
        return not self.rows or any(row.dice is not None for row in self.rows)

    @property
    def folds(self) -> int:
        return len({row.fold for row in self.rows if row.fold is not None})

    def of_model(self, model: str) -> Results:
        """What was found with one network alone. Stages and budgets are left as they are."""
        return self.model_copy(
            update={
                name: tuple(entry for entry in getattr(self, name) if entry.model == model)
                for name in ("rows", "spread", "forgetting", "grown", "parked")
            }
        )


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

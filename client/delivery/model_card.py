"""The model card: what weights are, what they were made of, and how well they do at this hospital.

`Card` is what a program reads beside a weights file; `markdown` is the same for people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config.study import ModelConfig, PreprocessingConfig, TrainingConfig
from common.digest import digest_of_file
from common.errors import RelayError
from common.plan import method_of

Role = Literal["chosen", "own"]

NO_LICENCE = "None was given. Ask the study's coordinator before the model is passed on."
NO_DEVICE = (
    "This is research software and a research model, not a medical device. Nobody may be diagnosed or treated by what"
    " it draws unless a qualified person has looked at it."
)


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Figure(_Value):
    """A mean over test patients, and its 95 % interval where there are enough of them."""

    mean: float
    low: float | None = None
    high: float | None = None
    patients: int


class Scores(_Value):
    """On a hospital's test patients: a figure a score (`common.scores`), in the unit that it is shown in."""

    slices: int
    dice: Figure
    """Means over slices with gland, as those of IoU."""
    iou: Figure
    dice_volume: Figure
    """Over all slices of a patient, a mean over patients, as the distances are."""
    hd95_mm: Figure | None = None
    """95 % Hausdorff distance; None where nothing was segmented in any patient."""
    assd_mm: Figure | None = None
    """Average symmetric surface distance."""


class Reference(_Value):
    """A model of this hospital alone, for comparison."""

    method: str
    fold: int
    weights: str
    validation_dice: float | None
    scores: Scores | None
    ahead: Figure | None
    """How far the card's model lies above it, in points of Dice, on the same patients."""


class HospitalCounts(_Value):
    """A site of the study."""

    name: str
    patients: int
    test_patients: int
    slices: int
    trained: bool
    """Whether these weights were trained there."""


class Hop(_Value):
    """The model after it was trained at a site: test Dice in per cent, by site."""

    site: str
    dice: dict[str, float]


class Card(_Value):
    """All about one weights file. Folds are counted from 0; what is None is not on record at the site."""

    format: Literal[1] = 1
    relay: str
    """Version of the program."""
    received: str
    """When, in ISO 8601."""
    study: str
    study_digest: str
    about: str
    licence: str
    synthetic: bool
    site: str
    role: Role
    method: str
    route: tuple[str, ...]
    fold: int
    folds: int
    weights: str
    """sha256 of the safetensors file."""
    model: ModelConfig
    preprocessing: PreprocessingConfig
    training: TrainingConfig
    mean: float
    """Of the pixels of the fold's training slices at this site, bias field corrected: images are standardised by it."""
    std: float = Field(gt=0)
    device: str
    """That the scores were worked out on."""
    precision: Literal["float32", "bfloat16"]
    torch: str
    hospitals: tuple[HospitalCounts, ...]
    validation_dice: float | None
    """In per cent."""
    checked: bool
    """Whether the site chose the same by scores of its own record."""
    left_out: int = 0
    """Models that were not among those chosen from, since a site that they need was away: the coordinator says so."""
    scores: Scores | None
    references: tuple[Reference, ...]
    forgetting: tuple[Hop, ...]


def network_named(model: ModelConfig) -> ModelConfig:
    """Return a study's network as a card names it: of a file of encoder weights the name alone, for cards are passed on, and
    its path is one of the coordinator's machine.
    """
    name = model.encoder_weights.replace("\\", "/").rpartition("/")[2]
    return model.model_copy(update={"encoder_weights": name})


def load_card(path: Path) -> Card:
    """Read a card. Raises RelayError where there is none, or none that this program knows."""
    try:
        return Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RelayError(
            f"The model card {path} cannot be read ({error.strerror}); it belongs beside the weights:"
            " say where it is with --card."
        ) from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its top"
        raise RelayError(
            f"{path} is no model card that this program knows (at {where}); give the right file."
        ) from None


def card_beside(weights: Path) -> Path:
    """Where the card of a weights file lies: model.safetensors has model-card.json."""
    return weights.with_name(f"{weights.stem}-card.json")


def weights_digest(path: Path) -> str:
    """Return the digest of a weights file. Raises RelayError where it cannot be read."""
    try:
        return digest_of_file(path)
    except OSError as error:
        raise RelayError(f"{path} cannot be read ({error.strerror}); check the path.") from None


def name_of(method: str, route: tuple[str, ...], site: str) -> str:
    """Return the way of a model in words: "A alone", "B → C → A", "FedAvg, then A"."""
    return method_of(method).name(route, site)


def figure_text(value: Figure | None, digits: int = 1, *, sign: bool = False) -> str:
    """ "91.4 (88.0 to 93.9)", without the interval where there is none, a dash where there is nothing."""
    if value is None:
        return "–"
    mean, span = number(value.mean, digits, sign=sign), interval_text(value, digits, sign=sign)
    return f"{mean} ({span})" if span else mean


def interval_text(value: Figure, digits: int = 1, *, sign: bool = False) -> str:
    """ "88.0 to 93.9"; empty where there is none."""
    if value.low is None or value.high is None:
        return ""
    return f"{number(value.low, digits, sign=sign)} to {number(value.high, digits, sign=sign)}"


def number(value: float, digits: int = 1, *, sign: bool = False) -> str:
    """Return a number with a real minus, and with a plus where a sign is asked for."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"−{text}" if value < 0 else f"+{text}" if sign else text

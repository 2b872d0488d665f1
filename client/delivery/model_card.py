"""The model card: the identity of a model's weights, their origin, and the model's scores at this hospital.

`Card` is the card for programs, a file beside the weights; `model_card_text.markdown` is the same card for people.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config.model import ModelConfig
from common.config.study import PreprocessingConfig, TrainingConfig
from common.digest import digest_of_file
from common.errors import RelayError
from common.plan import method_of
from common.scores import OF_ZONES
from common.text import count, listed

Role = Literal["selected", "own"]

NO_LICENCE = "None was given. Ask the study's coordinator before the model is passed on."
NO_DEVICE = (
    "This is research software and a research model, not a medical device. Nobody may be diagnosed or treated by what"
    " it draws unless a qualified person has looked at it."
)


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Figure(_Value):
    """A mean over test patients, and its 95 % interval where there are enough patients."""

    mean: float
    low: float | None = None
    high: float | None = None
    patients: int


class CurveBin(_Value):
    """A bin of a model's reliability curve (`client.evaluation.calibration.CurvePoint`); shares are in per cent.

    Bins in which fewer test patients than the hospital's `minimum_patients` have a voxel are left out.
    """

    low: float
    high: float
    patients: int
    voxels: float
    probability: float
    gland: float


class Scores(_Value):
    """A model's figure for each score (`common.scores`) on a hospital's test patients, in the displayed unit."""

    slices: int
    dice: Figure
    """Mean over selected slices, like IoU."""
    iou: Figure
    dice_volume: Figure
    """Over all slices of a patient, then a mean over patients, like the distances."""
    hd95_mm: Figure | None = None
    """95 % Hausdorff distance; None where the model segmented nothing in any patient."""
    assd_mm: Figure | None = None
    """Average symmetric surface distance."""
    false_slices: int = 0
    """Slices without gland, of all test patients together, in which the model draws gland."""
    empty_slices: int = 0
    """Slices without gland, of all test patients together; 0 where they were not counted."""
    dice_pz: Figure | None = Field(default=None, exclude_if=lambda dice: dice is None)
    """Dice of the peripheral zone over all slices of a patient, like `dice_cg` of the central gland; None where the
    model segments no zones, or the test patients' are not drawn."""
    dice_cg: Figure | None = Field(default=None, exclude_if=lambda dice: dice is None)
    calibration_error: Figure | None = None
    """Expected calibration error of the probabilities in and around the gland; None where it was not measured."""
    reliability: tuple[CurveBin, ...] = ()
    """The reliability curve, the lowest bin first."""


class Reference(_Value):
    """A model trained at this hospital alone, for comparison."""

    method: str
    fold: int
    weights: str
    validation_dice: float | None
    scores: Scores | None
    ahead: Figure | None
    """How far the card's model lies above this model on the same patients, in points of the Dice that decides."""
    volume_ahead: Figure | None = None
    """The same in points of volume Dice."""


class HospitalCounts(_Value):
    """A site of the study with its counts."""

    name: str
    patients: int
    test_patients: int
    slices: int
    trained: bool
    """Whether these weights were trained at the site."""


class HopScores(_Value):
    """The test Dice, in per cent and by site, of the model after the training at a site."""

    site: str
    dice: dict[str, float]


class Member(_Value):
    """One of the models of an ensemble."""

    weights: str
    """sha256 of the safetensors file."""
    mean: float
    """See `Card.mean`: images are standardised for each member by its own figures."""
    std: float = Field(gt=0)


class Card(_Value):
    """All facts about one weights file. Folds are counted from 0; a value of None is not on record at the site."""

    format: Literal[1] = 1
    relay: str
    """The version of the program."""
    received: str
    """The time of receipt, in ISO 8601."""
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
    rotation: int | None = Field(default=None, exclude_if=lambda rotation: rotation is None)
    """The rotation whose test patients the model never saw, counted from 0; None where the test does not rotate."""
    rotations: int = Field(default=1, exclude_if=lambda rotations: rotations == 1)
    weights: str
    """sha256 of the safetensors file; of an ensemble, a digest of its members' (`common.plan.stage_key`)."""
    members: tuple[Member, ...] = ()
    """The models whose probabilities are averaged, each in a file of its own; empty for a single model."""
    own_tensors: int = 0
    """The number of the model's tensors that never left this hospital."""
    model: ModelConfig
    preprocessing: PreprocessingConfig
    training: TrainingConfig
    equivalence_margin: float = 1.0
    """Differences up to this many points of Dice are practically none, as the study says."""
    mean: float
    """Mean of the pixels of the fold's training slices at this site, bias field corrected; images are standardised with
    `mean` and `std`. 0 and 1 where each volume is standardised by its own."""
    std: float = Field(gt=0)
    device: str
    """The device on which the scores were computed."""
    precision: Literal["float32", "bfloat16"]
    torch: str
    hospitals: tuple[HospitalCounts, ...]
    cleaned: bool = False
    """Whether segmentations are cleaned up (`client.evaluation.clean_up`), as the validation patients decided."""
    validation_dice: float | None
    """The Dice that decides (`common.scores.deciding`), in per cent."""
    checked: bool
    """Whether the site chose the same model by the scores of its own record."""
    left_out: int = 0
    """The number of models that could not be selected, as the coordinator reports, since a site they need was away."""
    stated: tuple[str, ...] = ()
    """The hospital's own statements about its files (`client.data.layouts.Statement`), one sentence each."""
    scores: Scores | None
    test_looks: int = 0
    """How many models have been scored on the hospital's test patients, in all its studies up to the receipt; 0 where
    it is not on record."""
    test_studies: int = 0
    """The number of these studies; each repeat and network of a study counts."""
    references: tuple[Reference, ...]
    forgetting: tuple[HopScores, ...]


def rotation_text(card: Card) -> str:
    """Return which of a study's rotations a model is of; empty where the test does not rotate."""
    if card.rotation is None:
        return ""
    return (
        f"The study's test went round all patients in {card.rotations} rotations, each with models of its own. This"
        f" model is of rotation {card.rotation + 1}, which was fixed before any result, and its figures here are of the"
        " test patients of that rotation, whom it never saw. The study's report pools the patients of all rotations:"
        " its figures are of the method, not of this model."
    )


def models_of(card: Card) -> tuple[Member, ...]:
    """Return a card's models: the members of an ensemble, or the single model."""
    return card.members or (Member(weights=card.weights, mean=card.mean, std=card.std),)


def standard_of(card: Card, model: Card | Member) -> tuple[float, float] | None:
    """Return by what images are standardised for a card's model; None: by each volume's own mean and deviation."""
    return None if card.preprocessing.standardise == "volume" else (model.mean, model.std)


def weights_files(path: Path, models: int) -> tuple[Path, ...]:
    """Return the paths of a card's weights files: model.safetensors, or model-1.safetensors, model-2.safetensors, ….

    Args:
        path: the path of the only file.
        models: the number of models on the card.
    """
    return (path,) if models == 1 else tuple(path.with_stem(f"{path.stem}-{number + 1}") for number in range(models))


def network_named(model: ModelConfig) -> ModelConfig:
    """Return a study's network for a card, with a file of encoder weights reduced to its name.

    Cards are passed on, and the file's path is a path of the coordinator's machine.
    """
    name = model.encoder_weights.replace("\\", "/").rpartition("/")[2]
    return model.model_copy(update={"encoder_weights": name})


def load_card(path: Path) -> Card:
    """Read a model card.

    Raises:
        RelayError: the card is missing, or in a format unknown to this program.
    """
    try:
        return Card.model_validate_json(_with_slices(path.read_bytes()))
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


def _with_slices(card: bytes) -> bytes:
    """Return a card's JSON with the slices that its model was trained on: cards of version 0.1 name none.

    Their models were trained on selected slices alone.
    """
    with suppress(ValueError, AttributeError, TypeError):
        content = json.loads(card)
        content["training"].setdefault("slices", "chosen")
        return json.dumps(content).encode()
    return card


def card_beside(weights: Path) -> Path:
    """Return the path of a weights file's card: model.safetensors has model-card.json beside it.

    The files of an ensemble, such as model-1.safetensors, have one card together.
    """
    card = weights.with_name(f"{weights.stem}-card.json")
    together = weights.with_name(f"{re.sub(r'-[0-9]+$', '', weights.stem)}-card.json")
    return together if together.exists() and not card.exists() else card


def weights_digest(path: Path) -> str:
    """Return the digest of a weights file.

    Raises:
        RelayError: the file cannot be read.
    """
    try:
        return digest_of_file(path)
    except OSError as error:
        raise RelayError(f"{path} cannot be read ({error.strerror}); check the path.") from None


def name_of(method: str, route: tuple[str, ...], site: str) -> str:
    """Return a model's method and route in words: "A alone", "B → C → A", "FedAvg, then A"."""
    return method_of(method).name(route, site)


def zones_text(name: str, scores: Scores | None) -> str:
    """Return a model's Dice of the zones in words; empty where there is none."""
    figures = [(score, getattr(scores, score.key)) for score in OF_ZONES] if scores else []
    known = [f"{score.title} {figure_text(value)} %" for score, value in figures if value is not None]
    if not known:
        return ""
    patients = scores.dice_pz.patients if scores and scores.dice_pz else 0
    return f"{name}: {listed(known)}, over all slices of {count(patients, 'test patient')} with zones drawn."


def figure_text(value: Figure | None, digits: int = 1, *, sign: bool = False) -> str:
    """Return a figure as in "91.4 (88.0 to 93.9)", without an interval where unknown; a dash for None."""
    if value is None:
        return "–"
    mean, span = number(value.mean, digits, sign=sign), interval_text(value, digits, sign=sign)
    return f"{mean} ({span})" if span else mean


def interval_text(value: Figure, digits: int = 1, *, sign: bool = False) -> str:
    """Return a figure's interval as in "88.0 to 93.9"; empty where the figure has no interval."""
    if value.low is None or value.high is None:
        return ""
    return f"{number(value.low, digits, sign=sign)} to {number(value.high, digits, sign=sign)}"


def number(value: float, digits: int = 1, *, sign: bool = False) -> str:
    """Return a number with a real minus sign, and with a plus sign where `sign` is true."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"−{text}" if value < 0 else f"+{text}" if sign else text

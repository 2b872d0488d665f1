"""The few messages that cross the wire, typed, and their form as Flower's records.

A message is one ConfigRecord named "message", which holds the fields of one of the models below, and,
where weights travel, one ArrayRecord named "weights", whose one array is their safetensors file. Anything
else is refused on arrival, on either side: a hospital and a coordinator may distrust each other.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Annotated, Literal, Self, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Error, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.model.weights import File, Weights, from_arrays, serialised, to_arrays

DESCRIBE = "query.describe"
FINE_TUNE = "train.stage"
EVALUATE = "evaluate.stage"
DELIVER = "query.deliver"

STAGE_VERSION = 3
"""Raised whenever the same stage would give another result; a golden test guards it."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**9)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=0)]


class Refusal(IntEnum):
    """Why a site did not do what it was asked. A number and a fixed text are all that leaves."""

    FAILED = 1000
    UNKNOWN_STUDY = 1001
    NOT_IN_STUDY = 1002
    BAD_MESSAGE = 1003
    BAD_WEIGHTS = 1004
    DATA_CHANGED = 1005
    DATA_UNUSABLE = 1006
    TOO_FEW_PATIENTS = 1007
    DISK_FULL = 1008
    BLOCKED = 1009
    DIVERGED = 1010
    OUT_OF_MEMORY = 1011
    ANSWERED = 1012
    NOT_CHOSEN = 1013
    LEFT = 1014
    BEYOND_APPROVAL = 1015


REFUSALS: dict[Refusal, str] = {
    Refusal.FAILED: "the stage failed; the site's own log says why",
    Refusal.UNKNOWN_STUDY: "the site has not approved this study",
    Refusal.NOT_IN_STUDY: "the site's approved study does not contain this stage",
    Refusal.BAD_MESSAGE: "the message is not one that the site knows",
    Refusal.BAD_WEIGHTS: "the weights do not fit the declared model",
    Refusal.DATA_CHANGED: "the site's data are not those that it described",
    Refusal.DATA_UNUSABLE: "the site's data cannot be used; its own log says why",
    Refusal.TOO_FEW_PATIENTS: "fewer patients than the site allows to stand behind a number",
    Refusal.DISK_FULL: "the site's disk is full; make room there",
    Refusal.BLOCKED: "the site's last door let the answer not out; its own log says why",
    Refusal.DIVERGED: "training gave values that are not finite",
    Refusal.OUT_OF_MEMORY: "the site ran out of memory",
    Refusal.ANSWERED: "the site has answered this stage from other weights or data; approve the study there again",
    Refusal.NOT_CHOSEN: "the site's own validation scores do not choose these weights",
    Refusal.LEFT: "the site has left the study",
    Refusal.BEYOND_APPROVAL: "another site has more training slices than the site's approval of the study allows for",
}


DIED = 8
"""Flower's code for a client app that ended without an answer."""


class Refused(Exception):
    """Raised at a site where a message cannot be answered; only the code and its fixed text leave."""

    def __init__(self, code: Refusal) -> None:
        super().__init__(REFUSALS[code])
        self.code = code


def refusal_error(code: Refusal) -> Error:
    """Flower's error for a refusal."""
    return Error(code=int(code), reason=REFUSALS[code])


def refusal_text(error: Error) -> str:
    """The sentence of an error that arrived; a code of ours gives our own text, whatever was sent."""
    if error.code == DIED:
        return f"the site's process ended without an answer, often for want of memory (Flower's error {DIED})"
    try:
        return REFUSALS[Refusal(error.code)]
    except ValueError:
        return f"Flower reports error {error.code}"


class WireMessage(BaseModel):
    """What all messages share: the study they belong to."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    study: Digest

    def _nothing_but(self, *names: str) -> bool:
        """Whether every field but the study and these says nothing."""
        fields = type(self).model_fields
        return all(getattr(self, name) == fields[name].default for name in fields.keys() - {"study", *names})


class Describe(WireMessage):
    """To a site: prepare the data, and say how much there is."""


class Description(WireMessage):
    """From a site. While `prepared` is below `patients_found` nothing else is known: ask again."""

    site: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
    patients_found: Count
    prepared: Count
    left_out: Count = 0
    patients: Count = 0
    test_patients: Count = 0
    slices: Count = 0
    test_slices: Count = 0
    train_slices: tuple[Count, ...] = ()
    """Chosen training slices, one number a fold."""
    train_patients: tuple[Count, ...] = ()
    validation_patients: tuple[Count, ...] = ()
    fingerprint: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """HMAC of the data under a key that stays at the site."""
    torch: str = Field(default="", pattern=r"^[0-9A-Za-z.+]{0,40}$")
    device: Literal["", "cpu", "cuda", "mps"] = ""
    precision: Literal["", "float32", "bfloat16"] = ""
    stage_version: Count = STAGE_VERSION

    @model_validator(mode="after")
    def _one_number_a_fold(self) -> Self:
        if not len(self.train_slices) == len(self.train_patients) == len(self.validation_patients):
            raise ValueError("every fold has one number of each kind")
        if not self.complete and not self._nothing_but("site", "patients_found", "prepared", "stage_version"):
            raise ValueError("nothing else is known yet")
        return self

    @property
    def complete(self) -> bool:
        return bool(self.fingerprint)


class Planned(WireMessage):
    """What a site needs to make the coordinator's plan itself, from its own copy of the study."""

    census: str = Field(max_length=100_000)
    """JSON: the census that the graph was planned with."""
    choices: str = Field(default="{}", max_length=100_000)
    """JSON: the hops chosen so far, where routes grow."""
    fingerprint: Digest
    """Of the data that the site described."""


class Order(Planned):
    """To a site: work out one node of the study's graph."""

    node: Digest
    key: Digest
    """Names the result; what the site has of it already it goes on from, or sends again."""
    weights: Digest
    """Digest of the weights that the stage starts from."""
    acknowledged: tuple[Digest, ...] = ()
    """Keys whose results are safe at the coordinator: the site need keep their weights no longer."""


class FineTuneOrder(Order):
    """Train; the parent's weights come along with the first leg."""

    restart_token: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")
    """What the site has of the stage was refused: it begins at the beginning, once for each token. The same order may
    come twice."""


class EvaluateOrder(Order):
    """Score; the weights come along unless the site has them."""


class FineTuneReply(WireMessage):
    """How far a fine-tuning stage is; with the last leg come the weights."""

    key: Digest
    state: Literal["needs-weights", "running", "done"]
    epoch: Count = 0
    """Epochs finished."""
    losses: tuple[float, ...] = ()
    """Mean training loss of each epoch."""
    learning_rates: tuple[Positive, ...] = ()
    dices: tuple[Share, ...] = ()
    """Validation Dice of each epoch, slice mean on the study's grid: what chooses the epoch."""
    kept_epoch: Count = 0
    gradient_steps: Count = 0
    train_slices: Count = 0
    train_patients: Count = 0
    weights: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    validation_dice: Share = 0.0
    """Of the kept weights, slice mean on the native grid: what chooses among folds and routes."""
    validation_iou: Share = 0.0
    validation_patients: Count = 0
    received_dice: Share = 0.0
    """Of the weights that the stage started from, at this site and with statistics of its own: their validation Dice,
    as in `dices`. Measured, like the two losses, only where the stage's own fell below the study's `collapse`."""
    received_loss: Positive = 0.0
    """Their loss over the training slices, without augmentation."""
    kept_loss: Positive = 0.0
    """The same of the kept weights."""

    @model_validator(mode="after")
    def _one_entry_an_epoch(self) -> Self:
        if not self.epoch == len(self.losses) == len(self.learning_rates) == len(self.dices):
            raise ValueError("every epoch has one entry of each kind")
        if not (self.state == "done") <= self.kept_epoch <= self.epoch:
            raise ValueError("the epoch kept is one of those finished")
        if self.state == "needs-weights" and not self._nothing_but("key", "state"):
            raise ValueError("nothing was trained")
        return self


class EvaluateReply(WireMessage):
    """Scores of weights on a site's patients."""

    key: Digest
    state: Literal["needs-weights", "done"]
    dice: Share = 0.0
    iou: Share = 0.0
    dice_volume: Share = 0.0
    patients: Count = 0
    slices: Count = 0
    hd95_mm: Positive = 0.0
    """95 % Hausdorff distance, mean over `surface_patients`."""
    assd_mm: Positive = 0.0
    """Average symmetric surface distance, likewise."""
    surface_patients: Count = 0
    """Test patients of whom anything was segmented at all; 0 where distances were not measured."""
    case_numbers: tuple[Count, ...] = ()
    """Random numbers in a patient's place; empty where the site does not permit scores of single patients."""
    case_slices: tuple[Count, ...] = ()
    case_dices: tuple[Share, ...] = ()
    case_ious: tuple[Share, ...] = ()

    @model_validator(mode="after")
    def _one_entry_a_case(self) -> Self:
        if not len(self.case_numbers) == len(self.case_slices) == len(self.case_dices) == len(self.case_ious):
            raise ValueError("every case has one entry of each kind")
        if len(set(self.case_numbers)) < len(self.case_numbers):
            raise ValueError("a case stands twice")
        if self.surface_patients > self.patients or (not self.surface_patients and (self.hd95_mm or self.assd_mm)):
            raise ValueError("distances need patients behind them")
        if self.state == "needs-weights" and not self._nothing_but("key", "state"):
            raise ValueError("nothing was scored")
        return self


class Delivery(Planned):
    """To a site, when all that concerns it is done: weights that it may keep and use.

    Which these are is said by their place among the rows of the plan, which the site makes itself: no name and
    no path of the coordinator's making comes along. Numbers of the study's sites stand in the study's order.
    """

    role: Literal["chosen", "own"]
    """What validation chose for this site (`common.plan.selection`), or, if that is another, what it chose of the
    models that were trained at this site alone."""
    models: tuple[Digest, ...] = Field(max_length=100_000)
    """The weights of every row that could have been chosen, in the plan's order."""
    left_out: tuple[Count, ...] = Field(default=(), max_length=100_000)
    """The places of rows that were not among those chosen from, since a site that they need was away; what stands
    there in `models` means nothing."""
    row: Count
    """The place of these weights in `models`; they come along unless the site has them."""
    patients: tuple[Count, ...]
    """Of each site: all that were used."""
    test_patients: tuple[Count, ...]
    slices: tuple[Count, ...]
    """Of each site: chosen ones, of all its patients."""
    forgetting: tuple[Share, ...] = ()
    """Test Dice of the model on its way: of every hop the Dice at each site. Empty where it was not measured."""

    @model_validator(mode="after")
    def _one_number_a_site(self) -> Self:
        sites = len(self.patients)
        if not sites == len(self.test_patients) == len(self.slices) or (sites and len(self.forgetting) % sites):
            raise ValueError("every site has one number of each kind")
        if self.row >= len(self.models) or self.row in self.left_out:
            raise ValueError("the weights are none of those named")
        return self


class Receipt(WireMessage):
    """From a site: it has the weights of a delivery, or they have to come along. It says nothing else."""

    state: Literal["needs-weights", "done"]


ToSite = Describe | FineTuneOrder | EvaluateOrder | Delivery
FromSite = Description | FineTuneReply | EvaluateReply | Receipt
Kind = TypeVar("Kind", bound=WireMessage)


class BadMessage(Exception):
    """What arrived is not the message that was declared."""


def to_record(message: WireMessage, weights: Weights | File | None = None) -> RecordDict:
    """A message as Flower carries it. Args: weights: tensors, or their file."""
    plain = message.model_dump(mode="json")
    # Flower drops the type of an empty list, so that it would come back as nothing: leave it out.
    fields = {name: value for name, value in plain.items() if value != []}
    record = RecordDict({"message": ConfigRecord(fields)})
    if weights is not None:
        record["weights"] = to_arrays(serialised(weights) if isinstance(weights, dict) else weights)
    return record


def from_record(record: RecordDict, kind: type[Kind]) -> tuple[Kind, Weights | None]:
    """A message as it was sent.

    Raises:
        BadMessage: an undeclared record or key, a wrong type, a text in a number's place.
    """
    if not set(record) <= {"message", "weights"} or not isinstance(record.get("message"), ConfigRecord):
        raise BadMessage("undeclared records")
    arrays = record.get("weights")
    if arrays is not None and not isinstance(arrays, ArrayRecord):
        raise BadMessage("the weights are no ArrayRecord")
    try:
        message = kind.model_validate_json(json.dumps(dict(record.config_records["message"])))
    except (ValidationError, TypeError, ValueError):
        # The text of the error would repeat what was sent; none of it is worth trusting.
        raise BadMessage(f"not a {kind.__name__}") from None
    if arrays is None:
        return message, None
    try:
        return message, from_arrays(arrays)
    except Exception:  # they come from elsewhere, and can be wrong in many ways
        raise BadMessage("the weights cannot be read") from None

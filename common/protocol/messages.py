"""The few messages that cross the wire, typed. `common.protocol.codec` brings them into Flower's records."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.scores import DISTANCES

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
    """Scores of weights on a site's patients, a field a score (`common.scores`): overlaps as shares."""

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
        measured = any(getattr(self, score.key) for score in DISTANCES)
        if self.surface_patients > self.patients or (measured and not self.surface_patients):
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

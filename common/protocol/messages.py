"""The messages between coordinator and sites, as typed models; for Flower's records see `common.protocol.codec`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.scores import COUNTED, OF_ZONES, ZONES_PATIENTS

DESCRIBE = "query.describe"
FINE_TUNE = "train.stage"
EVALUATE = "evaluate.stage"
DELIVER = "query.deliver"

STAGE_VERSION = 8
"""Version of the stages' computation, raised whenever a stage would give another result; a golden test checks the
results."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DigestOrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Count = Annotated[int, Field(ge=0, le=10**9)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1e6)]
Loss = Annotated[float, Field(ge=-1e9, le=1e9)]
Millimetres = Annotated[float, Field(ge=0, le=2_000)]
"""A distance in a patient: no image is longer than a person. The coordinator averages these numbers, and a single
greater one, finite as it may be, would overflow the mean of everybody's."""
Millilitres = Annotated[float, Field(ge=-100_000, le=100_000)]
"""The error of a volume in a patient: no image holds more than a person."""


class WireMessage(BaseModel):
    """The base of all messages, with the digest of the message's study."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    study: Digest

    def _nothing_but(self, *names: str) -> bool:
        """Return whether every field has its default, apart from the study and the named fields."""
        fields = type(self).model_fields
        return all(getattr(self, name) == fields[name].default for name in fields.keys() - {"study", *names})


class Describe(WireMessage):
    """To a site: prepare the data, and describe the amount of data."""


class Description(WireMessage):
    """From a site: the amount of data there.

    While `prepared` is below `patients_found`, the other fields are empty, and the coordinator asks again.
    """

    site: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
    patients_found: Count
    prepared: Count
    left_out: Count = 0
    patients: Count = 0
    test_patients: Count = 0
    slices: Count = 0
    test_slices: Count = 0
    below: Count = 0
    """Slices with some gland, but too little to be selected."""
    cut_patients: Count = 0
    """Patients whose gland reaches beyond the study's grid; 0 if they are fewer than the site's `minimum_patients`."""
    zoned_patients: Count | None = Field(default=None, exclude_if=lambda patients: patients is None)
    """Patients whose zones are drawn; 0 if they are fewer than the site's `minimum_patients`. None in a study of the
    gland."""
    ceiling: Share = 0.0
    """Dice of the masks, taken to the study's grid and back, with the masks themselves: mean over all patients, to
    three decimal places."""
    train_slices: tuple[Count, ...] = ()
    """The slices that an epoch trains on, one number a fold."""
    train_patients: tuple[Count, ...] = ()
    """Training patients, a number for each fold."""
    validation_patients: tuple[Count, ...] = ()
    """Validation patients, a number for each fold."""
    fingerprint: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """HMAC of the data under the site's own secret key."""
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
        """Whether all patients are prepared and the description is final."""
        return bool(self.fingerprint)


class Planned(WireMessage):
    """A message from which a site makes the coordinator's plan itself, with its own copy of the study."""

    census: str = Field(max_length=100_000)
    """The census of the coordinator's plan, as JSON."""
    choices: str = Field(default="{}", max_length=100_000)
    """Where routes grow, the hops selected so far, as JSON."""
    fingerprint: Digest
    """The fingerprint of the data in the site's description."""


class Order(Planned):
    """To a site: carry out a stage of the study's graph."""

    node: Digest
    """The identity of the stage's node."""
    key: Digest
    """The key of the stage's result. A site with the result sends the result again; a site with a checkpoint continues
    from the checkpoint."""
    weights: Digest
    """Digest of the stage's start weights; of weights that the site completes with tensors of its own,
    `common.plan.stage_key.completed_digest`."""
    shared: DigestOrNone = ""
    """Where the site completes the weights: the digest of the file that travels; empty if no tensor travels."""
    own: DigestOrNone = ""
    """Where the site completes the weights: the digest of its own tensors, which an earlier stage kept there."""
    acknowledged: tuple[Digest, ...] = ()
    """Keys of results stored at the coordinator, whose weights the site may delete."""


class FineTuneOrder(Order):
    """To a site: train; the first leg's order carries the parent's weights unless the site has them."""

    parts: DigestOrNone = ""
    """Of a network with parts that belong to a site: the digest of the parts that an earlier training kept there; empty
    at a first visit."""
    restart_token: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")
    """Set if the coordinator rejected the site's result of the stage: the site discards the result and begins the stage
    again, once for the token, since the same order may arrive twice. Another token for the same stage is refused."""


class EvaluateOrder(Order):
    """To a site: score weights, which travel with the order unless the site has them.

    The members of an ensemble travel one after the other, each with the same order.
    """

    members: tuple[Digest, ...] = Field(default=(), max_length=1000)
    """Digests of the weights of an ensemble's members, in their order; empty for a single model. `weights` is then
    `common.plan.stage_key.ensemble_digest` of the members."""
    member: Count = 0
    """The place among `members` of the weights that travel with this message."""


class _OfPatients(WireMessage):
    """A reply about patients, with scores of single patients where the site permits them."""

    case_numbers: tuple[Count, ...] = ()
    """Random numbers in place of patients' names; empty if the site does not permit scores of single patients."""
    case_slices: tuple[Count, ...] = ()
    case_dices: tuple[Share, ...] = ()
    case_ious: tuple[Share, ...] = ()
    case_volume_dices: tuple[Share, ...] = ()

    @model_validator(mode="after")
    def _one_entry_a_case(self) -> Self:
        entries = (self.case_slices, self.case_dices, self.case_ious, self.case_volume_dices)
        if any(len(entry) != len(self.case_numbers) for entry in entries):
            raise ValueError("every case has one entry of each kind")
        if len(set(self.case_numbers)) < len(self.case_numbers):
            raise ValueError("a case stands twice")
        return self


class FineTuneReply(_OfPatients):
    """From a site: the progress of a fine-tuning stage; the weights come with the last leg.

    With the weights come the scores of single validation patients, where the site permits them. The reply to an
    estimate of batch norm's statistics is "done" without an epoch.
    """

    key: Digest
    state: Literal["needs-weights", "running", "done"]
    epoch: Count = 0
    """Epochs finished."""
    losses: tuple[Loss, ...] = ()
    """Mean training loss of each epoch."""
    learning_rates: tuple[Rate, ...] = ()
    dices: tuple[Share, ...] = ()
    """Validation Dice of each epoch on the study's grid, which selects the epoch: mean over slices or over volumes, as
    the study's `training.slices` says."""
    kept_epoch: Count = 0
    gradient_steps: Count = 0
    train_slices: Count = 0
    train_patients: Count = 0
    weights: DigestOrNone = ""
    """Digest of the weights in this message."""
    own: DigestOrNone = ""
    """Digest of the tensors that stayed at the site, where the stage's plan says that some or all of them stay; these
    tensors are in no message."""
    parts: DigestOrNone = ""
    """Digest of the network's parts that belong to the site, after a training of a network that has such parts; these
    tensors are in no message either."""
    validation_dice: Share = 0.0
    """Validation Dice of the kept weights, slice mean on the native grid."""
    validation_iou: Share = 0.0
    """Validation IoU of the kept weights, slice mean on the native grid."""
    validation_dice_volume: Share = 0.0
    """Validation Dice of the kept weights over whole volumes, mean over patients on the native grid."""
    validation_patients: Count = 0
    received_dice: Share = 0.0
    """Validation Dice of the stage's start weights at this site, measured in the same way as `dices`, with batch
    normalisation's statistics of this site. This field and the next two are measured only if the stage's own Dice fell
    below the study's `collapse`."""
    received_loss: Loss = 0.0
    """Loss of the received weights over the training slices, without augmentation."""
    kept_loss: Loss = 0.0
    """Loss of the kept weights over the training slices, without augmentation."""

    @model_validator(mode="after")
    def _one_entry_an_epoch(self) -> Self:
        if not self.epoch == len(self.losses) == len(self.learning_rates) == len(self.dices):
            raise ValueError("every epoch has one entry of each kind")
        # A stage without an epoch estimates batch norm's statistics; the coordinator compares `epoch` with the plan's.
        if not (self.state == "done" and self.epoch > 0) <= self.kept_epoch <= self.epoch:
            raise ValueError("the epoch kept is one of those finished")
        if self.case_numbers and self.state != "done":
            raise ValueError("patients are scored once the training is done")
        if self.gradient_steps and not self.epoch:
            raise ValueError("without an epoch there are no gradient steps")
        if (self.own or self.parts) and self.state != "done":
            raise ValueError("tensors stay at the end of a stage")
        if self.state == "needs-weights" and not self._nothing_but("key", "state"):
            raise ValueError("nothing was trained")
        return self


class EvaluateReply(_OfPatients):
    """From a site: scores of weights on its patients, a field for each score (`common.scores`); overlaps are shares."""

    key: Digest
    state: Literal["needs-weights", "done"]
    member: Count = 0
    """The member of an ensemble whose weights are needed next; 0 for a single model, and once the scoring is done."""
    dice: Share = 0.0
    iou: Share = 0.0
    dice_volume: Share = 0.0
    false_slices: Count = 0
    """Slices without gland, of all patients together, in which the model draws gland."""
    empty_slices: Count = 0
    """Slices without gland, of all patients together."""
    cleaned: bool = False
    """Whether the segmentations were cleaned up, as the model's validation patients decided."""
    below_floor: bool = False
    """Whether the model does less on the site's validation patients than the site's floor asks; all figures are then
    0, whatever they would be."""
    patients: Count = 0
    slices: Count = 0
    """Selected slices."""
    hd95_mm: Millimetres = 0.0
    """95 % Hausdorff distance, mean over `surface_patients`."""
    assd_mm: Millimetres = 0.0
    """Average symmetric surface distance, mean over `surface_patients`."""
    surface_patients: Count = 0
    """Test patients with a non-empty prediction; 0 if distances were not measured."""
    volume_error_ml: Millilitres = 0.0
    """Predicted minus expert volume, mean over `volume_patients`."""
    absolute_volume_error_ml: Annotated[Millilitres, Field(ge=0)] = 0.0
    """The same without the sign of each patient's error, mean over `volume_patients`."""
    volume_patients: Count = 0
    """Test patients with a volume error; 0 if it was not measured."""
    dice_apex: Share = 0.0
    """Dice of the lowest third of the gland's slices, mean over `thirds_patients`, like the next two."""
    dice_middle: Share = 0.0
    dice_base: Share = 0.0
    thirds_patients: Count = 0
    """Test patients whose gland has three slices or more; 0 if the thirds were not measured."""
    dice_pz: Share | None = Field(default=None, exclude_if=lambda dice: dice is None)
    """Dice of the peripheral zone, mean over `zones_patients`, like the next one of the central gland. These fields are
    in every reply of a study whose target are the zones, and in no other."""
    dice_cg: Share | None = Field(default=None, exclude_if=lambda dice: dice is None)
    zones_patients: Count | None = Field(default=None, exclude_if=lambda patients: patients is None)
    """Test patients whose zones are drawn; 0 if they were not measured."""
    calibration_error: Share = 0.0
    """Expected calibration error of the probabilities in and around the gland, mean over `calibration_patients`."""
    calibration_patients: Count = 0
    """Test patients with a calibration error; 0 if it was not measured."""

    @model_validator(mode="after")
    def _figures_have_what_stands_behind_them(self) -> Self:
        if self.false_slices > self.empty_slices:
            raise ValueError("gland is drawn in more slices without gland than there are")
        for name, scores in COUNTED.items():
            behind, measured = getattr(self, name) or 0, any(getattr(self, score.key) for score in scores)
            if behind > self.patients or (measured and not behind):
                raise ValueError("a figure that only some patients have needs patients behind it")
        of_zones = (ZONES_PATIENTS, *(score.key for score in OF_ZONES))
        if len({getattr(self, name) is None for name in of_zones}) > 1:
            raise ValueError("a reply has all figures of the zones or none")
        if self.state == "needs-weights" and not self._nothing_but("key", "state", "member"):
            raise ValueError("nothing was scored")
        no_figure = self._nothing_but("key", "state", "below_floor", "patients", "slices", *of_zones)
        if self.below_floor and not (no_figure and not any(getattr(self, name) for name in of_zones)):
            raise ValueError("a model below the floor has no figures")
        if self.state == "done" and self.member:
            raise ValueError("no further member is needed")
        return self


class Delivery(Planned):
    """To a site, when all its stages are finished: weights for the site to keep and use.

    The weights are identified by their place among the rows of the plan, which the site makes itself, so the message
    holds no name or path selected by the coordinator. Fields with a number for each site are in the study's order.
    """

    role: Literal["selected", "own"]
    """The role of the weights. "selected": selected by validation for this site (`common.plan.selection`). "own": the
    best by validation among models of this site alone, sent if the selected model is another."""
    models: tuple[Digest, ...] = Field(max_length=100_000)
    """Digests of the weights of every row of the selection, in the plan's order; of a row that is an ensemble,
    `common.plan.stage_key.ensemble_digest`."""
    left_out: tuple[Count, ...] = Field(default=(), max_length=100_000)
    """Places of rows left out of the selection because of an absent site; their entries in `models` mean nothing."""
    row: Count
    """The place of the delivered weights in `models`; the weights travel with the message if the site asked for
    them."""
    members: tuple[Digest, ...] = Field(default=(), max_length=1000)
    """Digests of the weights of the delivered ensemble's members, in their order; empty for a single model."""
    member: Count = 0
    """The place among `members` of the weights that travel with this message."""
    shared: DigestOrNone = ""
    """Where the site completes the delivered weights: the digest of the file that travels; see `Order`."""
    own: DigestOrNone = ""
    """Where the site completes the delivered weights: the digest of its own tensors."""
    patients: tuple[Count, ...]
    """Patients used at each site, test patients included."""
    test_patients: tuple[Count, ...]
    slices: tuple[Count, ...]
    """Selected slices of all patients used, for each site."""
    forgetting: tuple[Share, ...] = ()
    """Test Dice of the model along its route: for every hop, the Dice at each site. Empty if not measured."""

    @model_validator(mode="after")
    def _one_number_a_site(self) -> Self:
        sites = len(self.patients)
        if not sites == len(self.test_patients) == len(self.slices) or (sites and len(self.forgetting) % sites):
            raise ValueError("every site has one number of each kind")
        if self.row >= len(self.models) or self.row in self.left_out:
            raise ValueError("the weights are none of those named")
        return self


class Receipt(WireMessage):
    """From a site: the delivered weights are stored, or are requested. A receipt has no other content."""

    state: Literal["needs-weights", "done"]
    member: Count = 0
    """The member of an ensemble whose weights are requested; 0 for a single model, and once all are stored."""


ToSite = Describe | FineTuneOrder | EvaluateOrder | Delivery
FromSite = Description | FineTuneReply | EvaluateReply | Receipt

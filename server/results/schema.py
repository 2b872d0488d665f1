"""The content of `results.json`, declared once for writing (`server.results.rows`) and reading.

Dice and IoU are in per cent, distances in millimetres, volumes in millilitres, traffic in bytes. Readers ignore unknown
keys, so results of a later version still give a report.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common.errors import RelayError
from common.plan import Method, method_of
from common.scores import Score, deciding


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
"""A measured number; None where there is none (NaN is read as None)."""


class Value(BaseModel):
    """The base of the models for a result folder's JSON files."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _OfVariant(Value):
    """An entry of a single network and repeat of the study."""

    variant: int = 0
    """The number of the entry's network, repeat and rotation, counted from 0 in the study's order; of a row over all
    rotations, that of the first."""
    seed: int = 0
    """The training seed of the entry's repeat."""
    split_seed: int | None = None
    """The split seed of the entry's repeat; null in results of earlier versions."""
    rotation: int | None = None
    """The rotation of the entry's models and of their test patients, counted from 0; null where the test does not
    rotate, and of rows over all rotations."""
    model: str = ""
    """The network: architecture and encoder, and where a study compares several, the first encoder weights."""

    @property
    def repeat(self) -> tuple[int, int]:
        """The entry's repeat: split seed and training seed."""
        return (self.seed if self.split_seed is None else self.split_seed), self.seed


class Site(Value):
    """A hospital, from its description of its data in the first repeat."""

    name: str
    """The site's name in the study."""
    patients: int | None = None
    """All used patients, test patients included."""
    test_patients: int | None = None
    """Patients held out for the test."""
    left_out: int = 0
    """Unusable patients; the site's own site.log gives the reasons."""
    slices: int | None = None
    """Selected slices (with gland in the expert's mask) of all used patients."""
    test_slices: int | None = None
    """Selected slices of the test patients."""
    below: int | None = None
    """Slices with some gland, but too little to be selected, of all patients that are used."""
    cut_patients: int | None = None
    """Patients whose gland reaches beyond the study's grid, so that no model can segment the whole gland; 0 if they are
    fewer than the site's `minimum_patients`."""
    zoned_patients: int | None = None
    """Patients whose zones are drawn, where the study's target are the zones; the others have the whole gland alone. 0
    if they are fewer than the site's `minimum_patients`."""
    ceiling: Figure = None
    """Volume Dice of the experts' own masks, taken to the study's grid and back, per cent, mean over all patients."""
    train_slices: tuple[int, ...] = ()
    """The slices, in three dimensions the boxes, that an epoch trains on, a number a fold."""
    train_patients: tuple[int, ...] = ()
    """Training patients, a number a fold."""
    validation_patients: tuple[int, ...] = ()
    """Validation patients, a number a fold."""
    torch: str = ""
    """The site's version of torch."""
    device: str = ""
    """The kind of the site's training device: cpu, cuda or mps."""
    precision: str = ""
    """The floating-point type of the site's training."""


class Row(_OfVariant):
    """A method at a target, for a fold.

    The test scores (`dice` to `case_slices`) come from the target's held-out patients, and are missing where the study
    scores no test patients.
    """

    method: str
    """The method's key, such as "sequential" or "fedavg"."""
    label: str = ""
    """The row's name for people, such as "B → C → A"."""
    route: tuple[str, ...] = ()
    """The sites of the weights' trainings, in order; for an average, all sites in the study's order."""
    target: str
    """The site whose patients score the weights."""
    share: Figure = None
    """The share of the target's training patients that the model has; null: all of them."""
    rotations: int | None = None
    """The number of rotations whose test patients are pooled in the row, each patient scored by the models of the
    rotation that held the patient out; null for the row of a single set of test patients."""
    fold: int | None = None
    """The fold, counted from 0; null for a row over all rotations, each of which selected a fold."""
    selected: bool
    """Whether this fold is the best of all folds of this method, route and target, by the validation Dice by which the
    study selects."""
    headline: bool = False
    """Whether this route is the best of all routes to the target (with the same share of the target's patients), by the
    mean of the same Dice over the folds; of a row over all rotations, in each of them."""
    validation_dice: Figure = None
    """Dice on the target's validation patients of the fold, per cent, mean over selected slices. Of a model that never
    saw the target, this and the next two are means over the other sites, each on its own validation patients."""
    validation_iou: Figure = None
    """IoU on the same slices, per cent."""
    validation_dice_volume: Figure = None
    """Dice over all slices of a validation patient, per cent, mean over patients."""
    dice: Figure = None
    """Dice on the test patients, per cent, mean over selected slices."""
    iou: Figure = None
    """IoU on the same slices, per cent."""
    dice_volume: Figure = None
    """Dice over all slices of a patient, slices without gland included, per cent, mean over test patients."""
    hd95_mm: Figure = None
    """95 % Hausdorff distance of the surfaces, mm, mean over `surface_patients`; null where none was measured."""
    assd_mm: Figure = None
    """Average symmetric surface distance, mm, mean over `surface_patients`; null where none was measured."""
    surface_patients: int | None = None
    """Test patients with a prediction that is not empty, so that there is a distance."""
    volume_error_ml: Figure = None
    """Predicted minus expert volume, ml, mean over `volume_patients`: below zero where a model draws too little. Errors
    of opposite sign cancel. Null where it was not measured, like the next figure."""
    absolute_volume_error_ml: Figure = None
    """The volume error without the sign of each patient's error, ml, mean over `volume_patients`."""
    volume_patients: int | None = None
    """Test patients behind the volume errors."""
    dice_apex: Figure = None
    """Dice of the apex, per cent, mean over `thirds_patients`: over all voxels of the lowest third of the slices from
    the first to the last slice with gland. Null where it was not measured, like the next two."""
    dice_middle: Figure = None
    """Dice of the middle third, per cent."""
    dice_base: Figure = None
    """Dice of the base, the highest third, per cent."""
    thirds_patients: int | None = None
    """Test patients whose gland has three slices or more, so that there are thirds."""
    dice_pz: Figure = None
    """Dice over all voxels of the peripheral zone, per cent, mean over `zones_patients`. Null where it was not
    measured, like the next one: where the target drew the whole gland alone. Absent where the study is of the gland."""
    dice_cg: Figure = None
    """Dice over all voxels of the central gland, per cent."""
    zones_patients: int | None = None
    """Test patients whose zones are drawn."""
    calibration_error: Figure = None
    """Expected calibration error, per cent, mean over `calibration_patients`: how far the model's probability of gland
    is from the share of gland, in the mean over the voxels at most 10 mm beyond the box around the expert's gland, in
    ten bins of probability. Null where it was not measured."""
    calibration_patients: int | None = None
    """Test patients behind the calibration error."""
    false_slices: int | None = None
    """Slices without gland, of all test patients together, in which the model draws gland."""
    empty_slices: int | None = None
    """Slices without gland, of all test patients together."""
    cleaned: bool | None = None
    """Whether the segmentations were cleaned up (largest part, holes filled), as the validation patients decided."""
    below_floor: bool = False
    """Whether the test scores stand at 0 because the model draws less of the target's validation patients than the
    hospital's `scoring_floor` asks; the true scores are not known."""
    ci95: tuple[float, float] | None = None
    """Lower and upper end of the 95 % confidence interval over patients, per cent, of the Dice by which the study
    selects: `dice_volume`, or `dice` where `training.slices` is "chosen"; null where there is none."""
    patients: int | None = None
    """Test patients behind the test scores."""
    slices: int | None = None
    """Selected slices behind `dice` and `iou`."""
    case_dice: dict[str, Figure] | None = None
    """Dice of each test patient, per cent, by random case number; null where the site does not permit scores of single
    patients."""
    case_dice_volume: dict[str, Figure] | None = None
    """Volume Dice of each test patient, per cent, by the same case numbers."""
    case_slices: dict[str, int] | None = None
    """Selected slices of each test patient, by the same case numbers."""
    validation_case_dice: dict[str, Figure] | None = None
    """Dice of each validation patient of the fold, per cent, by random case number; null where the site does not permit
    scores of single patients."""
    validation_case_dice_volume: dict[str, Figure] | None = None
    """Volume Dice of each validation patient, per cent, by the same case numbers."""
    validation_case_slices: dict[str, int] | None = None
    """Selected slices of each validation patient, by the same case numbers."""
    gradient_steps: int | None = None
    """Gradient steps of all trainings behind the weights, or behind the weights of all rotations."""
    sequential_steps: int | None = None
    """The most of these gradient steps that follow one another: in a round, sites train side by side."""
    rounds: int | None = None
    """The most rounds of an average behind the weights, among the settings tried; null without an average."""
    bytes_moved: int | None = None
    """Bytes of weights sent and received for these trainings and the test, counted from the plan."""
    weights: str = ""
    """The sha256 of the weights; of an ensemble, a digest of its members' digests; empty for a row over all
    rotations."""
    members: tuple[str, ...] = ()
    """The sha256 of the weights of each of an ensemble's members; empty for a single model."""
    contributed: tuple[str, ...] | None = None
    """The sites with a training of the weights, in alphabetical order."""
    absent: tuple[str, ...] = ()
    """Absent sites whose training for any of the row's rounds, folds or hops was skipped."""
    stage: str | None = None
    """The `id` of the stage that made the weights; null for an ensemble."""

    @property
    def kind(self) -> Method:
        """The row's method."""
        return method_of(self.method)

    def value(self, score: Score, *, tested: bool = True) -> float | None:
        """Return a score on the test patients, or on the validation patients if `tested` is False."""
        value: float | None = getattr(self, score.key if tested else f"validation_{score.key}")
        return value

    def cases(self, score: Score, *, tested: bool = True) -> dict[str, tuple[float | None, int]] | None:
        """Return each patient's Dice with its weight in the mean; None where the site does not permit them.

        Args:
            score: a kind of Dice.
            tested: of the test patients, or of the fold's validation patients.
        """
        split = "" if tested else "validation_"
        values: dict[str, float | None] | None = getattr(self, f"{split}case_{score.key}")
        slices: dict[str, int] | None = getattr(self, f"{split}case_slices")
        if values is None or slices is None or values.keys() != slices.keys():
            return None
        weights = slices if score.over == "slices" else dict.fromkeys(values, 1)
        return {case: (value, weights[case]) for case, value in values.items()}


class RouteChoice(_OfVariant):
    """The choice of a target's route by its validation patients, and what other patients would have chosen.

    A bootstrap over the validation patients (`common.statistics.optimism`). There is an entry for each target with a
    choice among several routes, where the site permits scores of single patients.
    """

    target: str
    """The site whose validation patients choose."""
    route: tuple[str, ...]
    """The chosen route."""
    patients: int
    """The validation patients of all folds."""
    another: Figure = None
    """How often another route would have been chosen, per cent of the resamples."""
    optimism: Figure = None
    """How far the chosen route's validation Dice, by which the study selects, is too good, in points."""
    chosen: dict[str, Figure] = Field(default_factory=dict)
    """How often each route was chosen, per cent of the resamples, by its name for people."""


class Spread(Value):
    """Mean and standard deviation of each score over all folds, rotations and repeats of a method at a target.

    One entry is of one method, network, route and target.
    Rows with absent sites are not counted. The deviation of a single row is null.
    """

    method: str
    """The method's key."""
    model: str = ""
    """The network: architecture and encoder."""
    route: tuple[str, ...] = ()
    """The route; empty for a route found in the course of the study, which may differ between repeats."""
    target: str
    """The site whose patients score the weights."""
    runs: int
    """The number of rows."""
    dice_mean: Figure = None
    """Mean of `dice`, per cent."""
    dice_std: Figure = None
    """Standard deviation of `dice`, per cent."""
    iou_mean: Figure = None
    """Mean of `iou`, per cent."""
    iou_std: Figure = None
    """Standard deviation of `iou`, per cent."""
    dice_volume_mean: Figure = None
    """Mean of `dice_volume`, per cent."""
    dice_volume_std: Figure = None
    """Standard deviation of `dice_volume`, per cent."""
    hd95_mm_mean: Figure = None
    """Mean of `hd95_mm`, mm."""
    hd95_mm_std: Figure = None
    """Standard deviation of `hd95_mm`, mm."""
    assd_mm_mean: Figure = None
    """Mean of `assd_mm`, mm."""
    assd_mm_std: Figure = None
    """Standard deviation of `assd_mm`, mm."""
    validation_dice_mean: Figure = None
    """Mean of `validation_dice`, per cent."""
    validation_dice_std: Figure = None
    """Standard deviation of `validation_dice`, per cent."""
    validation_iou_mean: Figure = None
    """Mean of `validation_iou`, per cent."""
    validation_iou_std: Figure = None
    """Standard deviation of `validation_iou`, per cent."""
    validation_dice_volume_mean: Figure = None
    """Mean of `validation_dice_volume`, per cent."""
    validation_dice_volume_std: Figure = None
    """Standard deviation of `validation_dice_volume`, per cent."""


class Budget(Value):
    """The cost of all rows of a method: folds, repeats, networks and discarded routes included."""

    method: str
    """The method's key, or "all": the whole study, each stage counted once."""
    trainings: int
    """Fine-tuning stages."""
    scorings: int
    """Scoring stages, and estimates of batch norm's statistics, which score their weights."""
    gradient_steps: int
    """Gradient steps of all trainings."""
    bytes_moved: int
    """Bytes of weights sent and received, counted from the plan."""
    gradient_steps_of_all_routes: int | None = None
    """Of routes found in the course of the study: the gradient steps that all routes of the permitted lengths would
    have taken, each stage counted once. Null for other methods, and for too many routes to count."""


class MeasuredHop(Value):
    """The model after a hop of its route."""

    site: str
    """The site of the model's last training."""
    dice: dict[str, Figure]
    """By site: the test Dice that the model has there after this hop, per cent; the Dice by which the study selects."""


class Forgetting(_OfVariant):
    """A selected route, and each site's test Dice of the model after every hop."""

    method: str
    """The method's key."""
    route: tuple[str, ...]
    """The sites of the weights' trainings, in order."""
    target: str
    """The last site of the route."""
    fold: int | None = None
    """The fold, counted from 0."""
    headline: bool = False
    """Whether this is the route with the best validation Dice at the target."""
    after: tuple[MeasuredHop, ...]
    """An entry for each hop, in order."""
    alone: dict[str, Figure] = Field(default_factory=dict)
    """By site: the test Dice of the site's own model (its selected fold, trained alone for one stage), per cent; only
    sites with such a row."""
    backward_transfer: Figure = None
    """Dice points: over the sites that the model left, the mean of its Dice at the end of the route less its Dice after
    the site's last hop. Null where no site was left."""
    forward_transfer: Figure = None
    """Dice points: over the sites that the model came to after the first hop, the mean of its Dice before the site's
    first hop less the site's own model's (`alone`). Null where there is no such site, or no own model."""


class Tried(Value):
    """A route that was compared with others in a step of a search."""

    route: tuple[str, ...]
    """The sites of the route, in order."""
    validation_dice: Figure = None
    """Dice on the target's validation patients, per cent, by which the study selects, mean over the folds run; null
    where a fold is unfinished."""
    goes_on: bool | None = None
    """Whether the route goes on, or is left at the end; null before the step is decided."""


class SearchStep(Value):
    """A step of the search for a target's route: a hop of a growing route, or a rung of halving."""

    epochs: int
    """The epochs of every stage of these routes."""
    tried: tuple[Tried, ...]
    """The routes compared; among equals the first one in this order goes on."""


class Grown(_OfVariant):
    """A route found in the course of the study, with what was tried on the way."""

    target: str
    """The last site of the route."""
    route: tuple[str, ...]
    """The route, or of a growing route the hops selected so far; a complete route ends with the target."""
    trainings: int
    """Trainings of all candidates tried for this target."""
    trainings_of_all_routes: int
    """Trainings for all routes of the permitted lengths, with the study's epochs."""
    steps: tuple[SearchStep, ...] = ()
    """The steps of the search, in order: hops of a growing route, rungs of halving."""


class PredictedRoute(Value):
    """A route with its Dice before and after the training at its target.

    All are the Dice by which the study selects, per cent, means over the folds.
    """

    route: tuple[str, ...]
    """The sites of the route, in order."""
    unadapted: Figure = None
    """Of the model as it arrives at the target, on the fold's validation patients there."""
    re_estimated: Figure = None
    """Of the same with batch norm's statistics estimated on the target's training slices."""
    validation: Figure = None
    """Of the finished route, on the fold's validation patients."""
    test: Figure = None
    """Of the finished route, on the test patients; null where the route was not tested."""


class Agreement(Value):
    """How well a score on arrival predicted the order of the finished routes."""

    predictor: str
    """"unadapted" or "re_estimated"; see the routes."""
    outcome: str
    """"validation" or "test"; see the routes."""
    tau: Figure = None
    """Kendall's τ-b, from -1 (the reverse order) to 1 (the same order); null for a single route or equal scores."""
    routes: int
    """The number of routes."""


class Prediction(_OfVariant):
    """The routes to a target with equal epochs, and how well scores without a gradient step predicted their order."""

    target: str
    """The last site of the routes."""
    epochs: int
    """The epochs of every stage of the routes."""
    routes: tuple[PredictedRoute, ...]
    """The routes with all folds finished, and no training skipped."""
    agreement: tuple[Agreement, ...]
    """An entry for each predictor and outcome."""


class Epoch(Value):
    """An epoch of a fine-tuning stage."""

    epoch: int
    """The epoch's number in its schedule, counted from 1."""
    lr: Figure = None
    """The learning rate."""
    loss: Figure = None
    """The mean training loss."""
    dice: Figure = None
    """Validation Dice on the study's grid, per cent, which selects the epoch: over volumes, or over slices where
    `training.slices` is "chosen"."""


class Stage(Value):
    """A training at a site, the average of a federated round, or an average with a site's batch-norm statistics."""

    id: str
    """The stage's name within this file: the variant, and a digest of the stage's node."""
    kind: str = ""
    """The kind of stage: "fine-tune", "average", or "re-estimate" (batch norm's statistics of weights from elsewhere,
    estimated at a site)."""
    site: str = ""
    """The site of the training or estimate; empty for an average."""
    fold: int | None = None
    """The fold, counted from 0."""
    label: str = ""
    """The route of the weights, for people."""
    parent: str | None = None
    """The `id` of the stage with this stage's start weights; null for the first weights."""
    epochs: tuple[Epoch, ...] = ()
    """An entry for each epoch of a training; none for stages of other kinds."""
    kept_epoch: int | None = None
    """The epoch whose weights were kept, of a training only."""
    gradient_steps: int | None = None
    """Gradient steps; for an average, the sum over its parts."""
    bytes_moved: int | None = None
    """Bytes of weights sent and received; for an average, the sum over its parts."""
    contributed: tuple[str, ...] | None = None
    """The sites whose weights are averaged; for an average only."""
    validation: dict[str, Figure] = Field(default_factory=dict)
    """Of an average, its Dice on every site's validation patients, of an estimate on its own site's; per cent, by which
    the study selects."""
    validation_dice: Figure = None
    """Dice of the weights on the site's validation patients, per cent, by which the study selects; of an average, the
    mean over sites."""
    weights: str = ""
    """The sha256 of the weights."""


class ParkedRow(_OfVariant):
    """An unfinished row, and the reason."""

    method: str = ""
    """The method's key."""
    label: str
    """The row's name for people."""
    target: str
    """The site whose patients would have scored the weights."""
    fold: int | None = None
    """The fold, counted from 0."""
    reason: str = ""
    """Why the row could not be finished."""


class Handling(Value):
    """What methods may handle differently, as some methods handled it; read off the graph of their rows."""

    methods: tuple[str, ...]
    """The names of the methods that were handled alike."""
    batch_norm: str = ""
    """Whose statistics of batch normalisation a model has when the target's patients score it."""
    optimizer: str = ""
    """What became of the state of the optimizers between trainings."""
    average: str = ""
    """By which weights models, or the probabilities of models, are averaged."""
    rates: str = ""
    """The learning rates of the trainings behind a model."""
    selection: str = ""
    """What validation patients select, and whose."""


class Results(Value):
    """The results of a study."""

    relay: str = ""
    """The version of relay that wrote the file."""
    study: dict[str, Any] = Field(default_factory=dict)
    """The study's settings, with every default written out."""
    synthetic: bool = False
    """Whether the patients are synthetic."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the coordinator's libraries, by name."""
    sites: tuple[Site, ...] = ()
    """An entry for each site, in the study's order."""
    choices: tuple[tuple[str, ...], ...] = ()
    """Choices left open by the paper: subject, setting of this study, remark."""
    handling: tuple[Handling, ...] = ()
    """How every method of the study was handled; an entry for all methods that were handled alike."""
    rows: tuple[Row, ...]
    """An entry for each finished method, route, target and fold; where the test rotates, for each method, route and
    target, over all rotations."""
    chosen: tuple[Row, ...] = ()
    """Where the test rotates, for each target the route that validation chose in each rotation, and the model that it
    chose among those of the target's patients alone, over all rotations."""
    rotation_rows: tuple[Row, ...] = ()
    """Where the test rotates, an entry for each finished method, route, target, fold and rotation."""
    route_choices: tuple[RouteChoice, ...] = ()
    """An entry for each target with a choice among several routes, where it is known; where the test rotates, for each
    rotation."""
    spread: tuple[Spread, ...] = ()
    """An entry for each method, network, route and target."""
    budgets: tuple[Budget, ...] = ()
    """An entry for each method, and an entry for the whole study."""
    forgetting: tuple[Forgetting, ...] = ()
    """An entry for each selected route, where the study measures forgetting."""
    grown: tuple[Grown, ...] = ()
    """An entry for each target, where routes are found in the course of the study."""
    predictions: tuple[Prediction, ...] = ()
    """An entry for each target and number of epochs, where the study asks for predictors."""
    stages: tuple[Stage, ...] = ()
    """An entry for each finished training or average."""
    parked: tuple[ParkedRow, ...] = ()
    """An entry for each unfinished row."""

    @property
    def models(self) -> tuple[str, ...]:
        """The networks, in the study's order."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    @property
    def repeats(self) -> tuple[tuple[int, int], ...]:
        """The pair (split seed, training seed) of each repeat, in the study's order."""
        first = {row.repeat: row.variant for row in sorted(self.rows, key=lambda row: -row.variant)}
        return tuple(sorted(first, key=lambda repeat: (first[repeat], repeat)))

    @property
    def fold_rows(self) -> tuple[Row, ...]:
        """The rows of single folds, and of single rotations where the test rotates."""
        return self.rotation_rows or self.rows

    @property
    def rotations(self) -> int:
        """The number of rotations, 1 where the test does not rotate."""
        return len({row.rotation for row in self.fold_rows}) or 1

    @property
    def headlines(self) -> tuple[Row, ...]:
        """The routes that validation chose, for each target and repeat."""
        rows = [row for row in self.rows if row.headline and row.kind.routed]
        whole = {(row.repeat, row.model, row.target) for row in rows}
        more = [row for row in self.chosen if row.kind.routed]
        return (*rows, *(row for row in more if (row.repeat, row.model, row.target) not in whole))

    @property
    def tested(self) -> bool:
        """Whether any test patient was scored."""
        said = self.study.get("methods")
        if isinstance(said, dict) and said.get("scored_on") == "validation":
            return False
        return not self.rows or any(row.dice is not None for row in self.rows)

    @property
    def margin(self) -> float:
        """The study's `equivalence_margin`, in points of Dice."""
        margin = self.study.get("equivalence_margin", 1.0)
        return float(margin) if isinstance(margin, int | float) else 1.0

    @property
    def score(self) -> Score:
        """The score by which the study selects and compares."""
        training = self.study.get("training")
        slices = training.get("slices") if isinstance(training, dict) else None
        return deciding(str(slices or "chosen"))  # results of earlier versions know selected slices alone

    @property
    def folds(self) -> int:
        """The number of folds in the rows."""
        return len({row.fold for row in self.fold_rows if row.fold is not None})

    def of_model(self, model: str) -> Results:
        """Return the results of a single network; stages and budgets still cover all networks."""
        return self.model_copy(
            update={
                name: tuple(entry for entry in getattr(self, name) if entry.model == model)
                for name in (
                    "rows",
                    "chosen",
                    "rotation_rows",
                    "route_choices",
                    "spread",
                    "forgetting",
                    "grown",
                    "predictions",
                    "parked",
                )
            }
        )

    def of_first_rotation(self) -> Results:
        """Return the results of the first rotation as those of a study that holds out its test patients."""
        if not self.rotation_rows:
            return self
        first = min(row.rotation or 0 for row in self.rotation_rows)
        parts = {
            name: tuple(entry for entry in getattr(self, name) if entry.rotation == first)
            for name in ("forgetting", "grown", "predictions", "parked")
        }
        rows = tuple(row for row in self.rotation_rows if row.rotation == first)
        return self.model_copy(update={**parts, "rows": rows, "chosen": (), "rotation_rows": ()})


Model = TypeVar("Model", bound=Value)


def dump(results: Results) -> dict[str, Any]:
    """Return the content of results.json: all keys set on the results, in the order of their declaration."""
    return results.model_dump(mode="json", exclude_unset=True)


def read_file(path: Path, model: type[Model]) -> Model:
    """Read a JSON file of a result folder.

    Args:
        path: the file.
        model: the model of its content.

    Raises:
        RelayError: the file cannot be read, is no JSON, or does not match the model.
    """
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

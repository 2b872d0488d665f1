"""The study file: all settings of a study, agreed between hospitals and coordinator before any stage runs.

A study is a TOML file. The result folder's `study.toml` has every default written out, so a run can be repeated from
this file alone. Nothing in this module touches an image.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from common.config.toml import load_toml
from common.digest import digest_of_json
from common.networks.encoders import known_encoder
from common.networks.registry import NETWORKS, known_architecture
from common.strategies import STRATEGIES

POOLED = "pooled"
"""The name of a site with the folders of all sites together; such a site exists in simulation alone."""

MOST_MODELS = 200_000
"""The most models that the routes, laps or rounds of a study may ask for. A plan of so many takes 1 GB and minutes;
the routes "all" of 12 sites over 11 hops are more than a billion, and a study file comes by mail."""

MOST_TO_HALVE = 40_000
"""The most routes, to all targets together, with which successive halving begins: which of them go on travels with
every order, with a digit for each route of each rung."""

SiteName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]

Architecture = Annotated[str, AfterValidator(known_architecture)]
Encoder = Annotated[str, AfterValidator(known_encoder)]

if TYPE_CHECKING:
    StrategyKey = str
    Skippable = str
else:  # literals: the error for a wrong value then lists the permitted values
    StrategyKey = Literal[tuple(STRATEGIES)]
    Skippable = Literal[("sequential", "cyclic", *(key for key, one in STRATEGIES.items() if one.skippable))]
    """The tables of [methods] and the strategies with optional absence rules of their own; all can go on without a
    site."""


def _on_one_line(text: str) -> str:
    """Return a text unchanged if all its characters are printable.

    A study file comes by mail and is shown on terminals: control characters, and characters reversing the direction of
    a line, are forbidden.
    """
    if not text.isprintable():
        raise ValueError("this holds a line end or another character that is not shown; write one plain line")
    return text


Line = Annotated[str, AfterValidator(_on_one_line)]


def _several(value: object) -> object:
    """Return a value as a tuple; a single value may stand without brackets."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _check_distinct(part: _Config, name: str) -> None:
    """Check that no value stands twice in a list of settings to try."""
    given = getattr(part, name)
    if len(set(given)) < len(given):
        raise ValueError(f"a value stands twice in {name}")


def _check_lists(part: _Config, *names: str) -> None:
    """Check that lists of settings to try have a value, and no value twice."""
    for name in names:
        given = getattr(part, name)
        if not given or len(set(given)) < len(given):
            raise ValueError(f"{name} is an empty list, or a value stands twice in it")


class ModelConfig(_Config):
    """The network. Only the coordinator reads `encoder_weights`: sites need no internet."""

    architecture: Architecture = "UnetPlusPlus"
    """The network: a decoder of segmentation_models.pytorch by its name there, a network without encoder, or the
    network of an installed package ([networks](networks.md))."""
    encoder: Encoder = "efficientnet-b3"
    """The encoder, by its name in segmentation_models.pytorch; "tu-" before a name is an encoder of timm. A network
    with an encoder of its own, or with none, needs no such key."""
    encoder_weights: Line = "imagenet"
    """"imagenet", "none" (drawn from the study's seed), or a file beside the study file: of encoder weights, or for a
    network without encoder of all its weights. The file's tensors must fit one by one. A network without encoder starts
    from "none" unless a file is named."""
    decoder_attention: Literal["none", "scse"] = Field(default="none", exclude_if=lambda value: value == "none")
    """"scse": concurrent spatial and channel squeeze and excitation in the decoder's blocks (Roy et al., MICCAI 2018),
    for the architectures with such blocks."""
    neighbours: int = Field(default=0, ge=0, le=3, exclude_if=lambda value: not value)
    """Slices to either side that the network sees with each slice, as further channels (2.5-D): 1 gives three channels.
    At the ends of a volume the last slice stands twice. Only the middle slice is segmented. A pretrained first layer is
    adapted to the channels."""
    package: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", exclude_if=lambda value: not value)
    """For the network of an installed package, the hash of the package's files; `relay study plan` names the hash.
    Every site compares the package that it installed."""

    @model_validator(mode="before")
    @classmethod
    def _own_encoder(cls, given: Any) -> Any:
        """Set the encoder and its weights of a network that leaves no choice."""
        if not isinstance(given, dict) or not isinstance(name := given.get("architecture"), str):
            return given
        network = NETWORKS.get(name)
        if network is not None and network.encoders is None:
            return given
        own = network.encoders[0] if network is not None and network.encoders else ""
        without = {"encoder": own} if own else {"encoder": "", "encoder_weights": "none"}
        return without | given

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        network = NETWORKS.get(self.architecture)
        encoders = network.encoders if network is not None else ()
        if encoders is None and not self.encoder:
            raise ValueError(f"the architecture {self.architecture} needs an encoder")
        if encoders is not None and self.encoder not in (encoders or ("",)):
            takes = f"takes the encoders {', '.join(encoders)}" if encoders else "takes no encoder"
            raise ValueError(f'the architecture {self.architecture} {takes}, and not "{self.encoder}"')
        if not self.encoder and self.encoder_weights == "imagenet":
            raise ValueError(
                f"the architecture {self.architecture} has no encoder, and so no weights of ImageNet; set"
                ' encoder_weights = "none", or name a file of all its weights'
            )
        if self.decoder_attention != "none" and not (network is not None and network.attention):
            having = ", ".join(one.key for one in NETWORKS.values() if one.attention)
            raise ValueError(
                f"the architecture {self.architecture} takes no decoder_attention; the ones that do are {having}"
            )
        if self.package and network is not None:
            raise ValueError(f"the architecture {self.architecture} is built in; leave out package")
        return self

    @property
    def channels(self) -> int:
        """The channels of an image, as the network takes it: a slice and its neighbours."""
        return 2 * self.neighbours + 1

    @property
    def has_batch_norm(self) -> bool:
        """Whether the network has batch normalisation; of a plug-in's network it is assumed."""
        network = NETWORKS.get(self.architecture)
        return network is None or network.has_batch_norm(self.encoder)


class ModelsConfig(_Config):
    """Networks to compare: every encoder with every architecture and start, in place of the network in [model].

    An architecture with encoders of its own takes those of the list that it can, or else its own first; an architecture
    without encoder is one network, and starts from "none".
    """

    encoders: tuple[Encoder, ...] = ()
    """The encoders to compare. Empty: only the encoder of [model]."""
    architectures: tuple[Architecture, ...] = ()
    """The architectures to compare. Empty: only the architecture of [model]."""
    encoder_weights: tuple[Line, ...] = Field(default=(), exclude_if=lambda given: not given)
    """The first encoder weights to compare, each as in [model]: ["imagenet", "none"] sets in-domain transfer without
    ImageNet beside in-domain transfer from ImageNet. Patients are prepared once for all; no training is shared, since
    every training descends from other first weights. Empty: only the encoder weights of [model]."""

    @model_validator(mode="after")
    def _one_of_each(self) -> ModelsConfig:
        for name in ("encoders", "architectures", "encoder_weights"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"one of the {name.replace('_', ' ')} stands twice")
        return self


def _network(model: ModelConfig, architecture: str, encoder: str, start: str) -> ModelConfig:
    """Return a network with another architecture and, if the architecture takes them, another encoder and start.

    Raises:
        ValueError: the architecture does not fit the other keys.
    """
    network = NETWORKS.get(architecture)
    takes = network.encoders if network is not None else ()
    if takes is not None and encoder not in takes:
        encoder = takes[0] if takes else ""
    start = start if encoder else "none"
    change: dict[str, Any] = {"architecture": architecture, "encoder": encoder, "encoder_weights": start}
    if network is not None:
        change["package"] = ""
    try:
        return ModelConfig.model_validate(model.model_dump() | change)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


class N4Config(_Config):
    """N4 bias field correction (Tustison et al., IEEE TMI 2010), as SimpleITK has it."""

    enabled: bool = True
    """Whether the bias field is corrected."""
    shrink: int = Field(default=4, ge=1, le=16)
    """In-plane shrink factor of the grid on which the field is fitted; slices are never shrunk."""
    iterations: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(50, 50, 50, 50), min_length=1)
    """The most iterations on each fitting level, a number for each level."""
    convergence: float = Field(default=0.001, gt=0)
    """A fitting level ends where the field changes by less than this."""


class PreprocessingConfig(_Config):
    """From a patient's volume to slices on the study's grid."""

    pixels: int = Field(default=256, ge=32, le=1024, multiple_of=32)
    """Rows and columns of a slice."""
    spacing_mm: float = Field(default=0.625, gt=0, le=5)
    """Millimetres a pixel. The grid is centred on the image: pixels × spacing_mm is its field of view."""
    minimum_mask_pixels: int = Field(default=200, ge=0)
    """A slice is selected if its mask holds more pixels than this, on the native grid (the paper's rule). Dice and IoU
    are means over selected slices, and a patient without one is left out, whatever training.slices says."""
    n4: N4Config = N4Config()


class PostprocessingConfig(_Config):
    """From a network's output to a mask."""

    clean_up: bool = True
    """Whether a clean-up is tried: only the largest part of a segmentation in 3-D is kept, and its holes are filled. A
    model is cleaned up after where the mean volume Dice of its validation patients gains."""


class SplitConfig(_Config):
    """How each site divides its patients."""

    seed: int = Field(default=1, ge=0)
    """Seed of the division into test patients and folds."""
    test: Literal["hold-out", "rotate"] = Field(default="hold-out", exclude_if=lambda test: test == "hold-out")
    """"hold-out": the same test patients in the whole study. "rotate": the study is run 1 / `test_fraction` times
    (rounded, two at least), each time with other test patients, so that each patient is tested once, by models that
    never saw the patient; a site's row pools all its patients."""
    rotation: int | None = Field(default=None, ge=0, exclude_if=lambda rotation: rotation is None)
    """Where test is "rotate": run this rotation alone, counted from 0. Unset: all rotations."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """The share of each site's patients held out for the test."""
    folds: int = Field(default=5, ge=2, le=20)
    """Folds of cross-validation on the patients not held out."""
    use_folds: int = Field(default=0, ge=0)
    """The number of folds to run, beginning with the first. 0: all."""
    source: Literal["best-fold", "same-fold"] = "best-fold"
    """Which fold of a source is handed on. "best-fold": the fold with the best validation Dice. "same-fold": the fold
    with the number of the target's fold."""

    @model_validator(mode="after")
    def _few_enough(self) -> SplitConfig:
        if self.use_folds > self.folds:
            raise ValueError(f"use_folds is {self.use_folds}, but there are only {self.folds} folds")
        return self

    @model_validator(mode="after")
    def _a_rotation_of_these(self) -> SplitConfig:
        if self.rotation is not None and self.test != "rotate":
            raise ValueError('only a study with test = "rotate" has rotations; set it, or leave out rotation')
        if self.rotations > 100:
            raise ValueError(
                f"test_fraction {self.test_fraction:g} makes {self.rotations} rotations, and 100 are allowed"
            )
        if self.rotation is not None and self.rotation >= self.rotations:
            raise ValueError(f"rotation is {self.rotation}, but there are only {self.rotations}, counted from 0")
        return self

    @property
    def rotations(self) -> int:
        """The number of sets of test patients that take turns; 1 where the test does not rotate."""
        return max(2, round(1 / self.test_fraction)) if self.test == "rotate" else 1

    @property
    def turns(self) -> tuple[int | None, ...]:
        """The rotations to run; one entry of None where the test does not rotate."""
        if self.test == "hold-out" or self.rotation is not None:
            return (self.rotation,)
        return tuple(range(self.rotations))

    @property
    def run(self) -> range:
        """The folds to run."""
        return range(self.use_folds or self.folds)


class TrainingConfig(_Config):
    """A stage of fine-tuning."""

    epochs: int = Field(default=200, ge=1, le=10_000)
    """Epochs of a stage of fine-tuning."""
    batch: int = Field(default=16, ge=2)
    """Slices in a batch."""
    slices: Literal["all", "chosen"] = "all"
    """The slices to train on, and the validation Dice that selects epoch, round, settings, fold, route and each
    hospital's model. "all": every slice of a volume; volume Dice, a mean over patients. "chosen": only slices whose
    mask holds more than `minimum_mask_pixels` pixels (the paper's protocol); the mean Dice of these slices. Test
    patients are scored on whole volumes in either case."""
    empty_share: float = Field(default=0.5, ge=0, le=1)
    """Where slices is "all": of the slices without any gland, the share that one epoch trains on (0.5: half of them);
    each epoch makes a draw of its own. Slices with a little gland are always trained on. No effect where slices is
    "chosen"."""
    recipe: Literal["adam", "nnunet"] = Field(default="adam", exclude_if=lambda value: value == "adam")
    """"adam": Adam with cosine annealing. "nnunet": as nnU-Net trains (Isensee et al., Nature Methods 18, 2021):
    stochastic gradient descent with Nesterov's momentum of 0.99, a learning rate that falls with the power 0.9 of the
    epochs left, gradients clipped to a norm of 12; unless set, `learning_rate` is then 0.01, `weight_decay` 3e-5 and
    `loss` "nnunet". Epochs, batch, augmentation and patch stay the study's: nnU-Net itself trains 1000 epochs of 250
    steps with an augmentation of its own."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of a stage's first step; cosine annealing leads to `final_learning_rate`, nnU-Net's schedule to
    0."""
    final_learning_rate: float = Field(default=0.0, ge=0)
    """Learning rate of a stage's last step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the optimizer."""
    loss: Literal["dice+bce", "dice", "bce", "nnunet"] = "dice+bce"
    """Dice loss, binary cross-entropy, or their sum; "nnunet": the sum with nnU-Net's soft Dice, smoothed by 1e-5. Of
    auxiliary outputs each is compared with the mask at its own size."""
    augmentation: Literal["none", "light"] = "light"
    """"light": flips left–right, turns by at most 10°, scales and shifts by at most 10 %, gain and offset."""
    keep: Literal["best", "last"] = "best"
    """Which epoch of a fine-tuning stage is kept: the best by validation Dice, or the last."""
    batch_norm: Literal["precise", "running"] = "precise"
    """The statistics for the evaluation of batch normalisation. "precise": estimated from the training slices, each
    time before an epoch is scored and before weights leave (Wu and Johnson, arXiv 2105.07576). "running": torch's
    averages over the training steps; after only a few dozen steps these averages still belong to earlier weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """"auto" is bfloat16 autocast on devices with bfloat16, float32 elsewhere; all sites of a study have to come to the
    same."""
    threads: int = Field(default=1, ge=1)
    """Threads of each stage, whatever runs beside the stage. The number of threads changes the last bits of a
    result."""
    leg_minutes: float = Field(default=10.0, ge=0)
    """The length of a leg, in minutes: the site replies at the end of the first epoch after this time, and continues
    with the coordinator's next order."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), exclude_if=lambda seeds: not seeds)
    """Seeds of training, each crossed with every split of `repeats`: the first weights, the order of batches and the
    augmentation. Empty: the study's `seed`, which changes together with the split."""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands twice")
        return seeds

    @model_validator(mode="before")
    @classmethod
    def _of_the_recipe(cls, given: Any) -> Any:
        """Set what the recipe sets and the study does not."""
        if not isinstance(given, dict):
            return given
        # After a validator of this kind pydantic takes no list for a tuple, even from a file.
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        by_recipe = {"learning_rate": 0.01, "weight_decay": 3e-5, "loss": "nnunet"}
        return by_recipe | given if given.get("recipe") == "nnunet" else given

    @model_validator(mode="after")
    def _schedule_of_the_recipe(self) -> TrainingConfig:
        if self.recipe == "nnunet" and self.final_learning_rate:
            raise ValueError("the schedule of nnU-Net ends with the rate 0; leave out final_learning_rate")
        return self


class SequentialConfig(_Config):
    """Sequential transfer: the model is handed from site to site."""

    routes: Literal["all", "greedy", "halving", "none"] | tuple[tuple[SiteName, ...], ...] = "all"
    """"all": every route without repetition; "greedy": each target's route grows hop by hop, always by the source with
    the best validation Dice at the target, while the Dice improves; "halving": every route to a target begins with a
    fraction of `training.epochs` in each stage, and the half with the better validation Dice at the target begins anew
    with twice the epochs, until one route has all epochs (successive halving: Jamieson and Talwalkar, AISTATS 2016);
    "none"; or a list, each route ending with its target."""
    max_hops: int = Field(default=2, ge=1)
    """The hops of the longest route, where routes is no list."""
    predictors: bool = Field(default=False, exclude_if=lambda wanted: not wanted)
    """Whether every route's model is also scored on the target's validation patients before the target trains: as it
    arrives, and with batch norm's statistics estimated at the target. Neither takes a gradient step. The report says
    how well these scores predicted the order of the finished routes (Kendall's τ)."""
    learning_rate: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_several)] = Field(
        default=(), exclude_if=lambda rates: not rates
    )
    """The learning rate at which the cosine of a second or later training begins: on a route, on laps, in a restart of
    the target alone, and at the target after an average or after all data. A single number may stand without brackets.
    All combinations of this list and the next two are tried, each along a whole route, and each target's validation
    patients select the best. Empty: `training.learning_rate`."""
    warmup_epochs: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_several)] = Field(
        default=(0,), exclude_if=lambda epochs: epochs == (0,)
    )
    """Epochs of linear warm-up at the beginning of such a training, before the cosine (Goyal et al., arXiv 1706.02677):
    of w epochs, the k-th has k / (w + 1) of the rate, and the cosine takes the remaining epochs."""
    freeze: Annotated[tuple[Literal["none", "encoder"], ...], BeforeValidator(_several)] = Field(
        default=("none",), exclude_if=lambda parts: parts == ("none",)
    )
    """"encoder": such a training leaves the encoder's weights as they came, and the encoder in evaluation mode, without
    dropout. Where `training.batch_norm` is "precise", the encoder's statistics of batch normalisation become those of
    the site's training slices before the first step (adaptive batch normalisation: Li et al., Pattern Recognition 80,
    2018); where it is "running", they stay as they came."""
    annealing: Literal["stage", "route"] = Field(default="stage", exclude_if=lambda kind: kind == "stage")
    """"stage": every training has a cosine of its own. "route": a route has one cosine, from the first step of its
    first training to the last step of its last; so have laps, and the target alone where it is restarted. A training
    then depends on its place in the route and on the route's length, and is shared with fewer other routes. Adam's
    moments begin at zero in every training in either case."""

    @model_validator(mode="after")
    def _something_to_choose_from(self) -> SequentialConfig:
        _check_lists(self, "warmup_epochs", "freeze")
        _check_distinct(self, "learning_rate")
        if self.annealing == "route" and (self.learning_rate or self.warmup_epochs != (0,)):
            raise ValueError(
                "a route of one cosine has no rate and no warm-up of single hops; leave out learning_rate and"
                ' warmup_epochs, or set annealing = "stage"'
            )
        return self

    @property
    def grows(self) -> bool:
        """Whether the routes are found only while the study runs."""
        return self.routes in ("greedy", "halving")

    @property
    def settings(self) -> tuple[tuple[float, int, Literal["none", "encoder"]], ...]:
        """Every combination of learning rate (0: the study's), warm-up and freezing to try for later trainings."""
        return tuple(itertools.product(self.learning_rate or (0.0,), self.warmup_epochs, self.freeze))


class LwfConfig(_Config):
    """Learning without forgetting on routes (Li and Hoiem, IEEE TPAMI 40, 2018).

    In every training after the first of a route, the received weights are a teacher on the site's own slices. The loss
    has one more term: the binary cross-entropy of the model's probabilities against the teacher's, both of logits
    divided by the temperature.
    """

    weight: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_several)] = ()
    """The weights of the term; among several, each target's validation patients select the best. Empty: no rows."""
    temperature: float = Field(default=2.0, gt=0)
    """The temperature; the paper's is 2."""

    @model_validator(mode="after")
    def _each_once(self) -> LwfConfig:
        _check_distinct(self, "weight")
        return self


class L2SpConfig(_Config):
    """L2-SP on routes (Li, Grandvalet and Davoine, ICML 2018).

    In every training after the first of a route, the loss has one more term: weight / 2 times the squared distance of
    all parameters from the received ones. Model and task stay the same, so no parameter is new.
    """

    weight: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_several)] = ()
    """The weights of the term; among several, each target's validation patients select the best. Empty: no rows."""

    @model_validator(mode="after")
    def _each_once(self) -> L2SpConfig:
        _check_distinct(self, "weight")
        return self


class CyclicConfig(_Config):
    """Laps: the model goes round all sites several times (cyclical weight transfer: Chang et al., JAMIA 25, 2018)."""

    laps: int = Field(default=0, ge=0, le=100)
    """The number of the model's laps; each target's laps end at the target. 0: the method is not run."""
    epochs: int = Field(default=0, ge=0)
    """Epochs of each visit. 0: as many at each site, over all its visits, as come closest to the gradient steps of the
    target's longest route; at least one a visit, and where they cannot be divided, one more in the first laps."""


Budget = Literal["steps", "depth"]
"""What the rounds of an average have in common with the longest route."""

MethodKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]


class FederatedConfig(_Config):
    """Rounds in which every site trains from the same weights, and the results are aggregated."""

    strategy: StrategyKey = "fedavg"
    """The rule by which the sites' weights are aggregated."""
    rounds: int = Field(default=0, ge=0, le=1000)
    """Rounds of training and aggregating. 0: the number closest to the longest route, as `budget` says."""
    budget: Annotated[tuple[Budget, ...], BeforeValidator(_several)] = Field(
        default=("steps",), exclude_if=lambda budgets: budgets == ("steps",)
    )
    """Where `rounds` is 0, what the rounds have in common with the longest route; each word is a row of its own where
    the two come to other numbers of rounds. "steps": the gradient steps of all sites together. "depth": the gradient
    steps one after another; in a round the sites train side by side, and the site with the most steps counts. CyclicFL,
    whose laps are no such rounds, has "steps" alone. "depth" costs up to as many times the steps as there are sites."""
    local_epochs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several)] = (1,)
    """Epochs of each site's training in a round; a single number may stand without brackets. Among several numbers,
    each target's validation patients select the best, as for rounds."""
    proximal_mu: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_several)] = (0.1,)
    """The weight of FedProx's proximal term (Li et al., MLSys 2020); other strategies have none. Among several numbers,
    each target's validation patients select the best."""
    server_learning_rate: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_several)] = Field(
        default=(), exclude_if=lambda rates: not rates
    )
    """The learning rate η of the server's optimizer: FedAvgM (Hsu et al., arXiv 1909.06335), FedAdagrad, FedAdam and
    FedYogi (Reddi et al., ICLR 2021); other strategies have none. Empty: 1 for FedAvgM, as in its source, and 0.001,
    0.01 and 0.1 for the others, whose source tunes it. Among several numbers, each target's validation patients select
    the best."""
    server_momentum: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], BeforeValidator(_several)] = Field(
        default=(0.9,), exclude_if=lambda betas: betas == (0.9,)
    )
    """The momentum β of FedAvgM, and β₁ of FedAdam and FedYogi; a list as for `server_learning_rate`."""
    server_second_moment: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], BeforeValidator(_several)] = Field(
        default=(0.99,), exclude_if=lambda betas: betas == (0.99,)
    )
    """The decay β₂ of the second moment of FedAdam and FedYogi; a list as for `server_learning_rate`."""
    server_tau: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_several)] = Field(
        default=(0.001,), exclude_if=lambda taus: taus == (0.001,)
    )
    """The term τ below which FedAdagrad, FedAdam and FedYogi adapt a weight's step less; a list as for
    `server_learning_rate`."""
    average_every: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several)] = Field(
        default=(2,), exclude_if=lambda numbers: numbers == (2,)
    )
    """FedDC (Kamp et al., ICLR 2023): the models are averaged after every so many rounds, and after the last; after
    the other rounds they change places. Other strategies average after every round. Among several numbers, each
    target's validation patients select the best."""
    laps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several)] = Field(
        default=(1,), exclude_if=lambda numbers: numbers == (1,)
    )
    """CyclicFL (Zhang et al., 2023): so many of the rounds, but never the last, are laps of a single model. Other
    strategies have none. Among several numbers, each target's validation patients select the best."""
    batch_norm: Annotated[tuple[Literal["average", "re-estimate", "local"], ...], BeforeValidator(_several)] = (
        "average",
        "re-estimate",
    )
    """Batch normalisation in an average; each word is a row of its own. "average": the sites' means and variances
    averaged like weights, which loses the variance between sites and is no site's statistics. "re-estimate": estimated
    at each target from its training slices, as `training.batch_norm` "precise" does at the end of every training,
    without a gradient step; each target's validation patients select the round among these models. "local": all tensors
    of batch norm's layers stay at their site and are put back at every visit (FedBN: Li et al., ICLR 2021), which takes
    rounds of its own; the first round waits for all sites. A route always ends with the target's own statistics."""
    ditto_lambda: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_several)] = Field(
        default=(), exclude_if=lambda values: not values
    )
    """λ of personal models (Ditto: Li et al., ICML 2021), which each site trains beside the rounds, pulled towards the
    average by λ/2 times the squared distance, and which never leave the site. Among several numbers, each target's
    validation patients select the best. Empty: no personal models."""
    then_target: bool = True
    """Whether the average selected with averaged statistics is also fine-tuned at each target, where `batch_norm` has
    such averages ("average" or "re-estimate")."""

    @model_validator(mode="after")
    def _something_to_choose_from(self) -> FederatedConfig:
        for name, given in self:
            several = isinstance(given, tuple)
            if several and (
                (not given and name not in ("server_learning_rate", "ditto_lambda")) or len(set(given)) < len(given)
            ):
                raise ValueError(f"{name} is an empty list, or a value stands twice in it")
        return self

    @model_validator(mode="after")
    def _rounds_begin_with_an_average(self) -> FederatedConfig:
        stays = [
            *(["ditto_lambda"] if self.ditto_lambda else []),
            *(word for word in self.batch_norm if word == "local"),
        ]
        if stays and not STRATEGIES[self.strategy].plain_rounds:
            raise ValueError(
                f"{stays[0]} needs rounds that all begin with an average, which {self.strategy} has not; leave it out"
                " there"
            )
        return self

    @property
    def averages_statistics(self) -> bool:
        """Whether any row has averages with averaged statistics, also if only as a beginning."""
        return self.batch_norm != ("local",)

    @property
    def settings(self) -> tuple[tuple[int, float], ...]:
        """Every pair of local epochs and proximal term to try; strategies other than FedProx have the term 0."""
        terms = self.proximal_mu if STRATEGIES[self.strategy].proximal else (0.0,)
        return tuple(itertools.product(self.local_epochs, terms))

    @property
    def chains(self) -> tuple[tuple[int, int], ...]:
        """Every pair to try of the rounds from average to average, and of the laps before the first round."""
        strategy = STRATEGIES[self.strategy]
        every = self.average_every if strategy.daisy_chain else (1,)
        return tuple(itertools.product(every, self.laps if strategy.laps_first else (0,)))

    @property
    def server_settings(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """Every combination of the server optimizer's settings to try, each with its name; one empty without it."""
        server = STRATEGIES[self.strategy].server
        if server is None:
            return ((),)
        lists = {
            "learning_rate": self.server_learning_rate or server.learning_rates,
            "momentum": self.server_momentum,
            "second_moment": self.server_second_moment,
            "tau": self.server_tau,
        }
        names = [name for name in lists if name in server.arguments]
        return tuple(
            tuple(zip(names, values, strict=True)) for values in itertools.product(*(lists[name] for name in names))
        )


class MethodsConfig(_Config):
    """The methods compared in the study."""

    baseline: bool = True
    """Whether the target alone is trained."""
    longer_baseline: bool = True
    """Whether the target alone is trained with the gradient steps of its longest route: the control for the extra
    training."""
    unadapted: bool = False
    """Whether each source's model is scored at the target without training there."""
    sequential: SequentialConfig = SequentialConfig()
    lwf: LwfConfig = Field(default=LwfConfig(), exclude_if=lambda part: part == LwfConfig())
    l2_sp: L2SpConfig = Field(default=L2SpConfig(), exclude_if=lambda part: part == L2SpConfig())
    cyclic: CyclicConfig = CyclicConfig()
    federated: tuple[FederatedConfig, ...] = (FederatedConfig(),)
    more: tuple[MethodKey, ...] = Field(default=(), exclude_if=lambda keys: not keys)
    """Methods without settings of their own, by their keys in `common.plan.methods`: "restarts" (the target alone, for
    as many stages as its longest route has), "longest" (the target alone, with the gradient steps of the longest of its
    rows that end with "then the target"), "soup" (the mean of the weights of a target's routes), and the ensembles
    "target-folds" (the target's models of all folds), "route-folds" (the best route's) and "consensus" (all sites' own
    models)."""
    train_fraction: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(_several)] = Field(
        default=(), exclude_if=lambda shares: not shares
    )
    """Shares of the target's own training patients, such as [0.25, 0.5, 1], on which the target alone and the end of
    each route are also trained: how many own patients a hop is worth. A larger share holds the patients of a smaller
    one; validation and test patients, and all sources, are as in every other row. 1 is those other rows."""
    pooled: bool = True
    """Whether a model is trained on all data in one place; possible in simulation alone, so a federation sets
    `false`."""
    pooled_then_target: bool = True
    """Whether the model of all data is also fine-tuned at the target, where `pooled` is true."""
    leave_out: bool = Field(default=False, exclude_if=lambda leaves: not leaves)
    """Whether each target also gets rows of models that never saw it: of routes, averages and own models of the other
    sites, chosen by the other sites' validation patients, and scored on the target's test patients. The routes and the
    averages among the other sites are further trainings; `relay study plan` counts them."""
    forgetting: bool = True
    """Whether the travelling model is also scored at every site after every hop."""
    scored_on: Literal["test", "validation"] = "test"
    """The patients to score. "validation": no test patient is scored, as befits a comparison of networks."""

    @property
    def parts(self) -> tuple[float, ...]:
        """The shares below 1 of `train_fraction`, the smallest first."""
        return tuple(sorted(share for share in self.train_fraction if share < 1))

    @field_validator("train_fraction")
    @classmethod
    def _distinct_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(shares)) < len(shares):
            raise ValueError("a share stands twice")
        return shares

    @field_validator("federated")
    @classmethod
    def _one_of_each(cls, parts: tuple[FederatedConfig, ...]) -> tuple[FederatedConfig, ...]:
        if len({part.strategy for part in parts}) < len(parts):
            raise ValueError("each strategy may stand once")
        return parts


class AbsenceRule(_Config):
    """What happens to a site's stages while it is away."""

    wait_hours: float = Field(default=24.0, ge=0, le=8760)
    """Hours of a site's absence before its stages are given up. A slow site is never given up while connected."""
    then: Literal["park", "skip"] = "park"
    """The rule for stages after `wait_hours`. "park": the stage and all its descendants wait for another run. "skip": a
    round averages the sites present, at least two (FedTrimmedAvg: three), and a route goes on with the next site.
    Methods without rules of their own (see `methods`), and routes that are found while the study runs, are parked in
    any case. A row made without a site is marked, and never counted as the complete row. A skipped stage stays skipped
    in its result folder, for the same weights."""


class AbsenceConfig(AbsenceRule):
    """The rule for absent sites, for every method without a rule of its own.

    Keys missing in a method's own rule are taken from this rule.
    """

    methods: dict[Skippable, AbsenceRule] = Field(default_factory=dict)
    """Rules for single methods; only methods able to go on without a site may have a rule."""

    @model_validator(mode="before")
    @classmethod
    def _inherited(cls, given: object) -> object:
        if not isinstance(given, dict) or not isinstance(own := given.get("methods"), dict):
            return given
        general = {name: given[name] for name in ("wait_hours", "then") if name in given}
        return given | {
            "methods": {name: general | rule if isinstance(rule, dict) else rule for name, rule in own.items()}
        }

    def rule_of(self, name: str) -> AbsenceRule:
        """Return the rule under a method's name, or else the general rule.

        `common.plan` knows the methods allowed to skip a site.
        """
        return self.methods.get(name, self)


class Study(_Config):
    """All settings of a study; `digest` identifies the study."""

    name: Line = Field(default="study", min_length=1, max_length=80)
    """The study's name in the table, the report and at the hospitals."""
    about: Line = ""
    """A sentence at the beginning of the table and the report."""
    licence: Line = Field(default="", max_length=200)
    """The licence of the hospitals' models, printed on the model cards."""
    seed: int = Field(default=1, ge=0)
    """Seed of the first weights, of the order of batches, of augmentation, and of the places of FedDC's models. No
    effect where `training.seeds` lists seeds."""
    sites: tuple[SiteName, ...] = Field(min_length=1)
    """The hospitals of the study, by the names in their site files."""
    repeats: int = Field(default=1, ge=1, le=100)
    """The number of splits: repeat k, counted from 0, adds k to `split.seed`, and also to `seed` where `training.seeds`
    is empty. Where `training.seeds` lists seeds, every split is run with every one of these seeds."""
    synthetic: bool = False
    """Whether the patients are synthetic."""
    paper: Literal["", "table-2", "table-3"] = ""
    """The table of the paper whose results are shown beside this study's; sites are then named A, B and C, as in the
    paper."""
    collapse: float = Field(default=0.1, ge=0, lt=1)
    """The rule against collapsed trainings: a stage is refused, and its routes are parked, if its validation Dice is
    below this share of the received weights' Dice at the same site, if the received weights' Dice was at least 0.5, and
    if the training loss rose. 0: no stage is refused."""
    equivalence_margin: float = Field(default=1.0, gt=0, le=100, exclude_if=lambda margin: margin == 1.0)
    """Dice points. Report and letter call two methods practically the same where it is shown that they differ by no
    more than this, and a method non-inferior where it is shown to be worse by no more than this."""
    model: ModelConfig = ModelConfig()
    models: ModelsConfig = ModelsConfig()
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    split: SplitConfig = SplitConfig()
    training: TrainingConfig = TrainingConfig()
    methods: MethodsConfig = MethodsConfig()
    absence: AbsenceConfig = AbsenceConfig()

    @field_validator("sites")
    @classmethod
    def _distinct(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(sites)) < len(sites):
            raise ValueError("a site stands twice")
        if POOLED in sites:
            raise ValueError(f'"{POOLED}" is the name of all data together; give the site another name')
        return sites

    @model_validator(mode="after")
    def _routes_know_their_sites(self) -> Study:
        sequential = self.methods.sequential
        if not isinstance(sequential.routes, str):
            for route in sequential.routes:
                for site in route:
                    if site not in self.sites:
                        raise ValueError(
                            f"the route {' → '.join(route)} names site {site}, which is not among the study's sites"
                            f" ({', '.join(self.sites)})"
                        )
                if len(route) < 2:
                    raise ValueError('a route needs a source and a target, such as ["B", "A"]')
                if any(a == b for a, b in itertools.pairwise(route)):
                    raise ValueError(f"the route {' → '.join(route)} hands a model to the site that has it")
        return self

    @model_validator(mode="after")
    def _few_enough_to_plan(self) -> Study:
        sites, methods = len(self.sites), self.methods
        all_routes, of_this_length = 0, sites
        for hop in range(min(methods.sequential.max_hops, sites - 1)):
            of_this_length *= sites - 1 - hop
            all_routes += of_this_length
            if all_routes > MOST_MODELS:
                break
        settings = len(methods.sequential.settings)
        kinds = 1 + len(methods.lwf.weight) + len(methods.l2_sp.weight)
        counts = {
            'the routes "all"': all_routes * settings * kinds if methods.sequential.routes == "all" else 0,
            "the laps": sites * sites * methods.cyclic.laps * settings,
            **{
                f"the rounds of {part.strategy}": sites * part.rounds * len(part.settings) for part in methods.federated
            },
        }
        for what, count in counts.items():
            if (models := count * len(self.split.run)) > MOST_MODELS:
                raise ValueError(
                    f"{what} of {sites} sites ask for {models} models or more, and a study may ask for {MOST_MODELS};"
                    " write"
                    ' fewer hops (max_hops), laps, rounds, settings or folds, or routes = "greedy"'
                )
        return self

    @model_validator(mode="after")
    def _epochs_left_after_warm_up(self) -> Study:
        longest = max(self.methods.sequential.warmup_epochs)
        if longest >= self.training.epochs:
            raise ValueError(
                f"a warm-up of {longest} epochs leaves nothing of the {self.training.epochs} epochs of a training; set"
                " methods.sequential.warmup_epochs below training.epochs"
            )
        return self

    @model_validator(mode="after")
    def _few_enough_to_halve(self) -> Study:
        others, hops = len(self.sites) - 1, self.methods.sequential.max_hops
        routes = len(self.sites) * sum(math.perm(others, n) for n in range(1, min(hops, others) + 1))
        if self.methods.sequential.routes == "halving" and routes > MOST_TO_HALVE:
            raise ValueError(
                f"halving would begin with {routes} routes, and {MOST_TO_HALVE} are the most; set a smaller max_hops,"
                ' or routes to "greedy"'
            )
        return self

    @model_validator(mode="after")
    def _enough_sites_to_share(self) -> Study:
        methods = self.methods
        if len(self.sites) == 1 and (methods.federated or methods.pooled or methods.cyclic.laps):
            raise ValueError(
                f"a study of {self.sites[0]} alone has nobody to share with;"
                ' add sites, or set "federated" to [], "pooled" to false and no laps'
            )
        if methods.leave_out and len(self.sites) < 3:
            raise ValueError(
                "leave_out needs three sites: two that share, and one that their models never saw; add sites, or set"
                " leave_out to false"
            )
        for part in methods.federated:
            strategy = STRATEGIES[part.strategy]
            if len(self.sites) < strategy.fewest_parts:
                raise ValueError(f"{strategy.key} {strategy.why_so_many}")
        return self

    @model_validator(mode="after")
    def _somebody_to_test(self) -> Study:
        if self.split.test == "rotate" and self.methods.scored_on != "test":
            raise ValueError(
                'split.test = "rotate" tests every patient, but methods.scored_on = "validation" tests none'
            )
        return self

    @model_validator(mode="after")
    def _the_papers_sites(self) -> Study:
        if self.paper and not set(self.sites) <= {"A", "B", "C"}:
            raise ValueError("the paper's sites are named A, B and C; name this study's so, or leave out paper")
        return self

    @model_validator(mode="after")
    def _the_papers_slices(self) -> Study:
        if self.paper and self.training.slices != "chosen":
            raise ValueError('the paper trains on selected slices; set training.slices = "chosen", or leave out paper')
        return self

    @model_validator(mode="after")
    def _networks_fit(self) -> Study:
        for model in self.networks:
            network = NETWORKS.get(model.architecture)
            if network is not None and network.smallest_side > self.preprocessing.pixels:
                raise ValueError(
                    f"the architecture {network.key} needs slices of {network.smallest_side} pixels or more; set"
                    f" preprocessing.pixels to {network.smallest_side}, or more"
                )
            if "encoder" in self.methods.sequential.freeze and not model.encoder:
                raise ValueError(
                    f"the architecture {model.architecture} has no encoder that could be frozen; leave out"
                    " methods.sequential.freeze"
                )
            only = any("average" not in part.batch_norm for part in self.methods.federated)
            if only and not model.has_batch_norm:
                raise ValueError(
                    f"the architecture {model.architecture} has no batch normalisation whose statistics could be"
                    ' estimated; add "average" to batch_norm of the strategy'
                )
        return self

    @property
    def networks(self) -> tuple[ModelConfig, ...]:
        """The networks of the study, each once."""
        if self.models == ModelsConfig():
            return (self.model,)
        encoders = self.models.encoders or (self.model.encoder,)
        architectures = self.models.architectures or (self.model.architecture,)
        starts = self.models.encoder_weights or (self.model.encoder_weights,)
        all_together = itertools.product(encoders, architectures, starts)
        return tuple(dict.fromkeys(_network(self.model, name, encoder, start) for encoder, name, start in all_together))

    @property
    def variants(self) -> tuple[Study, ...]:
        """The plain studies of this study, each with a single network and pair of seeds.

        A site approves the plain studies and works for each of them; only the coordinator knows of the study as a
        whole.
        """
        turns = self.split.turns
        if self.repeats == 1 and self.models == ModelsConfig() and not self.training.seeds and len(turns) == 1:
            return (self,)
        return tuple(
            self.model_copy(
                update={
                    "repeats": 1,
                    "models": ModelsConfig(),
                    "seed": seed,
                    "split": self.split.model_copy(update={"seed": split_seed, "rotation": rotation}),
                    "training": self.training.model_copy(update={"seeds": ()}),
                    "model": model,
                }
            )
            for (split_seed, seed), rotation, model in itertools.product(self.pairs_of_seeds, turns, self.networks)
        )

    @property
    def pairs_of_seeds(self) -> tuple[tuple[int, int], ...]:
        """The pairs (split seed, training seed) of the study's repeats, split by split."""
        return tuple(
            (self.split.seed + repeat, seed)
            for repeat in range(self.repeats)
            for seed in self.training.seeds or (self.seed + repeat,)
        )

    @property
    def digest(self) -> str:
        """The sha256 of the study's content, whatever the layout of its file."""
        return digest_of_json(self.model_dump(mode="json"))


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        RelayError: the file does not exist, is no TOML, or has an unknown key, a wrong type or a wrong value; the error
            text names the key.
    """
    return load_toml(path, Study, "study file")


def study_toml(study: Study) -> str:
    """Return the study with every default written out, as TOML."""
    return tomli_w.dumps(study.model_dump(mode="json"))

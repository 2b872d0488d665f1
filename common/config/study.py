"""The study file: all settings of a study, agreed between hospitals and coordinator before any stage runs.

A study is a TOML file. The result folder's `study.toml` has every default written out, so a run can be repeated from
this file alone. Nothing in this module touches an image.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from common.config.methods import AbsenceConfig, MethodsConfig
from common.config.model import ModelConfig, ModelsConfig, compared
from common.config.toml import load_toml
from common.config.values import POOLED, Config, Line, SiteName
from common.digest import digest_of_json
from common.networks.registry import NETWORKS
from common.strategies import STRATEGIES

MOST_MODELS = 200_000
"""The most models that the routes, laps or rounds of a study may ask for. A plan of so many takes 1 GB and minutes;
the routes "all" of 12 sites over 11 hops are more than a billion, and a study file comes by mail."""

MOST_TO_HALVE = 40_000
"""The most routes, to all targets together, with which successive halving begins: which of them go on travels with
every order, with a digit for each route of each rung."""


class N4Config(Config):
    """N4 bias field correction (Tustison et al., IEEE TMI 2010), as SimpleITK's filter computes it."""

    enabled: bool = True
    """Whether the bias field is corrected."""
    shrink: int = Field(default=4, ge=1, le=16)
    """The field is fitted to every so many-th row and column; to every slice."""
    iterations: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(50, 50, 50, 50), min_length=1)
    """The most iterations on each fitting level, a number for each level."""
    convergence: float = Field(default=0.001, gt=0)
    """A fitting level ends where the field changes by less than this."""


class PreprocessingConfig(Config):
    """From a patient's volume to slices on the study's grid."""

    pixels: int = Field(default=256, ge=32, le=1024, multiple_of=32)
    """Rows and columns of a slice."""
    spacing_mm: float = Field(default=0.625, gt=0, le=5)
    """Millimetres a pixel. The grid is centred on the image: pixels × spacing_mm is its field of view."""
    minimum_mask_pixels: int = Field(default=200, ge=0)
    """A slice is selected if its mask holds more pixels than this, on the native grid (the paper's rule). Dice and IoU
    are means over selected slices, and a patient without one is left out, whatever training.slices says."""
    n4: N4Config = N4Config()
    standardise: Literal["site", "volume"] = Field(default="site", exclude_if=lambda value: value == "site")
    """"site": images less the mean of the site's training slices, divided by their standard deviation. "volume": each
    volume less its own mean, divided by its own standard deviation, over all of its slices."""


class PostprocessingConfig(Config):
    """From a network's output to a mask."""

    clean_up: bool = True
    """Whether a clean-up is tried: only the largest part of a segmentation in 3-D is kept, and its holes are filled. A
    model is cleaned up after where the mean volume Dice of its validation patients gains."""


class SplitConfig(Config):
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


class TrainingConfig(Config):
    """A stage of fine-tuning."""

    epochs: int = Field(default=200, ge=1, le=10_000)
    """Epochs of a stage of fine-tuning."""
    batch: int = Field(default=16, ge=2)
    """Slices in a batch; boxes where `model.dimensions` is 3."""
    slices: Literal["all", "chosen"] = "all"
    """The slices to train on, and the validation Dice that selects epoch, round, settings, fold, route and each
    hospital's model. "all": every slice of a volume; volume Dice, a mean over patients. "chosen": only slices whose
    mask holds more than `minimum_mask_pixels` pixels (the paper's protocol); the mean Dice of these slices. Test
    patients are scored on whole volumes in either case."""
    empty_share: float = Field(default=0.5, ge=0, le=1)
    """Where slices is "all": of the slices without any gland, the share that one epoch trains on (0.5: half of them);
    each epoch makes a draw of its own. Slices with a little gland are always trained on. No effect where slices is
    "chosen", or `model.dimensions` is 3."""
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


class Study(Config):
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
    largest_step: float = Field(default=20.0, ge=0, le=1e6, exclude_if=lambda largest: largest == 20.0)
    """How far a training may step away from the weights that it was given: the norm of the change of all parameters, in
    multiples of the norm of the parameters given (plus 1). A hospital's result beyond it is refused. A training comes
    to a few multiples at most; who sends wrong weights on purpose shifts a model's parameters by no more than this.
    Running means and variances of batch normalisation do not count: no value may be beyond 1e8, and that alone bounds
    them. 0: no bound."""
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
        norms = len(methods.sequential.batch_norm)
        kinds = norms + len(methods.lwf.weight) + len(methods.l2_sp.weight)
        counts = {
            'the routes "all"': all_routes * settings * kinds if methods.sequential.routes == "all" else 0,
            # every union of two sites or more but all, scored at every site
            "the data of every union": sites * (2 ** min(sites, 64) - sites - 2) if methods.pooled_subsets else 0,
            "the laps": sites * sites * methods.cyclic.laps * settings * norms,
            **{
                f"the rounds of {part.strategy}": sites * part.rounds * len(part.settings) for part in methods.federated
            },
        }
        for what, count in counts.items():
            if (models := count * len(self.split.run)) > MOST_MODELS:
                raise ValueError(
                    f"{what} of {sites} sites ask for {models} models or more, and a study may ask for {MOST_MODELS};"
                    " write"
                    ' fewer hops (max_hops), laps, rounds, settings or folds, or routes = "greedy", or pooled_subsets ='
                    " false"
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
        if methods.pooled_subsets and not methods.pooled:
            raise ValueError(
                "pooled_subsets trains on unions of sites beside all data; set pooled to true, or pooled_subsets to"
                " false"
            )
        if methods.pooled_subsets and len(self.sites) < 3:
            raise ValueError("pooled_subsets needs three sites: with two, the only union is all data; set it to false")
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
            if model.dimensions == 3 and self.training.slices == "chosen":
                raise ValueError(
                    'dimensions = 3 trains on whole volumes; set training.slices = "all", or dimensions = 2 in [model]'
                )
            if "encoder" in self.methods.sequential.freeze and not model.encoder:
                raise ValueError(
                    f"the architecture {model.architecture} has no encoder that could be frozen; leave out"
                    " methods.sequential.freeze"
                )
            if self.methods.sequential.batch_norm == ("local",) and not model.has_batch_norm:
                raise ValueError(
                    f"the architecture {model.architecture} has no batch normalisation that could stay at a site; add"
                    ' "travel" to batch_norm of [methods.sequential]'
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
        return tuple(dict.fromkeys(compared(self.model, name, encoder, start) for encoder, name, start in all_together))

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

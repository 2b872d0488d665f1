"""The methods of a study file: [methods] and [absence]."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from common.config.values import Config, SiteName, check_distinct, check_lists, several
from common.strategies import STRATEGIES

if TYPE_CHECKING:
    StrategyKey = str
    Skippable = str
else:  # literals: the error for a wrong value then lists the permitted values
    StrategyKey = Literal[tuple(STRATEGIES)]
    Skippable = Literal[("sequential", "cyclic", *(key for key, one in STRATEGIES.items() if one.skippable))]
    """The tables of [methods] and the strategies with optional absence rules of their own; all can go on without a
    site."""


class SequentialConfig(Config):
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
    learning_rate: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(several)] = Field(
        default=(), exclude_if=lambda rates: not rates
    )
    """The learning rate at which the cosine of a second or later training begins: on a route, on laps, in a restart of
    the target alone, and at the target after an average or after all data. A single number may stand without brackets.
    All combinations of this list and the next two are tried, each along a whole route, and each target's validation
    patients select the best. Empty: `training.learning_rate`."""
    warmup_epochs: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(several)] = Field(
        default=(0,), exclude_if=lambda epochs: epochs == (0,)
    )
    """Epochs of linear warm-up at the beginning of such a training, before the cosine (Goyal et al., arXiv 1706.02677):
    of w epochs, the k-th has k / (w + 1) of the rate, and the cosine takes the remaining epochs."""
    freeze: Annotated[tuple[Literal["none", "encoder"], ...], BeforeValidator(several)] = Field(
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

    batch_norm: Annotated[tuple[Literal["travel", "local"], ...], BeforeValidator(several)] = Field(
        default=("travel",), exclude_if=lambda words: words == ("travel",)
    )
    """Batch normalisation on routes and laps; each word is a row of its own. "travel": its tensors go with the weights,
    and a route ends with the target's own statistics. "local": all tensors of batch norm's layers stay at their site;
    a second visit puts the site's own back, and a first visit begins with those of the study's first weights
    (domain-specific batch normalisation: Liu et al., IEEE TMI 2020). Routes that are found while the study runs are
    found with "travel"; the route found then has a row of "local" as well. A target that is restarted alone would come
    to the same weights, and what ends with "then the target" has no earlier visit of its own: both are as ever. A first
    visit waits for its site."""

    @model_validator(mode="after")
    def _something_to_choose_from(self) -> SequentialConfig:
        check_lists(self, "warmup_epochs", "freeze", "batch_norm")
        check_distinct(self, "learning_rate")
        if self.grows and "travel" not in self.batch_norm:
            raise ValueError(
                f'routes = "{self.routes}" finds its routes with batch_norm "travel"; add it to batch_norm of'
                " [methods.sequential]"
            )
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


class LwfConfig(Config):
    """Learning without forgetting on routes (Li and Hoiem, IEEE TPAMI 40, 2018).

    In every training after the first of a route, the received weights are a teacher on the site's own slices. The loss
    has one more term: the binary cross-entropy of the model's probabilities against the teacher's, both of logits
    divided by the temperature.
    """

    weight: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(several)] = ()
    """The weights of the term; among several, each target's validation patients select the best. Empty: no rows."""
    temperature: float = Field(default=2.0, gt=0)
    """The temperature; the paper's is 2."""

    @model_validator(mode="after")
    def _each_once(self) -> LwfConfig:
        check_distinct(self, "weight")
        return self


class L2SpConfig(Config):
    """L2-SP on routes (Li, Grandvalet and Davoine, ICML 2018).

    In every training after the first of a route, the loss has one more term: weight / 2 times the squared distance of
    all parameters from the received ones. Model and task stay the same, so no parameter is new.
    """

    weight: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(several)] = ()
    """The weights of the term; among several, each target's validation patients select the best. Empty: no rows."""

    @model_validator(mode="after")
    def _each_once(self) -> L2SpConfig:
        check_distinct(self, "weight")
        return self


class CyclicConfig(Config):
    """Laps: the model goes round all sites several times (cyclical weight transfer: Chang et al., JAMIA 25, 2018)."""

    laps: int = Field(default=0, ge=0, le=100)
    """The number of the model's laps; each target's laps end at the target. 0: the method is not run."""
    epochs: int = Field(default=0, ge=0)
    """Epochs of each visit. 0: as many at each site, over all its visits, as come closest to the gradient steps of the
    target's longest route; at least one a visit, and where they cannot be divided, one more in the first laps."""


Budget = Literal["steps", "depth"]
"""What the rounds of an average have in common with the longest route."""

MethodKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]


class FederatedConfig(Config):
    """Rounds in which every site trains from the same weights, and the results are aggregated."""

    strategy: StrategyKey = "fedavg"
    """The rule by which the sites' weights are aggregated."""
    rounds: int = Field(default=0, ge=0, le=1000)
    """Rounds of training and aggregating. 0: the number closest to the longest route, as `budget` says."""
    budget: Annotated[tuple[Budget, ...], BeforeValidator(several)] = Field(
        default=("steps",), exclude_if=lambda budgets: budgets == ("steps",)
    )
    """Where `rounds` is 0, what the rounds have in common with the longest route; each word is a row of its own where
    the two come to other numbers of rounds. "steps": the gradient steps of all sites together. "depth": the gradient
    steps one after another; in a round the sites train side by side, and the site with the most steps counts. CyclicFL,
    whose laps are no such rounds, has "steps" alone. "depth" costs up to as many times the steps as there are sites."""
    local_epochs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(several)] = (1,)
    """Epochs of each site's training in a round; a single number may stand without brackets. Among several numbers,
    each target's validation patients select the best, as for rounds."""
    proximal_mu: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(several)] = (0.1,)
    """The weight of FedProx's proximal term (Li et al., MLSys 2020); other strategies have none. Among several numbers,
    each target's validation patients select the best."""
    server_learning_rate: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(several)] = Field(
        default=(), exclude_if=lambda rates: not rates
    )
    """The learning rate η of the server's optimizer: FedAvgM (Hsu et al., arXiv 1909.06335), FedAdagrad, FedAdam and
    FedYogi (Reddi et al., ICLR 2021); other strategies have none. Empty: 1 for FedAvgM, as in its source, and 0.001,
    0.01 and 0.1 for the others, whose source tunes it. Among several numbers, each target's validation patients select
    the best."""
    server_momentum: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], BeforeValidator(several)] = Field(
        default=(0.9,), exclude_if=lambda betas: betas == (0.9,)
    )
    """The momentum β of FedAvgM, and β₁ of FedAdam and FedYogi; a list as for `server_learning_rate`."""
    server_second_moment: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], BeforeValidator(several)] = Field(
        default=(0.99,), exclude_if=lambda betas: betas == (0.99,)
    )
    """The decay β₂ of the second moment of FedAdam and FedYogi; a list as for `server_learning_rate`."""
    server_tau: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(several)] = Field(
        default=(0.001,), exclude_if=lambda taus: taus == (0.001,)
    )
    """The term τ below which FedAdagrad, FedAdam and FedYogi adapt a weight's step less; a list as for
    `server_learning_rate`."""
    average_every: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(several)] = Field(
        default=(2,), exclude_if=lambda numbers: numbers == (2,)
    )
    """FedDC (Kamp et al., ICLR 2023): the models are averaged after every so many rounds, and after the last; after
    the other rounds they change places. Other strategies average after every round. Among several numbers, each
    target's validation patients select the best."""
    laps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(several)] = Field(
        default=(1,), exclude_if=lambda numbers: numbers == (1,)
    )
    """CyclicFL (Zhang et al., 2023): so many of the rounds, but never the last, are laps of a single model. Other
    strategies have none. Among several numbers, each target's validation patients select the best."""
    batch_norm: Annotated[tuple[Literal["average", "re-estimate", "local"], ...], BeforeValidator(several)] = (
        "average",
        "re-estimate",
    )
    """Batch normalisation in an average; each word is a row of its own. "average": the sites' means and variances
    averaged like weights, which loses the variance between sites and is no site's statistics. "re-estimate": estimated
    at each target from its training slices, as `training.batch_norm` "precise" does at the end of every training,
    without a gradient step; each target's validation patients select the round among these models. "local": all tensors
    of batch norm's layers stay at their site and are put back at every visit (FedBN: Li et al., ICLR 2021), which takes
    rounds of its own; the first round waits for all sites. A route always ends with the target's own statistics."""
    ditto_lambda: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(several)] = Field(
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


class MethodsConfig(Config):
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
    packages: dict[MethodKey, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default={}, exclude_if=lambda packages: not packages
    )
    """Of a method in `more` that an installed package brings (the entry point group "relay.methods"), the hash of the
    package: every hospital compares it with its own, as for a network's. `relay study plan` says it."""
    train_fraction: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(several)] = Field(
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
    pooled_subsets: bool = Field(default=False, exclude_if=lambda wanted: not wanted)
    """Whether a model is also trained on the data of every union of two sites or more in one place, and tested at all
    sites, within the union or not (the protocol of USE-Net: Rundo et al., Neurocomputing 365, 2019); needs `pooled`,
    and is possible in simulation alone. Of n sites that is 2ⁿ − n − 2 further trainings a fold."""
    leave_out: bool = Field(default=False, exclude_if=lambda leaves: not leaves)
    """Whether each target also gets rows of models that never saw it: of routes, averages and own models of the other
    sites, and where `pooled` is true of all their data in one place, chosen by the other sites' validation patients,
    and scored on the target's test patients. The routes and the averages among the other sites, and each site's pool
    of the others, are further trainings; `relay study plan` counts them."""
    forgetting: bool = True
    """Whether the travelling model is also scored at every site after every hop."""
    scored_on: Literal["test", "validation"] = "test"
    """The patients to score. "validation": no test patient is scored, as befits a comparison of networks."""

    @property
    def parts(self) -> tuple[float, ...]:
        """The shares below 1 of `train_fraction`, the smallest first."""
        return tuple(sorted(share for share in self.train_fraction if share < 1))

    @model_validator(mode="after")
    def _packages_are_of_methods(self) -> Self:
        for key in self.packages:
            if key not in self.more:
                raise ValueError(f'"packages" names the method {key}, which "more" does not ask for')
        return self

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


class AbsenceRule(Config):
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

"""Routes: the routes to a target, and the stages along a route."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from common.config.study import Study
from common.plan.graph import (
    FineTune,
    Hop,
    Keep,
    Node,
    Refilled,
    Schedule,
    Start,
    best_of,
    fold_of,
    lacks_batch_norm,
    last_visit,
)
from common.plan.values import Route


def whole_cosine(epochs: int, keep: Keep) -> Schedule:
    """Return the schedule of a stage that anneals from the first to the final learning rate."""
    return Schedule(total_epochs=epochs, first=0, last=epochs, keep=keep)


def schedules(study: Study, epochs: Sequence[int]) -> tuple[Schedule, ...]:
    """Return the schedules of a chain of trainings: a cosine for each, or consecutive parts of a single cosine.

    Args:
        study: the study; says which, and which epoch is kept.
        epochs: the epochs of each training.
    """
    keep = study.training.keep
    if study.methods.sequential.annealing == "stage":
        return tuple(whole_cosine(of_one, keep) for of_one in epochs)
    ends = (0, *itertools.accumulate(epochs))
    return tuple(Schedule(ends[-1], first, last, keep) for first, last in itertools.pairwise(ends))


@dataclass(frozen=True)
class Setting:
    """The settings of a chain of trainings; `hop` and `pull` are those of all trainings but the first."""

    hop: Hop | None = None
    pull: float = 0.0
    """The weight of L2-SP's pull towards the received weights; 0: none."""
    local: bool = False
    """Whether batch norm's tensors stay at the sites, and are put back at a second visit. At a first visit they are
    those of the study's first weights."""

    def begin(self, site: str, fold: int, schedule: Schedule) -> FineTune:
        """Return the first training of a chain."""
        return FineTune(site, fold, Start(), schedule, stays="batch-norm" if self.local else "")

    def train(self, site: str, fold: int, parent: Node, schedule: Schedule) -> FineTune:
        """Return a later training of a chain."""
        warmup = self.hop.warmup_epochs if self.hop else 0
        hop = self.hop
        if hop and warmup >= schedule.epochs:  # the visits of laps may be short
            hop = hop_of(replace(hop, warmup_epochs=schedule.epochs - 1))
        if not self.local:
            return FineTune(site, fold, parent, schedule, self.pull, hop=hop)
        before = last_visit(site, parent)
        assert before is None or isinstance(before, FineTune), "a route with two visits to a site keeps to one fold"
        start = Refilled(parent) if before is None and lacks_batch_norm(parent) else parent
        return FineTune(site, fold, start, schedule, self.pull, "batch-norm", before, hop)


def hop_of(hop: Hop) -> Hop | None:
    """Return settings, or None where nothing is set: then the training is what a study without settings has."""
    return hop if hop.differing else None


def settings_of(study: Study) -> tuple[Setting, ...]:
    """Return the settings to try for second and later trainings; of several, each target's validation chooses."""
    usual = study.training.learning_rate
    found = (
        Setting(hop_of(Hop(learning_rate=0.0 if rate == usual else rate, warmup_epochs=warmup, freeze=freeze)))
        for rate, warmup, freeze in study.methods.sequential.settings
    )
    return tuple(dict.fromkeys(found))


def local_settings_of(study: Study) -> tuple[Setting, ...]:
    """Return the settings to try where batch norm's tensors stay at the sites; none for a study without such rows."""
    asked = "local" in study.methods.sequential.batch_norm and study.model.has_batch_norm
    return tuple(replace(setting, local=True) for setting in settings_of(study)) if asked else ()


def along(study: Study, route: tuple[str, ...], fold: int, settings: Sequence[Setting] | None = None) -> Node:
    """Return the last training of a route; of several settings, the best at the target by validation Dice.

    Where the route's source is the best of the source's folds, it is the best among those of the same setting. A route
    with two visits to a site keeps to the same fold: weights of another fold were trained on this fold's validation
    patients.

    Args:
        study: the study.
        route: the sites, in the order in which they train.
        fold: the fold of the last training.
        settings: the settings to try; by default, the study's.
    """
    same_fold = study.split.source == "same-fold" or len(set(route)) < len(route)
    folds = None if same_fold else study.split.run
    parts = schedules(study, [study.training.epochs] * len(route))
    tried = (settings_of(study) if settings is None else settings) if len(route) > 1 else (Setting(),)
    return best_of(tuple(_last_of(route, fold, folds, parts, setting) for setting in tried), route[-1])


@lru_cache(maxsize=2**15)  # a hundred sites try ten thousand routes, and plan again after every selected hop
def _last_of(
    route: tuple[str, ...], fold: int, folds: range | None, parts: tuple[Schedule, ...], setting: Setting
) -> FineTune:
    """Return the last stage of a route.

    Args:
        route: the sites, in the order in which they train.
        fold: the fold of the last stage.
        folds: the candidate folds of the source, among which the best is selected; None: the source's same fold.
        parts: the schedule of every stage.
        setting: the settings of the stages.
    """
    if len(route) == 1:
        return setting.begin(route[0], fold, parts[0])
    if folds is None:
        return setting.train(route[-1], fold, _last_of(route[:-1], fold, None, parts[:-1], setting), parts[-1])
    sources = tuple(_last_of(route[:-1], source_fold, folds, parts[:-1], setting) for source_fold in folds)
    return setting.train(route[-1], fold, best_of(sources, route[-2]), parts[-1])


def then_at(study: Study, target: str, model: Node) -> Node:
    """Return the fine-tuning at a target of weights partly trained by the target; of several settings, the best.

    The fold of the fine-tuning is always the fold of the weights: weights of another fold were trained on this fold's
    validation patients.
    """
    schedule = whole_cosine(study.training.epochs, study.training.keep)
    made = (setting.train(target, fold_of(model), model, schedule) for setting in settings_of(study))
    return best_of(tuple(made), target)


def re_estimated_at(target: str, model: Node) -> FineTune:
    """Return the estimate of weights' batch-norm statistics on a target's training slices, of the weights' fold.

    An average of several sites' means and variances lacks the variance between the sites, and is no site's statistics.
    """
    return FineTune(target, fold_of(model), model, Schedule(total_epochs=0, first=0, last=0, keep="last"))


def routes_to(study: Study, target: str) -> list[tuple[str, ...]]:
    """Return the routes of at least one hop to a target, shortest first, in the study's order of sites.

    The list is empty where routes are found only while the study runs.
    """
    part = study.methods.sequential
    if part.routes == "all":
        return list(every_route(study, target))
    if isinstance(part.routes, str):
        return []
    return sorted(dict.fromkeys(route for route in part.routes if route[-1] == target), key=len)


def every_route(study: Study, target: str) -> tuple[Route, ...]:
    """Return all routes to a target without repetition, shortest first, in the study's order of sites."""
    others = [site for site in study.sites if site != target]
    hops = range(1, most_hops(study) + 1)
    return tuple((*sources, target) for n in hops for sources in itertools.permutations(others, n))


def returns_to_hops(study: Study) -> bool:
    """Return whether a route that a search has found is gone along again: scored after every hop, or with a brake."""
    methods = study.methods
    return (methods.forgetting and methods.scored_on == "test") or bool(methods.lwf.weight or methods.l2_sp.weight)


def most_hops(study: Study) -> int:
    """Return the number of hops of the longest route without repetition."""
    return min(study.methods.sequential.max_hops, len(study.sites) - 1)

"""How long a stage computes at its site, from the seconds of a gradient step and of a prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from client.data.survey import Survey
from common.config.study import Study
from common.config.values import POOLED
from common.plan import Census
from common.plan.cost import planned_steps
from common.plan.graph import Evaluate, FineTune, models_in, validation_folds
from deploy.planning.trial import Speed

STAGE_SECONDS = 1.5
"""Seconds of a stage besides its network: for starting a process, reading slices and carrying weights."""


def durations(
    study: Study,
    census: Census,
    surveys: Mapping[str, Survey],
    speed_of: Callable[[str], Speed],
    *,
    beside: float = STAGE_SECONDS,
) -> Callable[[FineTune | Evaluate], float]:
    """Return a function that gives the seconds for which a stage computes.

    Args:
        study: a plain study.
        census: the training slices of each site in each fold.
        surveys: what is counted of sites on this machine; elsewhere the held-out slices follow from the study's split.
        speed_of: returns the seconds of a step and of a prediction at a site.
        beside: seconds of a stage besides its network.
    """
    steps = planned_steps(study, census)
    part = study.split

    def held_out(site: str, fold: int, split: str) -> float:
        """Return the number of slices on which a network is scored."""
        names = study.sites if site == POOLED else (site,)
        if all(name in surveys for name in names):
            return sum(
                surveys[name].test_slices if split == "test" else surveys[name].validation_slices[fold]
                for name in names
            )
        train = census[site][fold] / ((1 - part.test_fraction) * (1 - 1 / part.folds))
        return train * (part.test_fraction if split == "test" else (1 - part.test_fraction) / part.folds)

    def seconds(node: FineTune | Evaluate) -> float:
        speed = speed_of(node.site)
        if isinstance(node, Evaluate):
            folds = validation_folds(node) if node.split == "validation" else (node.fold,)
            # Of an ensemble of folds, each member segments the patients of its own fold alone.
            models = models_in(node.weights) if len(folds) == 1 else 1
            slices = models * sum(held_out(node.site, fold, node.split) for fold in folds)
            return beside + 3 * slices * speed.predict
        validated = (node.schedule.epochs + 3) * held_out(node.site, node.fold, "validation")
        shown = validated if node.trains else validated + census[node.site][node.fold]
        if node.hop and node.hop.distillation:  # the teacher answers every slice as well
            shown += node.schedule.epochs * census[node.site][node.fold]
        return beside + steps(node) * speed.step + shown * speed.predict

    return seconds

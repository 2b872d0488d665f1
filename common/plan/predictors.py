"""Free predictors of a route: the Dice that its model has at the target before the target trains, at no gradient step.

The model is scored on the target's validation patients as it arrives, and again with batch norm's statistics estimated
on the target's training slices. If the order of such scores is the order of the finished routes, sources can be chosen
without training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.plan.graph import Best, Evaluate, FineTune, Node, Schedule
from common.plan.values import Candidate, Predicted


def predicted(epochs: int, candidates: Iterable[Candidate]) -> Iterator[Predicted]:
    """Yield routes with the scorings of their models on arrival at the target.

    Args:
        epochs: the epochs of every stage of the routes.
        candidates: the routes, with their last trainings.
    """
    for candidate in candidates:
        last = [_training(model) for model in candidate.models]
        yield Predicted(
            route=candidate.route,
            epochs=epochs,
            models=candidate.models,
            unadapted=tuple(Evaluate(node.site, node.fold, "validation", node.parent) for node in last),
            re_estimated=tuple(FineTune(node.site, node.fold, node.parent, Schedule(0, 0, 0, "last")) for node in last),
        )


def _training(model: Node) -> FineTune:
    """Return the last training of a route; of a choice among several settings of it, the first."""
    while isinstance(model, Best):
        model = model.candidates[0]
    assert isinstance(model, FineTune)
    return model

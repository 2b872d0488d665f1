"""The inputs of a plan and the values in a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from common.config.methods import Budget, FederatedConfig
from common.config.study import Study
from common.plan.graph import Best, Evaluate, FineTune, Node, ballot

Census = Mapping[str, tuple[int, ...]]
"""For each site the number of selected training slices, a number for each fold."""
Route = tuple[str, ...]
"""The sites of a route, in the order of travel; the last one is the target."""
Selected = tuple[str, ...]
"""What a search has decided for a target so far; only ever extended. `common.plan.greedy` and `common.plan.halving` say
what the entries are."""
Choices = Mapping[str, Selected]
"""Where routes are found while the study runs: what is decided so far, by target. For a missing target nothing is."""


@dataclass(frozen=True)
class Budgets:
    """The lengths of the methods that are as long as the longest route."""

    rounds: Callable[[Study, FederatedConfig, int, Budget, Census], int]
    """Returns the number of rounds of a federated method, from the study, the method's settings, its local epochs, what
    the rounds have in common with the longest route, and the census."""
    lap_epochs: Callable[[Study, str, int, Census], int]
    """Returns the epochs at each site over all laps to a target, from the study, the target, the fold and the
    census."""


@dataclass(frozen=True)
class PlannedRow:
    """A row of the comparison: the weights of a method, for a target and fold."""

    method: str
    """A key of `common.plan.methods`."""
    route: tuple[str, ...]
    """The sites in the order of their trainings; for a federated method, in the study's order."""
    target: str
    fold: int
    model: Node
    """The node that makes the weights."""
    validation: Node
    """The node whose validation Dice decides the selection of the fold: a FineTune at the target, the best of several,
    or an Evaluate on the target's validation patients. Of a model for an unseen site, the choice by the other sites."""
    test: Evaluate | None
    """The scoring on the target's test patients; None for a study without test scores."""
    share: float | None = None
    """The share of the target's training patients that the model has; None: all of them."""


def row_of(
    study: Study,
    method: str,
    route: tuple[str, ...],
    target: str,
    fold: int,
    model: Node,
    *,
    share: float | None = None,
) -> PlannedRow:
    """Return the row of a model, with the scorings required by the study.

    A choice among models that the target has made and scored has the score of the model chosen: no further is needed.
    """
    made_there = isinstance(model, Best) and model.ballots == tuple((candidate,) for candidate in model.candidates)
    return PlannedRow(
        method=method,
        route=route,
        target=target,
        fold=fold,
        model=model,
        validation=model if made_there else ballot(model, target, fold),
        test=Evaluate(target, fold, "test", model) if study.methods.scored_on == "test" else None,
        share=share,
    )


@dataclass(frozen=True)
class Step:
    """Routes to a target that are compared with each other while the study runs."""

    epochs: int
    """The epochs of every stage of these routes."""
    routes: tuple[Route, ...]
    decided: tuple[Route, ...] | None
    """The routes that go on, or that are left at the end; None until the step is decided."""


@dataclass(frozen=True)
class Candidate:
    """A candidate route in the next step of a target's search."""

    route: tuple[str, ...]
    models: tuple[Node, ...]
    """For each fold, the last training of the route, which is at the target; of several settings, the best."""
    final: bool = True
    """Whether these models are the rows' if the route is left; a rung of halving but the last has other epochs."""


@dataclass(frozen=True)
class Predicted:
    """A route with the scores of its model at the target before the target trains; see `common.plan.predictors`."""

    route: Route
    epochs: int
    """The epochs of every stage of the route."""
    models: tuple[Node, ...]
    """For each fold, the last training of the route."""
    unadapted: tuple[Evaluate, ...]
    """For each fold, the scoring of the model as it arrives, on the target's validation patients."""
    re_estimated: tuple[FineTune, ...]
    """For each fold, the estimate of batch norm's statistics at the target, which scores the model on the same."""


@dataclass(frozen=True)
class Plan:
    """The rows of a study, and all nodes behind the rows, parents first."""

    rows: tuple[PlannedRow, ...]
    nodes: tuple[Node, ...]
    tried: tuple[Node, ...] = ()
    """Where routes are found while the study runs: the last stage of every route that was or will be tried; of several
    settings, the best."""
    growing: Mapping[str, tuple[Candidate, ...]] = field(default_factory=dict)
    """For each target whose route is not found yet, the candidates of its next step, in order."""
    predicted: tuple[Predicted, ...] = ()
    """Where the study asks for predictors, the routes compared, each once."""

    @cached_property
    def by_id(self) -> dict[str, Node]:
        """The nodes by their identity."""
        return {node.id: node for node in self.nodes}

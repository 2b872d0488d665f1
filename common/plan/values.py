"""What a plan is made from and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from common.config.study import FederatedConfig, Study
from common.plan.graph import Evaluate, FineTune, Node, ballot

Census = Mapping[str, tuple[int, ...]]
"""For each site the number of chosen training slices, one a fold."""
Choices = Mapping[str, tuple[str, ...]]
"""Where routes grow: for each target the sources chosen so far, in the order of travel; the target itself at the
end says that its route is complete. A target that is not named has no source yet."""

Rounds = Callable[[Study, FederatedConfig, int, Census], int]
"""How many rounds a federated method has, from its local epochs and the census."""


@dataclass(frozen=True)
class PlannedRow:
    """A figure of the comparison: one method's weights, for one target and fold."""

    method: str
    """A key of `common.plan.methods`."""
    route: tuple[str, ...]
    """The sites in the order in which they train; those of a federated method in the study's order."""
    target: str
    fold: int
    model: Node
    validation: Node
    """What the fold is chosen by: a FineTune at the target, or an Evaluate on its validation patients."""
    test: Evaluate | None
    """None where the study looks at no test patient."""


def row_of(study: Study, method: str, route: tuple[str, ...], target: str, fold: int, model: Node) -> PlannedRow:
    """Return the row of a model, scored as the study says."""
    return PlannedRow(
        method=method,
        route=route,
        target=target,
        fold=fold,
        model=model,
        validation=ballot(model, target, fold),
        test=Evaluate(target, fold, "test", model) if study.methods.scored_on == "test" else None,
    )


@dataclass(frozen=True)
class Candidate:
    """A route that a target's next hop may be chosen from."""

    route: tuple[str, ...]
    models: tuple[FineTune, ...]
    """One a fold: trained at the target last."""


@dataclass(frozen=True)
class Plan:
    """The rows asked for, and every node that is to be worked out, parents first."""

    rows: tuple[PlannedRow, ...]
    nodes: tuple[Node, ...]
    tried: tuple[FineTune, ...] = ()
    """Where routes grow: the last stage of every route that was or is to be tried."""
    growing: Mapping[str, tuple[Candidate, ...]] = field(default_factory=dict)
    """By target, what its next hop is to be chosen from; the route so far, if there is one, first."""

    @cached_property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

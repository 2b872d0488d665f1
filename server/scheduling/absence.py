"""Rules for the stages of a site that is away: how long they wait, and which may be skipped.

A stage may belong to rows of several methods. It waits as long as the most patient of them, and may be skipped if one
of them goes on without a site. After a skipped stage, only the descendants that such a method needs are run.
"""

from __future__ import annotations

from typing import Protocol

from common.config.study import AbsenceRule, Study
from common.plan import GROWING, Plan, PlannedRow, absence_rule, method_of
from common.plan.cost import all_behind, behind
from common.plan.graph import Best, FineTune, Node

LEFT_OUT = "it was away, and the study went on without it"
"""The reason in the results for a stage that was skipped."""


class RunView(Protocol):
    """The part of a run that this module reads."""

    skipped: set[Node]
    """Stages that the study went on without."""

    def winner(self, node: Best) -> Node:
        """Return the candidate that a `Best` chose."""
        ...


class Absences:
    """The rules for a plan's nodes."""

    def __init__(self, study: Study, plan: Plan) -> None:
        """Collect the rules of all rows for each node.

        Args:
            study: the study, with its `absence` settings.
            plan: the study's plan.
        """
        self.general = 3600 * study.absence.wait_hours
        """Seconds to wait for a site in matters that concern no stage."""
        self._hours: dict[Node, float] = {}
        self._cuttable: set[Node] = set()
        """Nodes of rows that may do without a site."""
        self._skippable: set[Node] = set()
        wanted: list[tuple[AbsenceRule, Node | None, list[Node]]] = [
            (absence_rule(study, method_of(row.method)), row.model, all_behind([row.test or row.model, row.validation]))
            for row in plan.rows
        ]
        wanted.append((absence_rule(study, GROWING), None, all_behind(plan.tried)))
        for rule, model, nodes in wanted:
            for node in nodes:
                self._hours[node] = max(self._hours.get(node, 0.0), rule.wait_hours)
            if rule.then == "skip":
                self._cuttable.update(nodes)
                # The target's own training at the end of a route is the row itself, and is never skipped.
                self._skippable.update(node for node in nodes if isinstance(node, FineTune) and node != model)

    def patience(self, node: Node) -> float:
        """Return the seconds that a stage waits for its site."""
        return 3600 * self._hours[node] if node in self._hours else self.general

    def may_skip(self, node: Node) -> bool:
        """Return whether the study may go on without a stage."""
        return node in self._skippable

    def may_use_cut(self, node: Node) -> bool:
        """Return whether a row needs a node even after one of its ancestors was skipped."""
        return node in self._cuttable


def absent_from(model: Node, skipped: set[Node]) -> tuple[str, ...]:
    """Return the sites that should have trained for some weights, but were skipped.

    A skipped training counts wherever it stands: on the weights' route, in one of their rounds, or among the candidates
    of a choice.
    """
    if not skipped:
        return ()
    return tuple(sorted({node.site for node in all_behind([model]) if isinstance(node, FineTune) and node in skipped}))


def absence_text(absent: tuple[str, ...]) -> str:
    """Return the reason why a result without some sites is not counted."""
    return "; ".join(f"site {site}: {LEFT_OUT}" for site in absent)


def trained_for(model: Node, run: RunView) -> list[FineTune]:
    """Return the trainings that some weights really went through, without skipped ones."""
    return [node for node in behind(model, run.winner) if isinstance(node, FineTune) and node not in run.skipped]


def why_not_counted(row: PlannedRow, study: Study, run: RunView) -> str:
    """Return why a finished row is not part of the comparison; empty if it is part of it."""
    absent = absent_from(row.model, run.skipped)
    if not absent:
        return ""
    named = absence_text(absent)
    method = method_of(row.method)
    if row.model in run.skipped or absence_rule(study, method).then == "park":
        return named
    if method.travelling and {node.site for node in trained_for(row.model, run)} <= {row.target}:
        return f"{named}; nothing is left of the route"
    return ""

"""What becomes of the stages of a site that is away: how long they wait, and which may be left out.

A stage may stand on the ways of several methods. It waits as long as the most patient of them, and is left out if
one of them goes on without a site. Of what descends from it, only that is worked out which such a method needs.
"""

from __future__ import annotations

from typing import Protocol

from common.config.study import AbsenceRule, Study
from common.plan import GROWING, Plan, PlannedRow, absence_rule, method_of
from common.plan.cost import all_behind, behind
from common.plan.graph import Best, FineTune, Node

LEFT_OUT = "it was away, and the study went on without it"


class RunView(Protocol):
    """What of a run is looked at here."""

    skipped: set[Node]

    def winner(self, node: Best) -> Node: ...


class Absences:
    """The rules of a plan's nodes."""

    def __init__(self, study: Study, plan: Plan) -> None:
        self.general = 3600 * study.absence.wait_hours
        """Seconds that a site is waited for where it is about no stage."""
        self._hours: dict[Node, float] = {}
        self._cuttable: set[Node] = set()
        """What is needed by a row that may do without a site."""
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
                # The target's own training at the end of a route is what the row is about.
                self._skippable.update(node for node in nodes if isinstance(node, FineTune) and node != model)

    def patience(self, node: Node) -> float:
        """Seconds that a stage waits for its site."""
        return 3600 * self._hours[node] if node in self._hours else self.general

    def may_skip(self, node: Node) -> bool:
        """Whether the study may go on without a stage."""
        return node in self._skippable

    def may_use_cut(self, node: Node) -> bool:
        """Whether anything needs a node though a stage before it was skipped."""
        return node in self._cuttable


def absent_from(model: Node, skipped: set[Node]) -> tuple[str, ...]:
    """Return the sites that weights should have had and did without: on their way, in their rounds, or in what was chosen
    from.
    """
    if not skipped:
        return ()
    return tuple(sorted({node.site for node in all_behind([model]) if isinstance(node, FineTune) and node in skipped}))


def absence_text(absent: tuple[str, ...]) -> str:
    """Why something is not counted, in plain words."""
    return "; ".join(f"site {site}: {LEFT_OUT}" for site in absent)


def trained_for(model: Node, run: RunView) -> list[FineTune]:
    """Return the trainings that weights have really gone through."""
    return [node for node in behind(model, run.winner) if isinstance(node, FineTune) and node not in run.skipped]


def why_not_counted(row: PlannedRow, study: Study, run: RunView) -> str:
    """Why a row that is worked out to the end is none of the comparison; empty if it is one."""
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

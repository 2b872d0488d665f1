"""Rules for the stages of an absent site: how long a stage waits, and which stages may be skipped.

A stage may belong to rows of several methods. The stage waits for the longest of their waiting times, and may be
skipped if any of these methods goes on without a site. After a skipped stage, only the descendants needed by such a
method are run.
"""

from __future__ import annotations

from typing import Protocol

from common.config.methods import AbsenceRule
from common.config.study import Study
from common.plan import Plan, PlannedRow, absence_rule, method_of, route_method
from common.plan.cost import all_behind, behind
from common.plan.graph import Best, FineTune, Node

LEFT_OUT = "it was away, and the study went on without it"
"""The reason of a skipped stage in the results."""


class RunView(Protocol):
    """The part of a run read by this module."""

    skipped: set[Node]
    """Skipped stages."""

    def winner(self, node: Best) -> Node:
        """Return the candidate chosen by a `Best`."""
        ...


def _needs_its_site(node: FineTune) -> bool:
    """Return whether nothing could take a training's place: a site's own tensors come from no other site.

    A personal model is the row itself, and the tensors that stay at a site begin with its first training.
    """
    return node.stays == "everything" or (node.stays != "" and node.before is None)


class Absences:
    """The rules for a plan's nodes."""

    def __init__(self, study: Study, plan: Plan) -> None:
        """Collect the rules of all rows for each node.

        Args:
            study: the study, with its `absence` settings.
            plan: the study's plan.
        """
        self.general = 3600 * study.absence.wait_hours
        """Seconds to wait for a site if no stage is concerned."""
        self._hours: dict[Node, float] = {}
        self._cuttable: set[Node] = set()
        """Nodes of rows whose method goes on without a site."""
        self._skippable: set[Node] = set()
        wanted: list[tuple[AbsenceRule, Node | None, list[Node]]] = [
            (absence_rule(study, method_of(row.method)), row.model, all_behind([row.test or row.model, row.validation]))
            for row in plan.rows
        ]
        scored = [node for one in plan.predicted for node in (*one.unadapted, *one.re_estimated)]
        wanted.append((absence_rule(study, route_method(study)), None, all_behind([*plan.tried, *scored])))
        for rule, model, nodes in wanted:
            for node in nodes:
                self._hours[node] = max(self._hours.get(node, 0.0), rule.wait_hours)
            if rule.then == "skip":
                self._cuttable.update(nodes)
                # The target's own training at the end of a route is the row itself, and is never skipped; nor are
                # the trainings of which one is the row, and the re-estimates of averages at the target.
                ends = model.candidates if isinstance(model, Best) else (model,)
                trainings = (node for node in nodes if isinstance(node, FineTune) and node.trains)
                self._skippable.update(node for node in trainings if node not in ends and not _needs_its_site(node))

    def patience(self, node: Node) -> float:
        """Return the seconds for which a stage waits for its site."""
        return 3600 * self._hours[node] if node in self._hours else self.general

    def may_skip(self, node: Node) -> bool:
        """Return whether the study may go on without a stage."""
        return node in self._skippable

    def may_use_cut(self, node: Node) -> bool:
        """Return whether a row needs a node even after an ancestor was skipped."""
        return node in self._cuttable


def absent_from(model: Node, skipped: set[Node]) -> tuple[str, ...]:
    """Return the sites whose training for some weights was skipped.

    Skipped trainings count everywhere: on the weights' route, in any of their rounds, and among the candidates of a
    choice.
    """
    if not skipped:
        return ()
    return tuple(sorted({node.site for node in all_behind([model]) if isinstance(node, FineTune) and node in skipped}))


def absence_text(absent: tuple[str, ...]) -> str:
    """Return why a result without some sites is not counted."""
    return "; ".join(f"site {site}: {LEFT_OUT}" for site in absent)


def trained_for(model: Node, run: RunView) -> list[FineTune]:
    """Return the trainings behind some weights, skipped trainings left out."""
    return [node for node in behind(model, run.winner) if isinstance(node, FineTune) and node not in run.skipped]


def why_not_counted(row: PlannedRow, study: Study, run: RunView) -> str:
    """Return why a finished row is left out of the comparison; empty for a row in the comparison."""
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

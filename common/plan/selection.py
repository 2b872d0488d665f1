"""Selection of a hospital's weights: the hospital's validation patients decide; test scores play no part.

The coordinator selects by this rule, and the site repeats the selection with its own scores.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.config.study import Study
from common.plan.methods import absence_rule, method_of
from common.plan.values import Plan, PlannedRow


def offered(plan: Plan, site: str) -> tuple[PlannedRow, ...]:
    """Return the rows whose weights a site may get: all rows of this target, in the plan's order.

    The plan's order goes from simple to elaborate methods. Rows of pooled data are left out: no hospital could have
    such weights without moving images.
    """
    return tuple(row for row in plan.rows if row.target == site and method_of(row.method).deliverable)


def may_be_left_out(study: Study, row: PlannedRow) -> bool:
    """Return whether a row may be missing from the selection because of an absent site.

    Only the approved study's rule for absent sites permits a missing row; otherwise a coordinator could leave out the
    better row.
    """
    return absence_rule(study, method_of(row.method)).then == "skip"


def select(validation_dices: Sequence[float]) -> int:
    """Return the index of the row with the best validation Dice at the site, the first (simplest) among equals."""
    return max(range(len(validation_dices)), key=validation_dices.__getitem__)


def own(rows: Sequence[PlannedRow], validation_dices: Sequence[float]) -> int | None:
    """Return the index of the best row among models of the site alone; None if the study has no such models."""
    places = [place for place, row in enumerate(rows) if method_of(row.method).alone]
    return max(places, key=validation_dices.__getitem__, default=None)

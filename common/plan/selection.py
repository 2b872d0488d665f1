"""Which weights a hospital gets out of a study. Its validation patients choose; no test patient is looked at.

The coordinator chooses by this rule, and the site chooses once more, by the scores that it worked out itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.config.study import Study
from common.plan.methods import absence_rule, method_of
from common.plan.values import Plan, PlannedRow


def offered(plan: Plan, site: str) -> tuple[PlannedRow, ...]:
    """Return the rows whose weights a site may be given: all at this target, in the plan's order, the simple before the
    elaborate; but none of all data in one place, which no hospital could have without moving images.
    """
    return tuple(row for row in plan.rows if row.target == site and method_of(row.method).deliverable)


def may_be_left_out(study: Study, row: PlannedRow) -> bool:
    """Whether a row need not be among those chosen from, where a site that it needs was away: only if the study, as it
    was approved, goes on without it. Nobody else may leave out the better one.
    """
    return absence_rule(study, method_of(row.method)).then == "skip"


def chosen(validation_dices: Sequence[float]) -> int:
    """Return the place of the row with the best validation Dice at the site; the first, simplest one among equals."""
    return max(range(len(validation_dices)), key=validation_dices.__getitem__)


def own(rows: Sequence[PlannedRow], validation_dices: Sequence[float]) -> int | None:
    """Return the same among the models of the site alone; None where the study trains none."""
    places = [place for place, row in enumerate(rows) if method_of(row.method).alone]
    return max(places, key=validation_dices.__getitem__, default=None)

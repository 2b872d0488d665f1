"""Selection of a hospital's weights: the hospital's validation patients decide; test scores play no part.

The coordinator selects by this rule, and the site repeats the selection with its own scores.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from common.config.study import Study
from common.plan.methods import method_of
from common.plan.values import Plan, PlannedRow

Group = tuple[str, tuple[str, ...], str, float | None]
"""What all folds of a row have in common: method, route, target, and the share of the target's patients."""


def offered(plan: Plan, site: str) -> tuple[PlannedRow, ...]:
    """Return the rows whose weights a site may get: all rows of this target, in the plan's order.

    The plan's order goes from simple to elaborate methods. Rows of pooled data are left out: no hospital could have
    such weights without moving images.
    """
    return tuple(row for row in plan.rows if row.target == site and method_of(row.method).deliverable)


def may_be_left_out(study: Study, row: PlannedRow) -> bool:
    """Return whether a row may be missing from the selection because of an absent site.

    Only the approved study's rule for absent sites permits a missing row; otherwise a coordinator could leave out the
    better row. A method that cannot do without a site has no row then; the hospital gets the best of the other rows.
    """
    method = method_of(row.method)
    return study.absence.rule_of(method.absence or method.key).then == "skip"


def group_of(row: PlannedRow) -> Group:
    """Return the group of a row."""
    return row.method, row.route, row.target, row.share


def means(rows: Sequence[PlannedRow], validation_dices: Sequence[float]) -> dict[Group, float]:
    """Return the mean validation Dice over the folds of each method and route, in the order of the rows.

    Args:
        rows: the rows.
        validation_dices: the validation Dice of each row; a negative number for a row left out, which does not count.
    """
    groups: dict[Group, list[float]] = {}
    for row, dice in zip(rows, validation_dices, strict=True):
        if dice >= 0:
            groups.setdefault(group_of(row), []).append(dice)
    return {group: statistics.fmean(dices) for group, dices in groups.items()}


def select(rows: Sequence[PlannedRow], validation_dices: Sequence[float]) -> int | None:
    """Return the index of the selected row; None if all rows are left out.

    The method and route have the best validation Dice at the site in the mean over the folds, the first (simplest)
    among equals: the easiest fold must not choose the route. Of their folds, the fold's own validation Dice decides.

    Args:
        rows: the rows of a target.
        validation_dices: see `means`.
    """
    by_group = means(rows, validation_dices)
    if not by_group:
        return None
    best = max(by_group, key=by_group.__getitem__)
    places = [place for place, row in enumerate(rows) if group_of(row) == best and validation_dices[place] >= 0]
    return max(places, key=validation_dices.__getitem__)


def own(rows: Sequence[PlannedRow], validation_dices: Sequence[float]) -> int | None:
    """Return the index of the row selected among models of the site alone; None if there are no such models."""
    alone = [method_of(row.method).alone for row in rows]
    return select(rows, [dice if own else -1.0 for dice, own in zip(validation_dices, alone, strict=True)])

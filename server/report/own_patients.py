"""How many own patients a hop is worth: shares of a target's training patients, alone and after handing on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from common.text import between
from server.report.contrasts import differences, effect_of, not_compared
from server.report.table import routes_taken_by
from server.report.wording import figure, signed, targets
from server.results.schema import Results, Row


@dataclass(frozen=True)
class ShareLine:
    """A share of a target's training patients."""

    share: str
    patients: str
    """About so many training patients, over the folds; a dash where the site's are not known."""
    alone: str
    """The Dice of the target alone, per cent."""
    handed_on: str
    """The Dice of the route that validation chose among the routes of this share, per cent."""
    way: str
    gain: str
    interval: str
    """The 95 % interval of the gain; a dash where there is none."""


@dataclass(frozen=True)
class OwnPatients:
    """The table of a target."""

    target: str
    lines: tuple[ShareLine, ...]
    worth: str
    """The smallest share whose route is at least as good as the target alone with all its patients, in words."""


def own_patients(results: Results) -> list[OwnPatients]:
    """Return a table for each target with models of a share of its patients; none in a study without shares.

    Args:
        results: the results of a single network.
    """
    problems, found = dict(not_compared(results)), []
    for target in targets(results):
        rows = [row for row in (*results.rows, *results.chosen) if row.target == target and not row.absent]
        shares = sorted({row.share for row in rows if row.share is not None})
        if not shares or not results.tested or target in problems:
            continue
        pairs = {share: _pairs(results, rows, share) for share in (*shares, None)}
        lines = [_line(results, target, share, of_share) for share, of_share in pairs.items() if any(of_share)]
        found.append(OwnPatients(target, tuple(lines), _worth(results, pairs)))
    return found


def _pairs(results: Results, rows: Sequence[Row], share: float | None) -> tuple[list[Row], list[Row]]:
    """Return the rows of the target alone and of the selected route, a row for each repeat, with a share."""
    here = [row for row in rows if row.share == share and row.value(results.score) is not None]
    alone = [
        row
        for row in here
        if row.selected and (row.kind.baseline if share is None else not row.kind.of_share) and row.route
    ]
    routes: dict[tuple[int, int], Row] = {}
    for row in here:  # a row of one route in every rotation comes before the row over several routes
        if row.headline and (row.kind.routed or row.kind.of_share):
            routes.setdefault(row.repeat, row)
    return alone, list(routes.values())


def _mean(results: Results, rows: Sequence[Row]) -> float | None:
    known = [value for row in rows if (value := row.value(results.score)) is not None]
    return statistics.fmean(known) if known else None


def _line(results: Results, target: str, share: float | None, pair: tuple[list[Row], list[Row]]) -> ShareLine:
    alone, routes = pair
    own, handed_on = _mean(results, alone), _mean(results, routes)
    by_repeat = {row.repeat: row for row in alone}
    both = [(row, by_repeat[row.repeat]) for row in routes if row.repeat in by_repeat]
    gaps = differences(both, results.score) if both else None
    ends = effect_of({target: gaps}).ci95 if gaps else None
    trained = next((site.train_patients for site in results.sites if site.name == target), ())
    part = 1.0 if share is None else share
    return ShareLine(
        share=f"{100 * part:g} %",
        patients=between([max(1, math.floor(number * part + 0.5)) for number in trained]) if trained else "–",
        alone=figure(own),
        handed_on=figure(handed_on),
        way=routes_taken_by(routes) if routes else "–",
        gain="–" if own is None or handed_on is None else signed(handed_on - own),
        interval=f"{signed(ends[0])} to {signed(ends[1])}" if ends else "–",
    )


def _worth(results: Results, pairs: dict[float | None, tuple[list[Row], list[Row]]]) -> str:
    """Return how few own patients a route needs to reach the target alone with all its patients, in a sentence."""
    whole = _mean(results, pairs[None][0])
    reached = [
        share
        for share, (_, routes) in pairs.items()
        if share is not None and whole is not None and (_mean(results, routes) or -math.inf) >= whole
    ]
    if whole is None:
        return ""
    if not reached:
        return (
            f"With none of these shares does a route reach the target alone with all its patients ({figure(whole)} %)."
        )
    return (
        f"With {100 * min(reached):g} % of its own patients a route reaches the target alone with all of them"
        f" ({figure(whole)} %)."
    )

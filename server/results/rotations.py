"""Rows over all rotations of a study whose test rotates: a site's patients together, each tested once.

Every patient is scored by the models of the rotation that held the patient out. What validation chose (fold, epoch,
round, settings, clean-up, route, own model) was chosen within that rotation, and nothing is chosen here.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from common.scores import COUNTED, OF_ZONES, OVERLAPS, VALIDATED, ZONES_PATIENTS, Score
from common.statistics.intervals import case_interval
from server.results.schema import Row

WEIGHED = {score: "slices" if score.over == "slices" else "patients" for score in OVERLAPS} | {
    score: counted for counted, scores in COUNTED.items() for score in scores
}
"""For each score, the field with the number of slices or patients that it is a mean over."""

Cell = tuple[tuple[int, int], str, str, float | None]
"""Repeat, network, target, and the share of the target's patients."""


def pool(rows: Iterable[Row], *, rotations: int, score: Score) -> Iterator[Row]:
    """Yield a row over all rotations for each method, route and target, repeat and network, in the order of the rows.

    A row that is unfinished in a rotation is left out: the other rotations' patients are not the site's patients.

    Args:
        rows: the rows of single rotations.
        rotations: the number of rotations.
        score: the Dice by which the study selects, which has the interval.
    """
    groups: dict[tuple[Cell, str, tuple[str, ...]], list[Row]] = defaultdict(list)
    for row in rows:
        if row.selected:
            # A grown route may differ between rotations.
            groups[_cell(row), row.method, () if row.kind.grows else row.route].append(row)
    for group in groups.values():
        if len(group) == rotations:
            yield pooled(group, score=score)


def chosen(rows: Iterable[Row], *, rotations: int, score: Score) -> Iterator[Row]:
    """Yield for each target, repeat and network what validation chose in each rotation, over all rotations.

    First the route, and then the model among those of the target's patients alone, where there are several to choose
    from. Either may be another method in another rotation.

    Args:
        rows: the rows of single rotations.
        rotations: the number of rotations.
        score: the Dice by which the study selects.
    """
    cells: dict[Cell, list[Row]] = defaultdict(list)
    for row in rows:
        if row.selected:
            cells[_cell(row)].append(row)

    def validated(row: Row) -> float:
        value = row.value(score, tested=False)
        return -1.0 if value is None else value

    for cell in cells.values():
        routes = [row for row in cell if row.headline]
        if len(routes) == rotations and not routes[0].kind.grows:  # grown routes are pooled as a method
            yield pooled(routes, score=score)
        alone: dict[int | None, list[Row]] = defaultdict(list)
        for row in cell:
            if row.kind.alone and not row.absent:
                alone[row.rotation].append(row)
        if len(alone) == rotations and len({len(found) for found in alone.values()}) == 1 < len(
            next(iter(alone.values()))
        ):
            yield pooled([max(found, key=validated) for found in alone.values()], score=score)


def pooled(rows: Sequence[Row], *, score: Score) -> Row:
    """Return the row over all patients of several rotations.

    Args:
        rows: the selected row of each rotation, of the same target, repeat and network.
        score: the Dice by which the study selects.
    """
    first = min(rows, key=lambda row: row.rotation or 0)
    routes = Counter(row.label for row in rows)
    alike = len({row.route for row in rows}) == 1 and len({row.method for row in rows}) == 1
    zoned = ZONES_PATIENTS in first.model_fields_set
    measured = [score for score in WEIGHED if zoned or score not in OF_ZONES]
    counted = [name for name in COUNTED if zoned or name != ZONES_PATIENTS]
    values = {score.key: _mean(rows, score.key, WEIGHED[score]) for score in measured}
    validated = {f"validation_{score.key}": _mean(rows, f"validation_{score.key}", None) for score in VALIDATED}
    cases = {name: _united(rows, name) for name in ("case_dice", "case_dice_volume", "case_slices")}
    pool = first.model_copy(
        update={
            "rotation": None,
            "rotations": len(rows),
            "label": first.label if alike else ", ".join(f"{name} ({often})" for name, often in routes.most_common()),
            "route": first.route if alike else (),
            "fold": None,
            "headline": all(row.headline for row in rows),
            **values,
            **validated,
            **{
                name: _sum(rows, name)
                for name in (*counted, "false_slices", "empty_slices", "patients", "slices", "gradient_steps")
            },
            "below_floor": any(row.below_floor for row in rows),
            "bytes_moved": _sum(rows, "bytes_moved"),
            "cleaned": first.cleaned if len({row.cleaned for row in rows}) == 1 else None,
            **cases,
            "validation_case_dice": None,  # a patient validates in one rotation, and trains or is tested in another
            "validation_case_dice_volume": None,
            "validation_case_slices": None,
            "weights": "",
            "members": (),
            "contributed": _sites(rows, lambda row: row.contributed or ()),
            "absent": _sites(rows, lambda row: row.absent),
            "stage": None,
        }
    )
    return pool.model_copy(update={"ci95": _interval(pool, score)})


def _cell(row: Row) -> Cell:
    return row.repeat, row.model, row.target, row.share


def _mean(rows: Sequence[Row], name: str, weight: str | None) -> float | None:
    """Return the mean of a field over slices or patients, or over rotations where no weight is named."""
    pairs = [(getattr(row, name), 1 if weight is None else getattr(row, weight) or 0) for row in rows]
    known = [(value, number) for value, number in pairs if value is not None and number]
    return round(statistics.fmean(*zip(*known, strict=True)), 6) if known else None


def _sum(rows: Sequence[Row], name: str) -> int | None:
    known = [value for row in rows if (value := getattr(row, name)) is not None]
    return sum(known) if len(known) == len(rows) else None


def _united(rows: Sequence[Row], name: str) -> dict[str, float | None] | None:
    """Return the figures of all patients by case number; None where a rotation has no figures of single patients."""
    parts = [getattr(row, name) for row in rows]
    if any(part is None for part in parts):
        return None
    return {
        case: value
        for _, case, value in sorted((int(case), case, value) for part in parts for case, value in part.items())
    }


def _sites(rows: Sequence[Row], of: Callable[[Row], Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({site for row in rows for site in of(row)}))


def _interval(row: Row, score: Score) -> tuple[float, float] | None:
    cases = row.cases(score)
    if not cases or any(value is None for value, _ in cases.values()):
        return None
    found = case_interval(
        {case: value for case, (value, _) in cases.items() if value is not None},
        {case: weight for case, (_, weight) in cases.items()},
        within=(0.0, 100.0),
    )
    return None if found is None else (round(found[0], 6), round(found[1], 6))

"""The picture of every method's Dice with its interval over patients: where each dot and line goes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from server.report.results import Results, Row
from server.report.table import Comparison
from server.report.wording import figure, full_name
from server.statistics import enough_patients

TOP, STEP, BOTTOM = 12, 24, 34
PLOT, VALUES = 216, 136
"""Widths of the plot and of the figures beside it."""
LETTERS = 36
"""Longer labels are cut; the whole name stands in a tooltip."""
DEEP = 25.0
"""How far below the middle value the axis reaches, in points: one bad model must not squeeze the rest."""


@dataclass(frozen=True)
class Mark:
    """One method. x and y in the picture's units."""

    y: float
    label: str
    text: str
    x: float
    below: bool
    """The Dice lies left of the axis."""
    whisker: tuple[float, float] | None
    folds: tuple[float, ...]
    """The other folds' Dice."""
    headline: bool


@dataclass(frozen=True)
class Panel:
    """One target."""

    target: str
    left: float
    right: float
    width: float
    height: float
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    alone: float | None
    """x of the target's training alone."""
    note: str


def _why_none(rows: list[Row], target: str) -> str:
    """Why intervals are missing, if any is."""
    without = [row for row in rows if row.ci95 is None]
    if not without:
        return ""
    refused = [row for row in without if row.case_dice is None]
    whom = f"{target} shows no interval" if len(without) == len(rows) else f"{len(without)} rows show no interval"
    if refused:
        return f"{whom}: the hospital does not let the figures of single patients leave."
    if all(not enough_patients(row.patients or 0) for row in without):
        return f"{whom}: with fewer than four patients it would only be their range."
    return f"{whom}: none was computed."


def _axis(rows: list[Row]) -> tuple[float, float]:
    """The lower and upper end, in multiples of five; unadapted models, often far lower, do not set it."""
    adapted = [row for row in rows if row.method != "unadapted"]
    values = sorted(value for row in adapted for value in (row.dice, *(row.ci95 or ())) if value is not None)
    if not values:
        return 0.0, 100.0
    lowest = max(values[0], values[len(values) // 2] - DEEP)
    low = max(0.0, 5 * math.floor(lowest / 5))
    return low, min(100.0, max(5.0 * math.ceil(values[-1] / 5), low + 5))


def interval_panels(results: Results, table: Comparison) -> list[Panel]:
    """A panel a target, its marks in the table's order. All panels share one axis."""
    low, high = _axis([cell.row for cell in table.cells])
    longest = max((len(full_name(cell.row)) for cell in table.cells), default=0)
    left = max(168.0, 36 + 7.8 * min(longest, LETTERS))

    def x(value: float) -> float:
        return round(left + (min(max(value, low), high) - low) / (high - low) * PLOT, 1)

    step = 5 if high - low <= 30 else 10 if high - low <= 60 else 20
    ticks = tuple((x(value), str(value)) for value in range(math.ceil(low / step) * step, int(high) + 1, step))
    others: dict[tuple[str, tuple[str, ...], str], list[float]] = {}
    for row in results.rows:
        if not row.chosen and row.dice is not None and row.dice >= low:
            others.setdefault((row.method, row.route, row.target), []).append(row.dice)
    panels = []
    for column, target in enumerate(table.targets):
        rows = [cell.row for line in table.lines if (cell := line.cells[column]) and cell.row.dice is not None]
        marks = []
        for index, row in enumerate(rows):
            dice = row.dice or 0.0
            text = figure(dice)
            if row.ci95:
                text += f"  [{figure(row.ci95[0])}, {figure(row.ci95[1])}]"
            marks.append(
                Mark(
                    y=TOP + STEP * (index + 0.5),
                    label=full_name(row),
                    text=text,
                    x=x(dice),
                    below=dice < low,
                    whisker=(x(row.ci95[0]), x(row.ci95[1])) if row.ci95 else None,
                    folds=tuple(x(value) for value in others.get((row.method, row.route, row.target), ())),
                    headline=row.headline,
                )
            )
        alone = next((row.dice for row in rows if row.method == "baseline"), None)
        panels.append(
            Panel(
                target=target,
                left=left,
                right=left + PLOT,
                width=left + PLOT + VALUES,
                height=TOP + STEP * len(marks) + BOTTOM,
                marks=tuple(marks),
                ticks=ticks,
                alone=None if alone is None else x(alone),
                note=_why_none(rows, target),
            )
        )
    return panels

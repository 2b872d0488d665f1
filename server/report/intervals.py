"""The dot plot of every method's Dice with its interval over patients: positions of each dot and line."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.statistics.intervals import FEWEST
from server.report.contrasts import own_interval
from server.report.table import Cell, Comparison
from server.report.wording import figure, full_name
from server.results.schema import Results, Row

TOP, STEP, BOTTOM = 12, 24, 34
PLOT, VALUES = 216, 136
"""Widths of the plot and of the numbers beside it."""
LETTERS = 36
"""The most characters of a label; longer labels are cut, and the whole name stands in a tooltip."""
SELECTED = "route by validation"
DEEP = 25.0
"""The most Dice points of the axis below the median, so that a single bad model does not squeeze all other marks."""


@dataclass(frozen=True)
class Mark:
    """A method's mark; `x` and `y` are in the picture's units."""

    y: float
    label: str
    text: str
    x: float
    below: bool
    """Whether the Dice lies left of the axis."""
    whisker: tuple[float, float] | None
    """The positions of the interval's ends."""
    folds: tuple[float, ...]
    """Positions of the other folds' Dice; with several repeats, of every fold of each repeat."""
    headline: bool


@dataclass(frozen=True)
class Panel:
    """The plot of a target."""

    target: str
    left: float
    right: float
    width: float
    height: float
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    alone: float | None
    """Position of the target's training alone."""
    note: str
    """The reason for missing intervals; empty if no interval is missing."""


def _why_none(table: Comparison, cells: list[Cell], drawn: list[tuple[float, float] | None], target: str) -> str:
    """Return the reason for missing intervals; empty if no interval is missing."""
    without = [cell for cell, found in zip(cells, drawn, strict=True) if found is None]
    if not without:
        return ""
    whom = f"{target} shows no interval" if len(without) == len(cells) else f"{len(without)} rows show no interval"
    if not table.tested:
        return f"{whom}: validation patients chose epoch and fold, so an interval over them would be too good."
    if any(row.cases(table.score) is None for cell in without for row in cell.rows):
        return f"{whom}: the hospital does not let the figures of single patients leave."
    if all((cell.row.patients or 0) < FEWEST for cell in without):
        return f"{whom}: an interval needs {FEWEST} patients."
    return f"{whom}: none was computed."


def _axis(cells: list[Cell], drawn: list[tuple[float, float] | None]) -> tuple[float, float]:
    """Return the lower and upper end of the axis, in multiples of five per cent.

    Unadapted models, often far lower, do not set the axis.
    """
    values = sorted(
        value
        for cell, found in zip(cells, drawn, strict=True)
        if cell.row.kind.adapted
        for value in (cell.dice, *(found or ()))
        if value is not None
    )
    if not values:
        return 0.0, 100.0
    lowest = max(values[0], values[len(values) // 2] - DEEP)
    low = max(0.0, 5 * math.floor(lowest / 5))
    return low, min(100.0, max(5.0 * math.ceil(values[-1] / 5), low + 5))


def interval_panels(results: Results, table: Comparison) -> list[Panel]:
    """Return a panel for each target, with marks in the table's order; all panels share the same axis."""
    columns = [_named(table, column) for column in range(len(table.targets))]
    whiskers = [[own_interval(results, cell.rows) if table.tested else None for _, cell in cells] for cells in columns]
    everything = [cell for cells in columns for _, cell in cells]
    low, high = _axis(everything, [found for part in whiskers for found in part])
    longest = max((len(name) for cells in columns for name, _ in cells), default=0)
    left = max(168.0, 36 + 7.8 * min(longest, LETTERS))

    def x(value: float) -> float:
        return round(left + (min(max(value, low), high) - low) / (high - low) * PLOT, 1)

    step = 5 if high - low <= 30 else 10 if high - low <= 60 else 20
    ticks = tuple((x(value), str(value)) for value in range(math.ceil(low / step) * step, int(high) + 1, step))
    # With several repeats the dot is the mean over repeats, and selected folds are strokes like all other folds.
    others: dict[tuple[str, tuple[str, ...], str], list[float]] = {}
    for row in results.rows:
        dice = table.shown(row)
        if (table.repeats > 1 or not row.selected) and dice is not None and dice >= low:
            others.setdefault(_kind(row), []).append(dice)
    panels = []
    for target, cells, drawn in zip(table.targets, columns, whiskers, strict=True):
        marks = []
        for index, ((name, cell), found) in enumerate(zip(cells, drawn, strict=True)):
            dice = cell.dice or 0.0
            strokes = others.get(_kind(cell.row), ()) if name != SELECTED else cell.dices
            text = figure(dice)
            if found:
                text += f"  [{figure(found[0])}, {figure(found[1])}]"
            marks.append(
                Mark(
                    y=TOP + STEP * (index + 0.5),
                    label=name,
                    text=text,
                    x=x(dice),
                    below=dice < low,
                    whisker=(x(found[0]), x(found[1])) if found else None,
                    folds=tuple(x(value) for value in strokes),
                    headline=cell.headlines * 2 > table.repeats,
                )
            )
        alone = next((cell.dice for _, cell in cells if cell.row.kind.baseline), None)
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
                note=_why_none(table, [cell for _, cell in cells], drawn, target),
            )
        )
    return panels


def _kind(row: Row) -> tuple[str, tuple[str, ...], str]:
    """Return the properties common to a method's folds and repeats: method, route (unless grown) and target."""
    return row.method, () if row.kind.grows else row.route, row.target


def _named(table: Comparison, column: int) -> list[tuple[str, Cell]]:
    """Return the cells of a target with a Dice, and their names."""
    found = []
    for line in table.with_headline:
        cell = line.cells[column]
        if cell is not None and cell.dice is not None:
            # A growing route with different hops in different repeats has no single name.
            alike = len({row.route for row in cell.rows}) == 1
            name = full_name(cell.row) if alike else cell.row.kind.name((), cell.row.target)
            name = SELECTED if line is table.headline else name
            found.append((name, cell))
    return found

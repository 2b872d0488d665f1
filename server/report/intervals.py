"""The picture of every method's Dice with its interval over patients: where each dot and line goes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.statistics.intervals import FEWEST
from server.report.contrasts import own_interval
from server.report.table import Cell, Comparison, shown_dice
from server.report.wording import figure, full_name
from server.results.schema import Results, Row

TOP, STEP, BOTTOM = 12, 24, 34
PLOT, VALUES = 216, 136
"""Widths of the plot and of the figures beside it."""
LETTERS = 36
"""Longer labels are cut; the whole name stands in a tooltip."""
CHOSEN = "route chosen by validation"
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
    """The other folds' Dice, and with several repeats that of every fold of each."""
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


def _why_none(table: Comparison, cells: list[Cell], drawn: list[tuple[float, float] | None], target: str) -> str:
    """Why intervals are missing, if any is."""
    without = [cell for cell, found in zip(cells, drawn, strict=True) if found is None]
    if not without:
        return ""
    whom = f"{target} shows no interval" if len(without) == len(cells) else f"{len(without)} rows show no interval"
    if not table.tested:
        return f"{whom}: validation patients chose epoch and fold, so an interval over them would be too good."
    if any(row.case_dice is None for cell in without for row in cell.rows):
        return f"{whom}: the hospital does not let the figures of single patients leave."
    if all((cell.row.patients or 0) < FEWEST for cell in without):
        return f"{whom}: an interval needs {FEWEST} patients."
    return f"{whom}: none was computed."


def _axis(cells: list[Cell], drawn: list[tuple[float, float] | None]) -> tuple[float, float]:
    """Return the lower and upper end, in multiples of five; unadapted models, often far lower, do not set it."""
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
    """Return a panel a target, its marks in the table's order. All panels share one axis."""
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
    # with several repeats the dot is their mean, and the chosen folds are strokes like the others
    others: dict[tuple[str, tuple[str, ...], str], list[float]] = {}
    for row in results.rows:
        dice = shown_dice(row, table.tested)
        if (table.repeats > 1 or not row.selected) and dice is not None and dice >= low:
            others.setdefault(_kind(row), []).append(dice)
    panels = []
    for target, cells, drawn in zip(table.targets, columns, whiskers, strict=True):
        marks = []
        for index, ((name, cell), found) in enumerate(zip(cells, drawn, strict=True)):
            dice = cell.dice or 0.0
            strokes = others.get(_kind(cell.row), ()) if name != CHOSEN else cell.dices
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
    """Return what rows of several folds and repeats have in common."""
    return row.method, () if row.kind.grows else row.route, row.target


def _named(table: Comparison, column: int) -> list[tuple[str, Cell]]:
    """Return the cells of a target that have a figure, by name."""
    found = []
    for line in table.with_headline:
        cell = line.cells[column]
        if cell is not None and cell.dice is not None:
            # a route that grew otherwise in another repeat has no one name
            alike = len({row.route for row in cell.rows}) == 1
            name = full_name(cell.row) if alike else cell.row.kind.name((), cell.row.target)
            name = CHOSEN if line is table.headline else name
            found.append((name, cell))
    return found

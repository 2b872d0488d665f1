"""The charts of validation Dice against gradient steps and against bytes, with a line for each method."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from common.scores import Score
from common.text import short_bytes, whole
from server.report.curves import walk
from server.report.table import Comparison
from server.report.wording import figure, full_name
from server.results.schema import Results, Row, Stage

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 500.0, 300.0, 40.0, 488.0, 12.0, 252.0
BELOW = 8.0
"""Dice points of the axis below the lowest end of a line; lower values belong to first epochs."""

Points = list[tuple[float, float]]
"""Points of a line: cost and best Dice so far, in per cent."""


@dataclass(frozen=True)
class Track:
    """The best validation Dice so far of a method at the target, against the cost so far."""

    row: Row
    by_steps: Points
    by_bytes: Points

    @property
    def best(self) -> float:
        """The best validation Dice at the end."""
        return self.by_steps[-1][1]


@dataclass(frozen=True)
class DrawnLine:
    """A line of a chart, as an SVG path."""

    name: str
    style: str
    """A class of the style sheet; "s-other" is faint."""
    path: str
    end: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A chart with its axes."""

    title: str
    unit: str
    lines: tuple[DrawnLine, ...]
    """The lines, faint ones first, so that strong ones lie on top."""
    across: tuple[tuple[float, str], ...]
    """Position and label of each tick of the horizontal axis."""
    up: tuple[tuple[float, str], ...]
    """Position and label of each tick of the vertical axis."""


@dataclass(frozen=True)
class KeyEntry:
    """A strong line in the key beneath the charts."""

    name: str
    style: str
    headline: bool
    text: str


@dataclass(frozen=True)
class BudgetPicture:
    """The charts of a target."""

    target: str
    charts: tuple[Chart, ...]
    key: tuple[KeyEntry, ...]
    others: tuple[str, ...]
    """The names of the faint lines."""


def track(row: Row, stages: dict[str, Stage], score: Score) -> Track | None:
    """Return the track of a row along its chain of stages; None if nothing was scored at the target.

    A stage at another site adds cost and has no Dice at the target; a stage at the target has a Dice for each epoch; an
    average has one for each round, on the target's validation patients. Of a re-estimated average these are the scores
    of other models, and only the end counts. Weights cross the wire at the two ends of a
    stage, so against bytes a stage is one point. The model of all data is scored at the target only at its end.

    Args:
        row: the row.
        stages: the stages by their `id`.
        score: the Dice by which the study selects.
    """
    steps = moved = 0.0
    best = -math.inf
    by_steps: Points = []
    by_bytes: Points = []
    chain = walk(row.stage, stages)
    for place, stage in enumerate(chain, start=1):
        before = steps
        steps += stage.gradient_steps or 0
        moved += stage.bytes_moved or 0
        found = best
        if not stage.epochs:
            value = stage.validation.get(row.target)
            if chain[-1].kind == "re-estimate" and place < len(chain):
                continue
            if value is not None and value > found:
                found = value
                by_steps.append((steps, found))
        elif stage.site == row.target:
            for index, epoch in enumerate(stage.epochs, start=1):
                if epoch.dice is not None and epoch.dice > found:
                    found = epoch.dice
                    by_steps.append((before + (steps - before) * index / len(stage.epochs), found))
        if found > best:
            best = found
            by_bytes.append((moved, best))
    validated = row.value(score, tested=False)
    if not by_steps and validated is not None and steps:
        best = validated
        by_steps, by_bytes = [(steps, best)], [(moved, best)]
    if not by_steps:
        return None
    # the line continues to the end of its chain
    return Track(row, [*by_steps, (steps, best)], [*by_bytes, (moved, best)])


def budget_pictures(results: Results, table: Comparison) -> list[BudgetPicture]:
    """Return the charts of each target, for the first repeat."""
    stages = {stage.id: stage for stage in results.stages}
    pictures = []
    for column, target in enumerate(table.targets):
        rows = [cell.row for _, cell in table.column(column) if cell.row.kind.adapted]
        tracks = [found for row in rows if (found := track(row, stages, table.score))]
        if len(tracks) < 2 or not all(found.by_bytes[-1][0] > 0 for found in tracks):
            continue
        low = max(0.0, 5 * math.floor((min(found.best for found in tracks) - BELOW) / 5))
        high = min(100.0, 5 * math.ceil((max(found.best for found in tracks) + 0.5) / 5))
        tracks.sort(key=lambda found: (_style(found.row) != "s-other", found.row.headline))
        charts = (
            _chart(
                target,
                "gradient steps",
                [(f.row, f.by_steps) for f in tracks],
                (low, high),
                table.score,
                logarithmic=False,
            ),
            _chart(
                target, "bytes moved", [(f.row, f.by_bytes) for f in tracks], (low, high), table.score, logarithmic=True
            ),
        )
        strong = [found for found in tracks if _style(found.row) != "s-other"]
        pictures.append(
            BudgetPicture(
                target,
                charts,
                tuple(_entry(found) for found in sorted(strong, key=lambda found: -found.best)),
                tuple(full_name(found.row) for found in tracks if _style(found.row) == "s-other"),
            )
        )
    return pictures


def _style(row: Row) -> str:
    """Return the style of a row's line: the headline route and some methods are drawn strongly."""
    return "s-route" if row.headline else row.kind.style or "s-other"


def _entry(found: Track) -> KeyEntry:
    """Return the entry of the key for a track."""
    steps, moved = found.by_steps[-1][0], found.by_bytes[-1][0]
    text = f"{figure(found.best)} after {whole(steps)} steps, {short_bytes(moved)}"
    return KeyEntry(full_name(found.row), _style(found.row), found.row.headline, text)


def _chart(
    target: str,
    unit: str,
    tracks: list[tuple[Row, Points]],
    dice: tuple[float, float],
    score: Score,
    *,
    logarithmic: bool,
) -> Chart:
    low, high = dice
    spent = [x for _, points in tracks for x, _ in points]
    first, last = min(spent), max(spent)
    left = math.log10(first / 1.3) if logarithmic else 0.0
    right = math.log10(last * 1.1) if logarithmic else last * 1.02

    def x(value: float) -> float:
        place = math.log10(value) if logarithmic else value
        return round(LEFT + (place - left) / (right - left) * (RIGHT - LEFT), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP), 1)

    lines = []
    for row, points in tracks:
        corners = [f"M{x(points[0][0]):g},{y(points[0][1]):g}"]
        for across, up in points[1:]:
            corners.append(f"H{x(across):g}V{y(up):g}")
        lines.append(DrawnLine(full_name(row), _style(row), "".join(corners), (x(points[-1][0]), y(points[-1][1]))))
    ticks = _log_ticks(10**left, 10**right) if logarithmic else _ticks(last)
    step = 5 if high - low <= 30 else 10
    return Chart(
        title=f"Validation {score.title} at {target} against {unit}",
        unit=unit,
        lines=tuple(lines),
        across=tuple((x(value), short_bytes(value) if logarithmic else whole(value)) for value in ticks),
        up=tuple((y(value), f"{value:g}") for value in range(int(low), int(high) + 1, step)),
    )


def _ticks(last: float) -> list[float]:
    """Return four to eight round numbers from 0."""
    step = 10 ** math.floor(math.log10(max(last, 1) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if last / (step * factor) <= 7)
    return [step * index for index in range(int(last / step) + 1)]


def _log_ticks(first: float, last: float) -> Iterable[float]:
    """Return ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, or powers alone if these are many."""
    powers = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [value for power in powers for factor in factors if first <= (value := factor * 10.0**power) <= last]

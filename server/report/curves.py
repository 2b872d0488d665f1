"""Learning curves, laid out along the routes: each stage goes on where the one before it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from server.report.results import Epoch, Results, Row, Stage
from server.report.table import Comparison
from server.report.wording import full_name, sources

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 250.0, 162.0, 30.0, 244.0, 36.0, 140.0


@dataclass(frozen=True)
class Curve:
    site: str
    points: str
    """For an SVG polyline."""
    chosen: bool
    dot: tuple[float, float] | None
    """A stage of one epoch has no line."""


@dataclass(frozen=True)
class Leg:
    """One stage's share of the axis."""

    left: float
    right: float
    site: str
    last: str
    """The number of epochs trained at its end, all stages together."""


@dataclass(frozen=True)
class CurvePanel:
    key: str
    title: str
    legs: tuple[Leg, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class CurveRow:
    """All panels of one target. They share both axes."""

    target: str
    panels: tuple[CurvePanel, ...]


def _values(stage: Stage) -> list[float | None]:
    return [epoch.dice for epoch in stage.epochs]


def _joined(rounds: list[Stage]) -> list[Stage]:
    """Averages, which train nothing and have a score a round, as one stage with a point a round."""
    epochs = tuple(Epoch(epoch=number, dice=stage.validation_dice) for number, stage in enumerate(rounds, start=1))
    return [Stage(id=rounds[-1].id, epochs=epochs)] if any(epoch.dice is not None for epoch in epochs) else []


def _chain(stage: str | None, stages: dict[str, Stage]) -> list[Stage]:
    """A stage and those it grew from, first one first; those without any score are passed over."""
    walk: list[Stage] = []
    seen: set[str] = set()
    while stage is not None and stage in stages and stage not in seen:
        seen.add(stage)
        walk.append(stages[stage])
        stage = stages[stage].parent
    chain: list[Stage] = []
    for trained, group in groupby(reversed(walk), key=lambda stage: bool(stage.epochs)):
        run = list(group)
        chain += run if trained else _joined(run)
    return chain


def lowest_shown(stages: Iterable[Stage]) -> int:
    """The lower end of the Dice axis: a stage's first epochs may lie far below all that matters."""
    values = sorted(value for stage in stages for value in _values(stage) if value is not None)
    return min(80, int(values[len(values) // 10] // 10) * 10) if values else 0


def _same(row: Row, other: Row) -> bool:
    return (row.method, row.target, sources(row)) == (other.method, other.target, sources(other))


def _panel(key: str, chosen: Row, chains: list[tuple[Row, list[Stage]]], total: int, low: int) -> CurvePanel:
    lengths = [
        max(len(_values(chain[depth])) for _, chain in chains if depth < len(chain))
        for depth in range(max(len(chain) for _, chain in chains))
    ]
    scale = (RIGHT - LEFT) / total
    main = next((chain for row, chain in chains if row.chosen), chains[0][1])
    legs, curves, drawn, before = [], [], set(), 0
    for depth, length in enumerate(lengths):
        for row, chain in sorted(chains, key=lambda pair: not pair[0].chosen):
            if depth >= len(chain) or chain[depth].id in drawn:
                continue  # a source's chosen fold is handed on to every fold of the next site
            drawn.add(chain[depth].id)
            points = [
                (
                    round(LEFT + scale * (before + index + 0.5), 1),
                    round(BOTTOM - (value - low) / (100 - low) * (BOTTOM - TOP), 1),
                )
                for index, value in enumerate(_values(chain[depth]))
                if value is not None
            ]
            curves.append(
                Curve(
                    site=chain[depth].site,
                    points=" ".join(f"{x:g},{y:g}" for x, y in points),
                    chosen=row.chosen,
                    dot=points[0] if len(points) == 1 else None,
                )
            )
        legs.append(
            Leg(
                left=round(LEFT + scale * before, 1),
                right=round(LEFT + scale * (before + length), 1),
                site=main[depth].site if depth < len(main) else "",
                last=str(before + length),
            )
        )
        before += length
    # faint ones first, so that the chosen fold lies on top
    return CurvePanel(key, full_name(chosen), tuple(legs), tuple(sorted(curves, key=lambda curve: curve.chosen)))


def curve_rows(results: Results, table: Comparison) -> list[CurveRow]:
    """A row of panels a target, a panel a method that has learning curves."""
    stages = {stage.id: stage for stage in results.stages}
    low = lowest_shown(results.stages)
    found = []
    for column, target in enumerate(table.targets):
        drawn = []
        for line in table.lines:
            cell = line.cells[column]
            if cell is None or cell.row.method == "unadapted":
                continue
            rows = [row for row in results.rows if _same(row, cell.row)]
            chains = [(row, chain) for row in rows if (chain := _chain(row.stage, stages))]
            if chains:
                drawn.append((cell.row, chains))
        if not drawn:
            continue
        total = max(sum(len(_values(stage)) for stage in chain) for _, chains in drawn for _, chain in chains)
        found.append(
            CurveRow(
                target,
                tuple(
                    _panel(f"{column}-{index}", row, chains, total, low) for index, (row, chains) in enumerate(drawn)
                ),
            )
        )
    return found

"""Learning curves along the routes: each stage's curve continues at the end of the stage before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from server.report.table import Comparison
from server.report.wording import full_name, network_name, sources, targets
from server.results.schema import Epoch, Results, Row, Stage

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 250.0, 162.0, 30.0, 244.0, 36.0, 140.0


@dataclass(frozen=True)
class Curve:
    """A stage's curve."""

    site: str
    points: str
    """The points of an SVG polyline."""
    selected: bool
    dot: tuple[float, float] | None
    """The point of a stage with a single epoch, which has no line."""


@dataclass(frozen=True)
class Leg:
    """A stage's part of the horizontal axis."""

    left: float
    right: float
    site: str
    last: str
    """The number of epochs of all stages up to the end of this part."""


@dataclass(frozen=True)
class CurvePanel:
    """The curves of a method at a target."""

    key: str
    title: str
    legs: tuple[Leg, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class CurveRow:
    """All panels of a target, which share both axes."""

    target: str
    panels: tuple[CurvePanel, ...]


def _values(stage: Stage) -> list[float | None]:
    """Return the validation Dice of each epoch."""
    return [epoch.dice for epoch in stage.epochs]


def _joined(rounds: list[Stage]) -> list[Stage]:
    """Return averages as a single stage with a point for each round: an average has no epochs, but a score."""
    epochs = tuple(Epoch(epoch=number, dice=stage.validation_dice) for number, stage in enumerate(rounds, start=1))
    return [Stage(id=rounds[-1].id, epochs=epochs)] if any(epoch.dice is not None for epoch in epochs) else []


def walk(stage: str | None, stages: dict[str, Stage]) -> list[Stage]:
    """Return a stage and its ancestors, the earliest ancestor first."""
    found: list[Stage] = []
    seen: set[str] = set()
    while stage is not None and stage in stages and stage not in seen:
        seen.add(stage)
        found.append(stages[stage])
        stage = stages[stage].parent
    return found[::-1]


def _chain(stage: str | None, stages: dict[str, Stage]) -> list[Stage]:
    """Return a stage and its ancestors with consecutive rounds joined; rounds without any score are left out.

    The chain of a re-estimated average is empty: its rounds have scores as plain averages alone.
    """
    if stage in stages and stages[stage].kind == "re-estimate":
        return []
    chain: list[Stage] = []
    for trained, group in groupby(walk(stage, stages), key=lambda stage: bool(stage.epochs)):
        run = list(group)
        chain += run if trained else _joined(run)
    return chain


def lowest_shown(stages: Iterable[Stage]) -> int:
    """Return the lower end of the Dice axis, in per cent, from the 10 % quantile: first epochs may lie far lower."""
    values = sorted(value for stage in stages for value in _values(stage) if value is not None)
    return min(80, int(values[len(values) // 10] // 10) * 10) if values else 0


def _same(row: Row, other: Row) -> bool:
    """Return whether two rows are folds of the same method at the same target."""
    return (row.method, row.model, row.repeat, row.target, sources(row)) == (
        other.method,
        other.model,
        other.repeat,
        other.target,
        sources(other),
    )


def _panel(key: str, title: str, chains: list[tuple[Row, list[Stage]]], total: int, low: int) -> CurvePanel:
    """Return the panel of a method or network.

    Args:
        key: identifies the panel in the page.
        title: the method or network.
        chains: for each fold its row and its chain of stages.
        total: epochs on the horizontal axis.
        low: the lower end of the Dice axis, in per cent.
    """
    lengths = [
        max(len(_values(chain[depth])) for _, chain in chains if depth < len(chain))
        for depth in range(max(len(chain) for _, chain in chains))
    ]
    scale = (RIGHT - LEFT) / total
    main = next((chain for row, chain in chains if row.selected), chains[0][1])
    legs, curves, drawn, before = [], [], set(), 0
    for depth, length in enumerate(lengths):
        for row, chain in sorted(chains, key=lambda pair: not pair[0].selected):
            if depth >= len(chain) or chain[depth].id in drawn:
                continue  # the selected fold of a source is handed on to every fold of the next site
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
                    selected=row.selected,
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
    # faint curves first, so that the selected fold lies on top
    return CurvePanel(key, title, tuple(legs), tuple(sorted(curves, key=lambda curve: curve.selected)))


def curve_rows(results: Results, table: Comparison) -> list[CurveRow]:
    """Return a row of panels for each target, a panel for each method with learning curves; of the first repeat."""
    found = []
    for column, target in enumerate(table.targets):
        rows = [cell.row for _, cell in table.column(column) if cell.row.kind.adapted]
        panels = _row(results, target, str(column), [(full_name(row), row) for row in rows])
        found += [panels] if panels else []
    return found


def network_curves(results: Results) -> list[CurveRow]:
    """Return a row of panels for each target, a panel for each network; of its first method and repeat."""
    found = []
    for column, target in enumerate(targets(results)):
        selected: dict[str, Row] = {}
        for row in results.rows:
            if row.selected and row.target == target:
                selected.setdefault(row.model, row)
        named = [(network_name(model), row) for model, row in selected.items()]
        panels = _row(results, target, f"n{column}", named)
        found += [panels] if panels else []
    return found


def _row(results: Results, target: str, key: str, titled: list[tuple[str, Row]]) -> CurveRow | None:
    """Return the row of panels of a target; None without any curve."""
    stages = {stage.id: stage for stage in results.stages}
    drawn = []
    for title, selected in titled:
        rows = [row for row in results.rows if _same(row, selected)]
        chains = [(row, chain) for row in rows if (chain := _chain(row.stage, stages))]
        if chains:
            drawn.append((title, chains))
    if not drawn:
        return None
    low = lowest_shown(results.stages)
    total = max(sum(len(_values(stage)) for stage in chain) for _, chains in drawn for _, chain in chains)
    panels = (_panel(f"{key}-{index}", title, chains, total, low) for index, (title, chains) in enumerate(drawn))
    return CurveRow(target, tuple(panels))

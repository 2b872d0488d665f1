"""How far the models' probabilities can be believed: the mean calibration error of the test patients."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from common.scores import CALIBRATION_ERROR
from common.text import count
from server.report.table import Cell, Comparison, routes_taken
from server.report.wording import figure, full_name, network_name, targets
from server.results.schema import Results, Row


@dataclass(frozen=True)
class CalibrationLine:
    """The line of a method, or of the routes selected by validation."""

    name: str
    headline: bool
    cells: tuple[tuple[str, str], ...]
    """For each target the mean error in per cent, and the name of a selected route; empty texts without a model."""

    @property
    def lacking(self) -> bool:
        """Whether the calibration of a model was not measured."""
        return any(error == figure(None) for error, _ in self.cells)


def of_delivered(results: Results) -> str:
    """Return the calibration errors of the models that the hospitals get, as a list in words; empty without any.

    Args:
        results: the results of all networks.
    """
    found = []
    for target in targets(results):
        row = delivered(results, target)
        if row is None or row.calibration_error is None:
            continue
        network = f", {network_name(row.model)}" if len(results.models) > 1 else ""
        fold = f", fold {row.fold + 1}" if row.fold is not None and results.folds > 1 else ""
        behind = count(row.calibration_patients or 0, "test patient")
        found.append(f"{full_name(row)}{fold}{network} at {target}: {figure(row.calibration_error)} % ({behind})")
    return "; ".join(found)


def delivered(results: Results, target: str) -> Row | None:
    """Return the row whose weights a hospital gets, chosen by its validation patients (`common.plan.selection`).

    It is of the first repeat and rotation, as delivered weights are; None while a row of the hospital is unfinished.

    Args:
        results: the results of all networks.
        target: the hospital.
    """
    rows = [row for row in results.fold_rows if row.target == target and row.kind.deliverable and row.share is None]
    first = min((row.variant for row in rows), default=0)
    fixed = {(row.repeat, row.rotation) for row in rows if row.variant == first}
    groups: dict[tuple[str, str, tuple[str, ...]], list[tuple[float, Row]]] = {}
    for row in rows:
        score = row.value(results.score, tested=False)
        if (row.repeat, row.rotation) in fixed and score is not None:
            groups.setdefault((row.model, row.method, row.route), []).append((score, row))
    if not groups or any(row.target == target for row in results.parked):
        return None
    best = max(groups.values(), key=lambda folds: statistics.fmean(score for score, _ in folds))
    return max(best, key=lambda fold: fold[0])[1]


def calibration(table: Comparison) -> list[CalibrationLine]:
    """Return a line for the routes selected by validation and for each other method, for a single network.

    Routes that validation did not select have no line, and neither have models without training at the target. There
    is no line at all where no calibration was measured, as in results of earlier versions.
    """
    return [
        line
        for line in (_lines(table) if table.tested else ())
        if any(error not in ("", figure(None)) for error, _ in line.cells)
    ]


def _lines(table: Comparison) -> Iterator[CalibrationLine]:
    selected = [table.selected_at(column) for column in range(len(table.targets))]
    yield CalibrationLine(
        "Route by validation", True, tuple((_error(cell), routes_taken(cell) if cell else "") for cell in selected)
    )
    for line in table.lines:
        if all(cell is None or (cell.row.kind.adapted and not cell.row.kind.routed) for cell in line.cells):
            yield CalibrationLine(line.label, False, tuple((_error(cell), "") for cell in line.cells))


def _error(cell: Cell | None) -> str:
    return "" if cell is None else figure(cell.mean(CALIBRATION_ERROR))

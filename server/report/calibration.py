"""How far the models' probabilities can be believed: the mean calibration error of the test patients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.scores import CALIBRATION_ERROR
from server.report.table import Cell, Comparison, routes_taken
from server.report.wording import figure


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

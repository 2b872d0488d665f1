"""What a mean Dice hides: the error of the volume, the gland's apex, middle and base, and patients with a low Dice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.scores import ABSOLUTE_VOLUME_ERROR, GLAND, LOW, OF_ZONES, THIRDS, VOLUME_ERROR
from common.text import listed
from server.report.table import Cell, Comparison, routes_taken
from server.report.wording import figure, signed
from server.results.schema import Results


@dataclass(frozen=True)
class LowPatient:
    """A test patient below a volume Dice of `common.scores.LOW`."""

    number: str
    """The hospital's random number for the patient."""
    dices: tuple[tuple[int, float], ...]
    """The repeats in which the patient is below, counted from 1, each with the volume Dice, per cent."""


@dataclass(frozen=True)
class GlandLine:
    """The line of a model, or of a model for each repeat."""

    target: str
    name: str
    headline: bool
    """Whether validation selected this route."""
    volume_error: str
    """The mean error in ml, with its sign."""
    absolute_volume_error: str
    thirds: tuple[str, ...]
    """Dice of apex, middle and base, per cent."""
    zones: tuple[str, ...]
    """Dice of peripheral zone and central gland, per cent."""
    low: tuple[LowPatient, ...] | None
    """The patients below, the worst first; None without volume Dice of single patients."""
    patients: int
    """Test patients with a volume Dice of their own; a patient of several repeats counts once."""


@dataclass(frozen=True)
class Gland:
    """The section's content: at each target the route selected by validation, and all other methods."""

    lines: tuple[GlandLine, ...]
    measured: bool
    """Whether volume errors or thirds were measured."""
    zoned: bool
    """Whether Dice of the zones was measured."""
    below: int
    """The volume Dice, in per cent, below which patients are listed."""
    repeats: int
    without_scores: tuple[str, ...]
    """Hospitals at which scores of single patients are not permitted."""
    without_thirds: str
    """How many test patients have no thirds at which target, in words; empty if all have."""

    @property
    def listed(self) -> tuple[GlandLine, ...]:
        """The lines with volume Dice of single patients."""
        return tuple(line for line in self.lines if line.low is not None)

    @property
    def shown(self) -> bool:
        """Whether the page has a section on the gland."""
        return bool(self.measured or self.listed)


def gland(results: Results, table: Comparison) -> Gland:
    """Return the errors of volume, Dice of thirds and zones, and patients with a low Dice, for a single network.

    Routes that validation did not select have no line, and neither have models without training at the target.
    """
    cells = list(_cells(table)) if table.tested else []
    lines = [
        GlandLine(
            target=cell.row.target,
            name=name,
            headline=cell.headlines > 0,
            volume_error=signed(cell.mean(VOLUME_ERROR)),
            absolute_volume_error=figure(cell.mean(ABSOLUTE_VOLUME_ERROR)),
            thirds=tuple(figure(cell.mean(third)) for third in THIRDS),
            zones=tuple(figure(cell.mean(zone)) for zone in OF_ZONES),
            low=_low(cell, results.repeats),
            patients=len({case for row in cell.rows for case in row.case_dice_volume or ()}),
        )
        for name, cell in cells
    ]
    kept = [cell.row.target for _, cell in cells if any(row.case_slices is None for row in cell.rows)]
    return Gland(
        lines=tuple(lines),
        measured=any(cell.mean(score) is not None for _, cell in cells for score in GLAND),
        zoned=any(cell.mean(score) is not None for _, cell in cells for score in OF_ZONES),
        below=round(100 * LOW),
        repeats=table.repeats,
        without_scores=tuple(dict.fromkeys(kept)),
        without_thirds=_without_thirds([cell for _, cell in cells]),
    )


def _cells(table: Comparison) -> Iterator[tuple[str, Cell]]:
    """Yield, target by target, the route selected by validation and the other methods, each with its name."""
    for column in range(len(table.targets)):
        selected = table.selected_at(column)
        if selected is not None:
            yield routes_taken(selected), selected
        for line, cell in table.column(column):
            if cell.row.kind.adapted and not cell.row.kind.routed:
                yield line.label, cell


def _low(cell: Cell, repeats: tuple[tuple[int, int], ...]) -> tuple[LowPatient, ...] | None:
    """Return a cell's patients with a low volume Dice, the worst first; None where any repeat has no such figures."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in cell.rows:
        if row.case_dice_volume is None:
            return None
        for case, dice in row.case_dice_volume.items():
            if dice is not None and dice < 100 * LOW:
                found.setdefault(case, []).append((repeats.index(row.repeat) + 1, dice))
    low = [LowPatient(case, tuple(dices)) for case, dices in found.items()]
    return tuple(sorted(low, key=lambda patient: (min(dice for _, dice in patient.dices), patient.number)))


def _without_thirds(cells: list[Cell]) -> str:
    """Return how many test patients have no thirds, by target: "1 at B and 2 at C"; the most of several repeats."""
    missing: dict[str, int] = {}
    for row in (row for cell in cells for row in cell.rows):
        if row.volume_patients and row.thirds_patients is not None:
            gap = row.volume_patients - row.thirds_patients
            missing[row.target] = max(gap, missing.get(row.target, 0))
    return listed(f"{number} at {target}" for target, number in missing.items() if number)

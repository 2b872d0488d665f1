"""The paper's own results, for display beside a study's.

L. Touijer, M. Santacesaria, F. Odone, V. P. Pastore, In Domain Transfer Learning for Prostate MRI Segmentation, Tables
II and III. Site A is NCI-ISBI 2013's Prostate-3T, B its PROSTATE-DIAGNOSIS, C the 3 T patients of I2CVB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.config.values import POOLED
from server.report.table import Cell, Comparison
from server.report.wording import sources
from server.results.schema import Results

AUTHORS = "Touijer, Santacesaria, Odone and Pastore, In Domain Transfer Learning for Prostate MRI Segmentation"
ENCODERS = (
    "efficientnet-b0", "efficientnet-b1", "efficientnet-b2", "efficientnet-b3", "resnet18", "resnet34", "resnet50",
)  # fmt: skip
"""The rows of Table II."""
_COLUMNS = ("Unet", "UnetPlusPlus", "MAnet", "DeepLabV3")
_VALIDATION = (
    ((87.79, 0.37), (88.31, 1.37), (87.38, 2.14), (88.07, 0.42)),
    ((88.57, 2.33), (88.18, 0.76), (88.06, 1.10), (87.85, 1.50)),
    ((89.09, 0.46), (88.79, 0.05), (88.25, 0.35), (87.59, 0.71)),
    ((88.84, 1.76), (89.27, 1.62), (88.71, 0.74), (87.95, 1.21)),
    ((86.72, 0.99), (88.61, 0.64), (86.16, 1.50), (87.50, 0.21)),
    ((87.29, 1.03), (87.81, 0.87), (88.17, 0.79), (89.04, 0.13)),
    ((87.14, 0.97), (86.22, 2.99), (85.26, 0.43), (88.93, 1.24)),
)
"""Table II: a line an encoder, a column an architecture; see `TABLE_2`."""
TABLE_2: Mapping[tuple[str, str], tuple[float, float]] = {
    (encoder, architecture): value
    for encoder, line in zip(ENCODERS, _VALIDATION, strict=True)
    for architecture, value in zip(_COLUMNS, line, strict=True)
}
"""By encoder and architecture: validation Dice on site A, per cent, mean and standard deviation of 5 folds."""

TABLE_3: Mapping[tuple[tuple[str, ...], str], tuple[float, float]] = {
    ((), "A"): (89.09, 82.52), (("A",), "B"): (91.42, 84.89), (("A",), "C"): (90.48, 83.34),
    (("B",), "A"): (90.90, 84.34), ((), "B"): (88.68, 81.41), (("B",), "C"): (88.27, 80.41),
    (("C",), "A"): (92.34, 86.75), (("C",), "B"): (91.22, 84.74), ((), "C"): (87.11, 80.26),
    (("B", "C"), "A"): (91.65, 85.53), (("C", "B"), "A"): (91.48, 85.07),
    (("A", "C"), "B"): (91.62, 85.36), (("C", "A"), "B"): (90.89, 84.13),
    (("A", "B"), "C"): (89.36, 81.92), (("B", "A"), "C"): (89.94, 82.44),
    ((POOLED,), "A"): (91.13, 84.83), ((POOLED,), "B"): (90.83, 84.07), ((POOLED,), "C"): (87.68, 80.48),
}  # fmt: skip
"""By sources and target: test Dice and IoU, per cent, of the fold with the best validation. Without a source: the
target alone."""
_LINES: tuple[tuple[str, ...], ...] = (
    ("A",), ("B",), ("C",), ("B", "C"), ("C", "B"), ("A", "C"), ("C", "A"), ("A", "B"), ("B", "A"), (POOLED,),
)  # fmt: skip
"""The rows of Table III; the row A at the target A is A alone."""


@dataclass(frozen=True)
class Beside:
    """A cell of the paper and the cell of this study."""

    paper: tuple[float, float]
    """The paper's Dice and IoU, per cent."""
    ours: Cell | None


@dataclass(frozen=True)
class PaperLine:
    """A line of the table."""

    label: str
    cells: tuple[Beside | None, ...]


@dataclass(frozen=True)
class Ranking:
    """The number of pairs in which a kind of row lies above another kind, in the paper and in this study."""

    what: str
    """The comparison, in words."""
    paper: tuple[int, int]
    """Pairs in which the first kind is above, and all pairs, in the paper."""
    ours: tuple[int, int]
    """Pairs in which the first kind is above, and all pairs, in this study."""


@dataclass(frozen=True)
class Table3:
    """The paper's Table III beside this study's results."""

    targets: tuple[str, ...]
    lines: tuple[PaperLine, ...]
    orders: tuple[Ranking, ...]


def paper_of(results: Results) -> str:
    """Return the table of the paper that the study repeats: "table-2", "table-3", or an empty text for none."""
    return str(results.study.get("paper") or "")


def _sources(cell: Cell) -> tuple[str, ...] | None:
    """Return a cell's sources in the form of the keys of `TABLE_3`; None for a method without a row in the paper."""
    return sources(cell.row) if cell.row.kind.in_paper else None


def table_3(results: Results, table: Comparison) -> Table3 | None:
    """Return this study's results beside the paper's Table III; None unless the study repeats Table III."""
    if paper_of(results) != "table-3":
        return None
    ours = {(way, cell.row.target): cell for cell in table.cells if (way := _sources(cell)) is not None}
    columns = tuple(target for target in "ABC" if target in table.targets)
    lines = []
    for way in _LINES:
        keys = [((), target) if way == (target,) else (way, target) for target in columns]
        cells = tuple(Beside(TABLE_3[key], ours.get(key)) if key in TABLE_3 else None for key in keys)
        if any(cells):
            lines.append(PaperLine("All data" if way == (POOLED,) else " → ".join(way), cells))
    dices = {key: cell.dice for key, cell in ours.items() if cell.dice is not None}
    return Table3(columns, tuple(lines), _orders({key: value for key, (value, _) in TABLE_3.items()}, dices, columns))


def _orders(
    paper: Mapping[tuple[tuple[str, ...], str], float],
    ours: Mapping[tuple[tuple[str, ...], str], float],
    columns: tuple[str, ...],
) -> tuple[Ranking, ...]:
    """Return the rankings of kinds of rows, apart from rankings without a pair in this study."""

    def above(found: Mapping[tuple[tuple[str, ...], str], float], one: str, other: str) -> tuple[int, int]:
        """Count the pairs at the same target with the first kind above the second, and all pairs at the same target."""
        pairs = [
            (value, found[key])
            for (way, target), value in found.items()
            if target in columns and _kind(way) == one
            for key in found
            if key[1] == target and _kind(key[0]) == other
        ]
        return sum(a > b for a, b in pairs), len(pairs)

    kinds = (
        ("a route of one hop above the target alone", "one", "alone"),
        ("a route of two hops above the target alone", "two", "alone"),
        ("a route of two hops above one of one hop", "two", "one"),
        ("a route of one hop above all data", "one", "all"),
        ("all data above the target alone", "all", "alone"),
    )
    found = [Ranking(what, above(paper, one, other), above(ours, one, other)) for what, one, other in kinds]
    return tuple(order for order in found if order.ours[1])


def _kind(way: tuple[str, ...]) -> str:
    """Return the kind of a row: its number of hops, "alone" or "all"."""
    if way == (POOLED,):
        return "all"
    return ("alone", "one", "two")[len(way)] if len(way) < 3 else "more"

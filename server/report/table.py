"""The comparison as a table: a row a method, a column a target, in the order of the paper's Table III."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from common.errors import RelayError
from server.report.results import Results, Row
from server.report.wording import (
    POOLED,
    ROUTED,
    THEN_TARGET,
    figure,
    full_name,
    method_name,
    site_names,
    sources,
    targets,
)

HEADLINE_MARK = "★"
ABSENT_MARK = "†"
FIGURES = "Dice / IoU in per cent, slice means over held-out patients (how many of them in brackets)."


@dataclass(frozen=True)
class Cell:
    """A method at one target."""

    row: Row
    absent: tuple[str, ...]
    """Sites that should have taken part and did not."""

    @property
    def figures(self) -> str:
        return f"{figure(self.row.dice)} / {figure(self.row.iou)}"

    @property
    def marks(self) -> str:
        return (HEADLINE_MARK if self.row.headline else "") + (ABSENT_MARK if self.absent else "")

    @property
    def text(self) -> str:
        """As a terminal shows it: "91.4 / 84.9 (6) ★"."""
        behind = "" if self.row.patients is None else f" ({self.row.patients})"
        return f"{self.figures}{behind} {self.marks}".rstrip()


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    label: str
    group: tuple[int, int]
    cells: tuple[Cell | None, ...]
    """A cell a target; None where the row does not apply."""

    @property
    def section(self) -> tuple[int, int]:
        """Lines of one section stand together: the target alone, routes of one length, averages, all data."""
        kind, hops = self.group
        return kind // 2, hops


@dataclass(frozen=True)
class Comparison:
    targets: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, line by line."""
        return [cell for line in self.lines for cell in line.cells if cell]


def _group(row: Row) -> tuple[int, int]:
    """Where a row stands: (kind, hops)."""
    if row.method == "baseline":
        return 0, 0
    if row.method == "longer":
        return 1, 0
    if row.method in ROUTED:
        return 2, len(sources(row))
    if row.method == "unadapted":
        return 3, 0
    pooled = row.method.removesuffix(THEN_TARGET) == POOLED
    return (6 if pooled else 4) + row.method.endswith(THEN_TARGET), 0


def _label(row: Row) -> str:
    """The head of a row's line: what it is, whatever its target."""
    if row.method == "baseline":
        return "Target alone"
    if row.method == "longer":
        return "Target alone, longest route's steps"
    if row.method in ROUTED:
        return " → ".join(sources(row)) + " →"
    if row.method == "unadapted":
        return full_name(row)
    if row.method.endswith(THEN_TARGET):
        return f"{method_name(row.method.removesuffix(THEN_TARGET))}, then the target"
    return method_name(row.method)


def _absent(row: Row, sites: Sequence[str]) -> tuple[str, ...]:
    if row.contributed is None or POOLED in row.contributed:
        return ()
    needed = sites if _group(row)[0] >= 4 else row.route  # averages and all data need everybody
    return tuple(site for site in dict.fromkeys(needed) if site not in row.contributed)


def comparison(results: Results) -> Comparison:
    """The chosen row of each method and target.

    Raises:
        RelayError: two chosen rows claim one cell.
    """
    names = site_names(results)
    columns = targets(results)
    order = {name: index for index, name in enumerate(names)}
    methods = {"fedavg": 0, "fedprox": 1}
    for row in results.rows:
        methods.setdefault(row.method.removesuffix(THEN_TARGET), len(methods))
    lines: dict[tuple[tuple[int, int], int, tuple[int, ...], str], dict[str, Row]] = {}
    for row in results.rows:
        if not row.chosen:
            continue
        group = _group(row)
        # the target stands in its column; what else tells lines apart is the way there
        way = tuple(order.get(site, len(order)) for site in sources(row)) if group[0] in (2, 3) else ()
        key = (group, methods[row.method.removesuffix(THEN_TARGET)], way, _label(row))
        cells = lines.setdefault(key, {})
        if row.target in cells:
            raise RelayError(
                f"results.json has two chosen rows for {full_name(row)} at {row.target}:"
                " run the study again into the same folder."
            )
        cells[row.target] = row
    return Comparison(
        targets=columns,
        lines=tuple(
            Line(
                label=_label(next(iter(lines[key].values()))),
                group=_group(next(iter(lines[key].values()))),
                cells=tuple(
                    Cell(lines[key][target], _absent(lines[key][target], names)) if target in lines[key] else None
                    for target in columns
                ),
            )
            for key in sorted(lines)
        ),
    )


def notes(table: Comparison) -> list[str]:
    """What the marks in a table mean; nothing for a mark that it does not bear."""
    found = []
    if any(cell.row.headline for cell in table.cells):
        found.append(
            f"{HEADLINE_MARK} the route with the best validation Dice at this target; test patients had no say in it."
        )
    absent = [
        f"{full_name(cell.row)} at {cell.row.target} without {', '.join(cell.absent)}"
        for cell in table.cells
        if cell.absent
    ]
    if absent:
        found.append(f"{ABSENT_MARK} not every hospital took part: {'; '.join(absent)}.")
    return found


def terminal_table(results: Results) -> Table:
    """The comparison for a terminal; three targets fit into 100 columns."""
    table = comparison(results)
    shown = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption="\n".join([FIGURES, *notes(table)]),
        caption_justify="left",
        caption_style="dim",
    )
    shown.add_column("")
    for target in table.targets:
        shown.add_column(Text(f"→ {target}"))
    for line, after in zip(table.lines, (*table.lines[1:], None), strict=True):
        shown.add_row(
            Text(line.label),
            *(
                Text(cell.text, style="bold" if cell.row.headline else "") if cell else Text("–", style="dim")
                for cell in line.cells
            ),
            end_section=after is not None and after.section != line.section,
        )
    return shown


def text_lines(results: Results) -> list[str]:
    """The comparison as plain lines, for a file or a pipe."""
    table = comparison(results)
    grid = [["", *(f"→ {target}" for target in table.targets)]]
    grid += [[line.label, *(cell.text if cell else "–" for cell in line.cells)] for line in table.lines]
    widths = [max(len(entry) for entry in column) for column in zip(*grid, strict=True)]
    lines = ["  ".join(f"{entry:<{width}}" for entry, width in zip(row, widths, strict=True)).rstrip() for row in grid]
    return [*lines, "", FIGURES, *notes(table)]

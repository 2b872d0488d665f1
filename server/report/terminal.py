"""The tables for a terminal, and as plain lines for a file or a pipe."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from common.plan import method_of
from common.scores import DICE
from common.text import count
from server.report import remarks
from server.report.contrasts import family
from server.report.equivalence import findings
from server.report.firmness import firmness
from server.report.networks import NetworkCell, Networks, best_network, networks
from server.report.table import HEADLINE_MARK, Comparison, comparison, notes, whole_volumes
from server.report.wording import ARCHITECTURES, capital, encoder_name, figure, network_name
from server.results.schema import Results

NAMES = 12
"""The least width of the column of names, in characters; longer names take several lines."""
WIDTH = 100
"""The width of the text beneath a table, in characters, in plain lines."""


@dataclass(frozen=True)
class TextCell:
    """A cell of a table."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table with its title and the text beneath the table."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[TextCell, ...], ...]
    sections: tuple[int, ...]
    """Numbers of the rows after which a rule may stand."""
    beneath: tuple[str, ...]


def caption(table: Comparison) -> str:
    """Return what the numbers of the comparison are."""
    spread = f" ± standard deviation over {table.repeats} repeats" if table.repeats > 1 else ""
    patients = "held-out patients" if table.tested else "validation patients"
    how_many = " (how many of them in brackets)" if table.repeats == 1 else ""
    if table.score is DICE:
        return f"Dice{spread} / IoU in per cent, slice means over {patients}{how_many}."
    return (
        f"Volume Dice{spread}, a mean over {patients}{how_many} / Dice of their selected slices, a mean over slices;"
        " both in per cent."
    )


def grids(results: Results) -> Iterator[TextTable]:
    """Yield the tables of a study: networks, the comparison, and its spread over folds."""
    several = networks(results)
    yield from (_networks(results, table) for table in several)
    shown, name = results, ""
    if several:
        if {row.method for row in results.rows} == {several[0].method}:
            return
        name = best_network(results)
        shown = results.of_model(name)
    table = comparison(shown)
    title = f"{network_name(name)}, the network with the best validation {results.score.title}" if name else ""
    yield _comparison(shown, table, title)
    if any(cell.whole_volume for cell in table.cells):
        yield _volumes(table)
    if any(cell.over_all for cell in table.cells):
        yield _spread(shown, table)


def _comparison(results: Results, table: Comparison, title: str) -> TextTable:
    rows = []
    for line in table.with_headline:
        entries = [TextCell(line.label)]
        for cell in line.cells:
            if cell is None:
                entries.append(TextCell("–"))
                continue
            behind = f" ({cell.patients})" if cell.patients is not None and table.repeats == 1 else ""
            marks = cell.marks if line is not table.headline else ""
            figures = cell.figures
            if table.repeats > 1:  # three targets must fit beside the names
                figures, marks = figures.replace(" ± ", "±"), marks.replace(" ", "")
            entries.append(TextCell(f"{figures}{behind} {marks}".rstrip(), strong=bool(cell.headlines)))
        rows.append(tuple(entries))
    found = findings(family(results, table)) if table.tested else []
    return TextTable(
        title,
        ("", *(f"→ {target}" for target in table.targets)),
        tuple(rows),
        _sections(table),
        (
            caption(table),
            *notes(table),
            *firmness(results),
            *found,
            *remarks.of_grid(results),
            *remarks.of_zones(results, table),
            remarks.of_comparison(results, table),
        ),
    )


def _volumes(table: Comparison) -> TextTable:
    rows = tuple(
        (TextCell(line.label), *(TextCell((cell.whole_volume or "–") if cell else "–") for cell in line.cells))
        for line in table.lines
    )
    header = ("whole volumes", *(f"→ {target}" for target in table.targets))
    return TextTable("", header, rows, _ends(_kinds(table)), (whole_volumes(table.score),))


def _kinds(table: Comparison) -> list[tuple[int, int]]:
    """Return the section of each line."""
    return [line.section for line in table.lines]


def _spread(results: Results, table: Comparison) -> TextTable:
    rows = tuple(
        (TextCell(line.label), *(TextCell((cell.over_all or "–") if cell else "–") for cell in line.cells))
        for line in table.lines
    )
    runs = count(table.folds, "fold") + (f" × {count(table.repeats, 'repeat')}" if table.repeats > 1 else "")
    header = (f"{capital(table.score.title)}, {runs}", *(f"→ {target}" for target in table.targets))
    return TextTable("", header, rows, _ends(_kinds(table)), (remarks.of_spread(results),))


def _networks(results: Results, table: Networks) -> TextTable:
    rows = []
    for line in table.lines:
        rows.append(
            (
                TextCell(encoder_name(line.encoder)),
                *(TextCell(_network(cell), cell.best) if cell else TextCell("–") for cell in line.cells),
            )
        )
        if table.paper and any(cell and cell.paper for cell in line.cells):
            published = [cell.paper if cell else None for cell in line.cells]
            rows.append(
                (TextCell("  the paper"), *(TextCell(_mean(*found, digits=2) if found else "–") for found in published))
            )
    runs = max(cell.runs for cell in table.cells)
    spread, dice, title = " ± standard deviation" if runs > 1 else "", results.score, method_of(table.method).title
    return TextTable(
        "",
        (f"{table.target}, validation", *(ARCHITECTURES.get(name, name) for name in table.architectures)),
        tuple(rows),
        (),
        (
            f"Validation {dice.title} of “{title}” in per cent, mean over {dice.over}{spread}; ★ the best mean.",
            remarks.of_networks(results, table),
        ),
    )


def _network(cell: NetworkCell) -> str:
    return _mean(cell.mean, cell.std) + (f" {HEADLINE_MARK}" if cell.best else "")


def _mean(mean: float, std: float | None, digits: int = 1) -> str:
    return figure(mean, digits) + ("" if std is None else f" ± {figure(std, digits)}")


def _sections(table: Comparison) -> tuple[int, ...]:
    return _ends([line.section for line in table.with_headline])


def _ends(sections: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return the numbers of the last rows of sections."""
    return tuple(index for index, (one, other) in enumerate(itertools.pairwise(sections)) if one != other)


def terminal_table(results: Results) -> RenderableType:
    """Return the tables for a terminal; three targets fit into 80 columns, and with repeats into 100 columns."""
    shown: list[RenderableType] = []
    for grid in grids(results):
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            title=grid.title or None,
            title_justify="left",
        )
        for index, name in enumerate(grid.header):
            table.add_column(Text(name), no_wrap=index > 0, min_width=NAMES if index == 0 else None)
        for index, row in enumerate(grid.rows):
            table.add_row(*(Text(entry.text, style=_style(entry)) for entry in row), end_section=index in grid.sections)
        shown += [table, Text("\n".join(("", *grid.beneath, "")), style="dim")]
    return Group(*shown)


def _style(entry: TextCell) -> str:
    return "bold" if entry.strong else "dim" if entry.text == "–" else ""


def text_lines(results: Results) -> list[str]:
    """Return the tables as plain lines."""
    lines: list[str] = []
    for grid in grids(results):
        texts = [grid.header, *(tuple(entry.text for entry in row) for row in grid.rows)]
        widths = [max(len(row[column]) for row in texts) for column in range(len(grid.header))]
        lines += [""] if lines else []
        lines += [grid.title] if grid.title else []
        lines += [
            "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in texts
        ]
        lines += ["", *(line for said in grid.beneath for line in textwrap.wrap(said, WIDTH))]
    return lines

"""The tables as a piece of HTML for a notebook, with the same cells and texts as the terminal's."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from server.report.opening import opening
from server.report.terminal import TextCell, TextTable, grids
from server.results.schema import Results


def tables_html(results: Results) -> str:
    """Return the opening sentence and the tables of a study as HTML; all text is escaped."""
    if not results.rows:
        return "<p>No row of the table is finished.</p>"
    return "\n".join([Markup("<p>{}</p>").format(opening(results)), *(_table(grid) for grid in grids(results))])


def _table(grid: TextTable) -> str:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in grid.header)
    body = Markup("\n").join(Markup("<tr>{}</tr>").format(Markup("").join(_cells(row))) for row in grid.rows)
    title = Markup("<caption>{}</caption>").format(grid.title) if grid.title else Markup("")
    beneath = Markup("\n").join(Markup("<p><small>{}</small></p>").format(text) for text in grid.beneath)
    return Markup("<table>{}<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table>\n{}").format(
        title, head, body, beneath
    )


def _cells(row: tuple[TextCell, ...]) -> Iterator[Markup]:
    name, *figures = row
    yield Markup('<th scope="row">{}</th>').format(name.text)
    for cell in figures:
        yield Markup("<td><b>{}</b></td>" if cell.strong else "<td>{}</td>").format(cell.text)

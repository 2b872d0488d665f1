"""What the page shows of one network: its tables and pictures, worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from server.report import budget_curves, contrasts, forgetting, intervals, paper, routes
from server.report.budget import BudgetLine, Growth, budget_lines, growths
from server.report.colours import shade
from server.report.forest import Forest, forest
from server.report.summary import in_short
from server.report.table import Comparison, comparison, notes
from server.report.wording import network_name
from server.results.schema import Results


@dataclass(frozen=True)
class NetworkView:
    results: Results
    """Of this network alone."""
    name: str = ""
    """The network, where there are several."""
    main: bool = True
    """Whether it is the one that validation chose."""

    def id(self, name: str) -> Markup:
        """Return the attribute that names a section; a page has each once."""
        return Markup(' id="{}"').format(name) if self.main else Markup("")

    def title(self, text: str) -> str:
        return f"{text}: {network_name(self.name)}" if self.name else text

    @cached_property
    def table(self) -> Comparison:
        return comparison(self.results)

    @cached_property
    def family(self) -> contrasts.Family:
        return contrasts.family(self.results, self.table, testing=self.main)

    @cached_property
    def forest(self) -> Forest | None:
        return forest(self.family)

    @property
    def no_interval(self) -> str:
        return contrasts.why_no_interval(self.family)

    @cached_property
    def shades(self) -> list[list[str]]:
        return shades(self.table)

    @property
    def notes(self) -> list[str]:
        return notes(self.table)

    @property
    def spread(self) -> bool:
        """Whether figures over all folds stand in the table."""
        return any(cell.over_all for cell in self.table.cells)

    @cached_property
    def in_short(self) -> list[str]:
        return in_short(self.results, self.table, self.family)

    @cached_property
    def paper(self) -> paper.Table3 | None:
        return paper.table_3(self.results, self.table)

    @cached_property
    def intervals(self) -> list[intervals.Panel]:
        return intervals.interval_panels(self.results, self.table)

    @cached_property
    def budget(self) -> list[BudgetLine]:
        return budget_lines(self.results, self.table)

    @cached_property
    def pictures(self) -> list[budget_curves.BudgetPicture]:
        return budget_curves.budget_pictures(self.results, self.table)

    @cached_property
    def maps(self) -> list[routes.Map]:
        return routes.route_maps(self.results, self.table)

    @cached_property
    def growths(self) -> list[Growth]:
        return growths(self.results)

    @cached_property
    def matrices(self) -> list[forgetting.Matrix]:
        return forgetting.matrices(self.results)


def shades(table: Comparison) -> list[list[str]]:
    """Return a colour a cell of the comparison; empty where there is nothing to colour."""
    columns = []
    for column in range(len(table.targets)):
        cells = [line.cells[column] for line in table.with_headline]
        # a model that never saw the target may score far lower, and would leave one colour for all others
        counted = [cell.dice for cell in cells if cell and cell.row.kind.adapted]
        values = [dice for dice in counted if dice is not None]
        low, high = min(values, default=0.0), max(values, default=0.0)
        columns.append(
            [
                shade((cell.dice - low) / (high - low) if high > low else 0.5) if cell and cell.dice is not None else ""
                for cell in cells
            ]
        )
    return [list(line) for line in zip(*columns, strict=True)]

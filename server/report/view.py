"""The page's view of a network: the network's tables and charts, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from server.report import (
    budget_curves,
    calibration,
    contrasts,
    forgetting,
    gland,
    intervals,
    own_patients,
    paper,
    predictions,
    routes,
)
from server.report.budget import BudgetLine, Growth, budget_lines, growths
from server.report.colours import shade
from server.report.disagreements import disagreements
from server.report.equivalence import findings
from server.report.firmness import firmness
from server.report.forest import Forest, forest
from server.report.summary import Summary, in_short
from server.report.table import Comparison, comparison, notes
from server.report.variance import Share, shares
from server.report.wording import network_name, sequential_setting
from server.results.schema import Results


@dataclass(frozen=True)
class NetworkView:
    """A network's tables and charts."""

    results: Results
    """The results of this network alone."""
    name: str = ""
    """The network's name in results.json; empty in a study of a single network."""
    main: bool = True
    """Whether validation selected this network."""

    def id(self, name: str) -> Markup:
        """Return the HTML attribute `id` of a section.

        Only the main network's sections have the attribute, so each name is unique on the page.
        """
        return Markup(' id="{}"').format(name) if self.main else Markup("")

    def title(self, text: str) -> str:
        """Return a section's title, with the network's name in a study of several networks."""
        return f"{text}: {network_name(self.name)}" if self.name else text

    @cached_property
    def table(self) -> Comparison:
        """The comparison."""
        return comparison(self.results)

    @cached_property
    def first(self) -> Results:
        """The results of the first rotation, where a chain of stages is drawn; all results without rotations."""
        return self.results.of_first_rotation()

    @cached_property
    def first_table(self) -> Comparison:
        """The comparison of the first rotation."""
        return comparison(self.first) if self.results.rotation_rows else self.table

    @cached_property
    def family(self) -> contrasts.Family:
        """The contrasts with the selected routes."""
        return contrasts.family(self.results, self.table, testing=self.main)

    @cached_property
    def controls(self) -> list[contrasts.Contrast]:
        """The contrasts of methods with a control of their own number of gradient steps."""
        return contrasts.controls(self.results, self.table)

    @cached_property
    def forest(self) -> Forest | None:
        """The forest plot of the contrasts."""
        return forest(self.family)

    @property
    def no_interval(self) -> str:
        """Why some contrasts have no interval."""
        return contrasts.why_no_interval(self.family)

    @property
    def disagreements(self) -> list[str]:
        """Why the interval and the corrected p of a contrast say different things."""
        return disagreements(self.family)

    @property
    def findings(self) -> list[str]:
        """What is known of the contrasts with a high probability: better, worse, practically the same."""
        return findings(self.family)

    @cached_property
    def shades(self) -> list[list[str]]:
        """The colours of the comparison's cells."""
        return shades(self.table)

    @property
    def notes(self) -> list[str]:
        """The notes on the marks in the comparison, and how firm the choice of routes is."""
        return [*notes(self.table), *firmness(self.results)]

    @property
    def spread(self) -> bool:
        """Whether the comparison has means over all folds."""
        return any(cell.over_all for cell in self.table.cells)

    @cached_property
    def in_short(self) -> Summary:
        """The summary."""
        return in_short(self.results, self.table, self.family)

    @cached_property
    def paper(self) -> paper.Table3 | None:
        """The paper's Table III beside these results."""
        return paper.table_3(self.results, self.table)

    @cached_property
    def intervals(self) -> list[intervals.Panel]:
        """The dot plot of each target."""
        return intervals.interval_panels(self.results, self.table)

    @cached_property
    def variance(self) -> list[Share]:
        """The sources of variance."""
        return shares(self.results) if self.table.tested else []

    @cached_property
    def gland(self) -> gland.Gland:
        """The errors of volume, Dice of thirds, and patients with a low Dice."""
        return gland.gland(self.results, self.table)

    @cached_property
    def calibration(self) -> list[calibration.CalibrationLine]:
        """The calibration errors of the probabilities."""
        return calibration.calibration(self.table)

    @cached_property
    def budget(self) -> list[BudgetLine]:
        """The table of costs."""
        return budget_lines(self.results, self.table)

    @cached_property
    def pictures(self) -> list[budget_curves.BudgetPicture]:
        """The charts of Dice against cost of each target."""
        return budget_curves.budget_pictures(self.first, self.first_table)

    @cached_property
    def maps(self) -> list[routes.Map]:
        """The route map of each target."""
        return routes.route_maps(self.first, self.first_table)

    @cached_property
    def growths(self) -> list[Growth]:
        """The routes found in the course of the study."""
        return growths(self.first)

    @property
    def halved(self) -> bool:
        """Whether these routes were found by halving."""
        return sequential_setting(self.results, "routes") == "halving"

    @cached_property
    def forecasts(self) -> list[predictions.Forecast]:
        """How well scores on arrival predicted the routes."""
        return predictions.forecasts(self.first)

    @cached_property
    def transfers(self) -> list[forgetting.TransferLine]:
        """The transfer of each method along its routes."""
        return forgetting.transfer_lines(self.results)

    @cached_property
    def shares(self) -> list[own_patients.OwnPatients]:
        """The table of shares of each target's own patients."""
        return own_patients.own_patients(self.results)

    @cached_property
    def matrices(self) -> list[forgetting.Matrix]:
        """The tables of forgetting."""
        return forgetting.matrices(self.first)


def shades(table: Comparison) -> list[list[str]]:
    """Return a colour for each cell of the comparison; an empty text for a cell without a Dice."""
    columns = []
    for column in range(len(table.targets)):
        cells = [line.cells[column] for line in table.with_headline]
        # Models without training at the target may score far lower, and would leave a single colour for all other
        # models.
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

"""The cost of each method in gradient steps and bytes: of the route to a target, and of all of the method's stages."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from common.plan import method_of
from server.report.table import Comparison
from server.report.wording import full_name
from server.results.schema import Budget, Grown, Results, Row, Tried


@dataclass(frozen=True)
class Spent:
    """The cost of a chain of stages, from the first weights to the target; the mean over the repeats and rotations."""

    steps: float
    depth: float | None
    """The steps among them that follow one another; None where the results do not say."""
    bytes: float
    way: str
    """The name of the chain; empty where the repeats differ."""


@dataclass(frozen=True)
class BudgetLine:
    """A method's line in the table of costs."""

    label: str
    routed: bool
    """Whether the chains are routes selected by validation."""
    chains: tuple[Spent | None, ...]
    """For each target the cost of its chain; among several routes, of the route selected by validation."""
    everything: Budget | None
    """The cost of all rows of the method: folds, repeats, networks, rounds and discarded routes included."""


def _spent(rows: tuple[Row, ...]) -> Spent | None:
    """Return the mean cost of a cell's rows, a row for each repeat, and of each row's rotations."""
    steps = [row.gradient_steps / (row.rotations or 1) for row in rows if row.gradient_steps is not None]
    moved = [row.bytes_moved / (row.rotations or 1) for row in rows if row.bytes_moved is not None]
    if not steps or not moved:
        return None
    ways = dict.fromkeys(full_name(row) for row in rows)
    deep = [row.sequential_steps for row in rows if row.sequential_steps is not None]
    depth = statistics.fmean(deep) if deep else None
    return Spent(statistics.fmean(steps), depth, statistics.fmean(moved), next(iter(ways)) if len(ways) == 1 else "")


def budget_lines(results: Results, table: Comparison) -> list[BudgetLine]:
    """Return a line for each method, in the table's order, and a last line for the whole study."""
    whole = {budget.method: budget for budget in results.budgets}
    found = []
    for method in dict.fromkeys(cell.row.method for cell in table.cells):
        kind = method_of(method)
        chains = []
        for column in range(len(table.targets)):
            cells = [cell for _, cell in table.column(column) if cell.row.method == method]
            selected = table.selected_at(column) if kind.routed else None
            if selected and selected.row.method != method:  # another kind of route was selected
                selected = None
            # A method with several rows at a target, such as unadapted sources, has no cost of a single chain.
            cell = selected or (cells[0] if len(cells) == 1 else None)
            chains.append(_spent(cell.rows) if cell else None)
        found.append(BudgetLine(kind.title, kind.routed, tuple(chains), whole.get(method)))
    if "all" in whole:
        found.append(BudgetLine("Everything", False, (None,) * len(table.targets), whole["all"]))
    return found if results.budgets or any(any(line.chains) for line in found) else []


@dataclass(frozen=True)
class Growth:
    """A route found in the course of the study: its number of trainings, that of all routes, and the steps to it."""

    target: str
    way: str
    repeat: str
    """The number of the repeat, counted from 1; empty in a study without repeats."""
    trainings: int
    of_all: int
    steps: tuple[GrowthStep, ...]


@dataclass(frozen=True)
class GrowthStep:
    """A step of a search, as in results.json, with its routes from the best to the worst."""

    epochs: int
    tried: tuple[Tried, ...]

    @property
    def going_on(self) -> int:
        """The number of routes that go on."""
        return sum(one.goes_on is True for one in self.tried)


def growths(results: Results) -> list[Growth]:
    """Return the routes found in the course of the study."""
    repeats = results.repeats
    return [
        Growth(
            entry.target,
            _way(entry),
            str(repeats.index(entry.repeat) + 1) if len(repeats) > 1 and entry.repeat in repeats else "",
            entry.trainings,
            entry.trainings_of_all_routes,
            tuple(
                GrowthStep(step.epochs, tuple(sorted(step.tried, key=lambda one: -(one.validation_dice or 0.0))))
                for step in entry.steps
            ),
        )
        for entry in results.grown
    ]


def _way(entry: Grown) -> str:
    """Return a route with arrows, marked if incomplete."""
    complete = entry.route[-1:] == (entry.target,)
    return " → ".join(entry.route) if complete else f"{' → '.join(entry.route)} … (not complete)".strip()

"""The summary: the route selected by validation at each target, compared with the other methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.text import count, listed
from server.report.contrasts import Contrast, Family, own_interval
from server.report.table import Cell, Comparison, deviation, routes_taken
from server.report.wording import figure, full_name, probability, signed
from server.results.schema import Results

NAMED = 3
"""The most methods beside the hospital's own that a target's sentence names one by one."""


@dataclass(frozen=True)
class Gap:
    """The difference between the selected routes and another method, over all targets."""

    opponent: str
    difference: str
    """In points, with its sign."""
    more: str
    """Interval, corrected p, and where the difference is not of all targets; empty if there is nothing to say."""


@dataclass(frozen=True)
class Summary:
    """The content of the summary."""

    where: str
    """The patients behind the differences: "Over the held-out patients of A and B"."""
    above: tuple[Gap, ...]
    """The methods that the selected routes lie above, the farthest first."""
    not_above: tuple[Gap, ...]
    targets: tuple[str, ...]
    """A sentence for each target."""

    @property
    def shown(self) -> bool:
        """Whether there is anything to say."""
        return bool(self.above or self.not_above or self.targets)


def in_short(results: Results, table: Comparison, family: Family) -> Summary:
    """Return the summary of a network."""
    places = [target for target, _ in max((contrast.at for contrast in family.contrasts), key=len, default=())]
    ordered = sorted(family.contrasts, key=lambda contrast: -(contrast.together.difference or 0.0))
    return Summary(
        where=f"Over the held-out patients of {listed(places)}" if places else "",
        above=tuple(_gap(contrast, places) for contrast in ordered if _above(contrast)),
        not_above=tuple(_gap(contrast, places) for contrast in ordered if not _above(contrast)),
        targets=tuple(_by_target(results, table)),
    )


def _above(contrast: Contrast) -> bool:
    """Return whether the selected routes lie above an opponent."""
    gap = contrast.together.difference or 0.0
    return gap > 0 and signed(gap) != "±0.0"


def _gap(contrast: Contrast, places: list[str]) -> Gap:
    """Return a contrast in words: "Target alone", "+1.2", "+0.4 to +2.0, p = 0.012"."""
    whole = contrast.together
    known = []
    if whole.ci95:
        known.append(f"{signed(whole.ci95[0])} to {signed(whole.ci95[1])}")
    if contrast.corrected is not None:
        shown = probability(contrast.corrected)
        known.append(f"p {shown}" if shown.startswith("<") else f"p = {shown}")
    here = [target for target, _ in contrast.at]
    if here != places:
        known.append(f"at {listed(here)} alone")
    return Gap(contrast.opponent, signed(whole.difference), ", ".join(known))


def _by_target(results: Results, table: Comparison) -> Iterator[str]:
    """Yield a sentence for each target: the selected route, the hospital's own models, and where the others lie."""
    what = "test" if table.tested else "validation"
    # folds differ in their validation patients
    beside = "On the same patients" if table.tested or table.folds < 2 else "The others, each in its selected fold"
    for column, target in enumerate(table.targets):
        selected = table.selected_at(column)
        if selected is None or selected.dice is None:
            continue
        found = own_interval(results, selected.rows) if table.tested else None
        interval = f" ({figure(found[0])} to {figure(found[1])})" if found else ""
        mean = f"{figure(selected.dice)}{deviation(selected.dices)}"
        over = f" over {len(selected.rows)} repeats" if len(selected.rows) > 1 else ""
        sentence = (
            f"At {target}, validation chose {routes_taken(selected)},"
            f" with a {what} {results.score.title} of {mean} %{interval}{over}."
        )
        others = _others([cell for _, cell in table.column(column)])
        yield f"{sentence} {beside}: {others}." if others else sentence


def _others(cells: list[Cell]) -> str:
    """Return the Dice of the methods beside the routes: of the hospital's own one by one, of many others the range."""
    beside = [
        (cell.row.kind.alone, full_name(cell.row), cell.dice)
        for cell in cells
        if cell.dice is not None and cell.row.kind.adapted and not cell.row.kind.travelling
    ]
    rest = [dice for alone, _, dice in beside if not alone]
    named = [(name, dice) for alone, name, dice in beside if alone or len(rest) <= NAMED]
    parts = [f"{name} {figure(dice)}" for name, dice in named]
    if len(rest) > NAMED:
        parts.append(f"{count(len(rest), 'further method')} from {figure(min(rest))} to {figure(max(rest))}")
    return "; ".join(parts)

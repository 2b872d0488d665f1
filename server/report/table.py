"""The comparison as a table: lines for methods, columns for targets, in the order of the paper's Table III."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.config.values import POOLED
from common.errors import RelayError
from common.plan import Section, method_of, place_of
from common.plan.methods.method import LONGEST
from common.scores import DICE, DICE_VOLUME, HD95, IOU, Score
from common.text import count, listed
from server.report.wording import figure, full_name, site_names, sources, targets
from server.results.schema import Results, Row, Spread

HEADLINE_MARK = "★"
ABSENT_MARK = "†"
FEW_MARK = "‡"
FEWEST_ROUNDS = 10
"""The rounds below which an average is marked, and has no test: it had no chance to be at its best."""


@dataclass(frozen=True)
class Cell:
    """A method at a target."""

    rows: tuple[Row, ...]
    """The selected row of each repeat, in the order of repeats."""
    repeats: int
    """The number of the study's repeats; with fewer rows, some repeats could not be finished."""
    absent: tuple[str, ...] = ()
    """Sites whose planned training was left out in at least one row."""
    spread: Spread | None = None
    tested: bool = True
    """Whether scores are of test patients; otherwise scores are of validation patients."""
    patients: int | None = None
    """Patients behind the scores of each repeat; None where the number is unknown or differs between repeats."""
    score: Score = DICE
    """The Dice by which the study selects and compares."""

    @property
    def row(self) -> Row:
        """The row of the first repeat."""
        return self.rows[0]

    @property
    def dices(self) -> list[float]:
        """The Dice of each repeat, in per cent."""
        return [value for row in self.rows if (value := row.value(self.score, tested=self.tested)) is not None]

    @property
    def dice(self) -> float | None:
        """The mean Dice over the repeats, in per cent."""
        return statistics.fmean(self.dices) if self.dices else None

    def mean(self, score: Score) -> float | None:
        """Return the mean of a score over the repeats, in the unit in which it is shown."""
        known = [value for row in self.rows if (value := row.value(score, tested=self.tested)) is not None]
        return statistics.fmean(known) if known else None

    @property
    def false_slices(self) -> tuple[int, int] | None:
        """In how many slices without gland the model draws gland, and how many there are, over all repeats.

        None where no test patient was looked at.
        """
        pairs = [(row.false_slices, row.empty_slices) for row in self.rows]
        known = [(drawn, empty) for drawn, empty in pairs if drawn is not None and empty is not None]
        return (sum(drawn for drawn, _ in known), sum(empty for _, empty in known)) if known else None

    @property
    def headlines(self) -> int:
        """The number of repeats with this route as the headline."""
        return sum(row.headline for row in self.rows)

    @property
    def whole_volume(self) -> str:
        """What the model does on whole volumes, as `whole_volumes` explains; empty where nothing is known."""
        if self.false_slices is None:
            return ""
        dice = [] if self.score is DICE_VOLUME else [figure(self.mean(DICE_VOLUME))]
        return " · ".join([*dice, figure(self.mean(HD95)), "/".join(map(str, self.false_slices))])

    @property
    def figures(self) -> str:
        """The Dice that decides and the score beside it, as "91.4 / 84.9" or over repeats "91.4 ± 0.8 / 84.9"."""
        return f"{figure(self.dice)}{deviation(self.dices)} / {figure(self.mean(beside(self.score)))}"

    @property
    def marks(self) -> str:
        """The marks for a headline, for absent sites and for few rounds; `notes` explains them."""
        share = f" {self.headlines}/{self.repeats}" if self.repeats > 1 else ""
        marks = (ABSENT_MARK if self.absent else "") + (FEW_MARK if self.has_few_rounds else "")
        return (f"{HEADLINE_MARK}{share}" if self.headlines else "") + marks

    @property
    def has_few_rounds(self) -> bool:
        """Whether an average had fewer than `FEWEST_ROUNDS` rounds in every setting."""
        return any(row.rounds is not None and row.rounds < FEWEST_ROUNDS for row in self.rows)

    @property
    def finished(self) -> str:
        """The number of finished repeats, as "2 of 3 repeats"; empty if every repeat is finished."""
        return "" if len(self.rows) == self.repeats else f"{len(self.rows)} of {count(self.repeats, 'repeat')}"

    @property
    def over_all(self) -> str:
        """Mean and deviation over all folds and repeats, as "90.2 ± 1.5"; empty for a single run."""
        if self.spread is None or self.spread.runs < 2:
            return ""
        name = self.score.key if self.tested else f"validation_{self.score.key}"
        mean, std = getattr(self.spread, f"{name}_mean"), getattr(self.spread, f"{name}_std")
        return "" if mean is None or std is None else f"{figure(mean)} ± {figure(std)}"


def whole_volumes(score: Score) -> str:
    """Return what the figures of `Cell.whole_volume` are, given the Dice by which the study compares."""
    before = "" if score is DICE_VOLUME else "Volume Dice in per cent · "
    return f"{before}95 % Hausdorff distance in mm · slices without gland in which gland is drawn, of how many such."


def beside(score: Score) -> Score:
    """Return the score that a cell shows after the Dice that decides: IoU, or the slice mean after volume Dice."""
    return IOU if score is DICE else DICE


def deviation(values: Sequence[float]) -> str:
    """Return the standard deviation of some values, as " ± 0.8"; empty for a single value."""
    return f" ± {figure(statistics.stdev(values))}" if len(values) > 1 else ""


@dataclass(frozen=True)
class TableLine:
    """A line of the table."""

    label: str
    section: tuple[Section, int]
    """The kind of method, and the hops of a route; lines of the same section stand together."""
    cells: tuple[Cell | None, ...]
    """A cell for each target; None where the line does not apply."""


@dataclass(frozen=True)
class Comparison:
    """The table of a network."""

    targets: tuple[str, ...]
    lines: tuple[TableLine, ...]
    """A line for each method; each route has a line of its own."""
    repeats: int
    folds: int
    tested: bool
    """Whether scores are of test patients; otherwise scores are of validation patients."""
    patients: tuple[int | None, ...]
    """Patients behind the scores at each target; None where the number is unknown or differs between methods or
    repeats."""
    score: Score
    """The Dice by which the study selects and compares."""
    rotations: int = 1
    """The number of rotations whose test patients each figure pools."""
    headline: TableLine | None = None
    """With several repeats or rotations, the line of the routes selected by validation, which may differ between
    them."""

    def shown(self, row: Row) -> float | None:
        """Return the Dice that the study compares by, in per cent."""
        return row.value(self.score, tested=self.tested)

    @property
    def cells(self) -> list[Cell]:
        """All cells, line by line."""
        return [cell for line in self.lines for cell in line.cells if cell]

    @property
    def with_headline(self) -> tuple[TableLine, ...]:
        """All lines, with the line of the selected routes before the routes."""
        if self.headline is None:
            return self.lines
        before = sum(line.section < (Section.ROUTES, 0) for line in self.lines)
        return (*self.lines[:before], self.headline, *self.lines[before:])

    def column(self, index: int) -> Iterator[tuple[TableLine, Cell]]:
        """Yield each line with a cell at a target, and the cell."""
        for line in self.lines:
            cell = line.cells[index]
            if cell is not None:
                yield line, cell

    def selected_at(self, index: int) -> Cell | None:
        """Return the cell of the route selected by validation at a target, in each repeat."""
        line = self.headline
        if line is not None:
            return line.cells[index]
        return next((cell for _, cell in self.column(index) if cell.headlines), None)


def _section(row: Row) -> tuple[Section, int]:
    """Return the section of a row: the kind of method, and the hops of a route with a line of its own."""
    hops = len(sources(row)) if row.kind.routed and row.kind.own_line else 0
    return row.kind.section, hops


def absent(row: Row, sites: Sequence[str]) -> tuple[str, ...]:
    """Return the sites without their planned training for a row."""
    if row.contributed is None or POOLED in row.contributed:
        return row.absent
    needed = sites if row.kind.everybody else row.route
    lacking = [site for site in needed if site not in row.contributed]
    return tuple(dict.fromkeys((*lacking, *row.absent)))


def comparison(results: Results) -> Comparison:
    """Return the table of the selected rows of each method and target, for a single network.

    Raises:
        RelayError: two selected rows of the same repeat belong to the same cell.
    """
    names, columns, repeats, tested = site_names(results), targets(results), len(results.repeats), results.tested
    order = {name: index for index, name in enumerate(names)}
    spread = {(entry.method, entry.route, entry.target): entry for entry in results.spread}
    lines: dict[tuple[tuple[Section, int], int, tuple[int, ...], str], dict[str, dict[tuple[int, int], Row]]] = {}
    for row in results.rows:
        if not row.selected or row.share is not None:
            continue  # rows of a share stand in a section of their own
        # the target is the column; lines differ in method and sources
        way = tuple(order.get(site, len(order)) for site in sources(row)) if row.kind.own_line else ()
        key = (_section(row), place_of(row.kind), way, row.kind.line_of(row.route, row.target))
        found = lines.setdefault(key, {}).setdefault(row.target, {})
        if row.repeat in found:
            raise RelayError(
                f"results.json has two selected rows for {full_name(row)} at {row.target}:"
                " run the study again into the same folder."
            )
        found[row.repeat] = row

    def cell(found: dict[tuple[int, int], Row] | None) -> Cell | None:
        if not found:
            return None
        rows = tuple(found[repeat] for repeat in results.repeats if repeat in found)
        route = () if rows[0].kind.grows else rows[0].route
        lacking = dict.fromkeys(site for row in rows for site in absent(row, names))
        return Cell(
            rows,
            repeats,
            tuple(lacking),
            spread.get((rows[0].method, route, rows[0].target)),
            tested,
            _one([_behind(results, row) for row in rows]),
            results.score,
        )

    return Comparison(
        targets=columns,
        lines=tuple(
            TableLine(key[-1], key[0], tuple(cell(lines[key].get(target)) for target in columns))
            for key in sorted(lines)
        ),
        repeats=repeats,
        folds=results.folds,
        tested=tested,
        patients=tuple(
            _one([_behind(results, row) for row in results.rows if row.selected and row.target == target])
            for target in columns
        ),
        score=results.score,
        rotations=results.rotations,
        headline=_headline(results, columns) if repeats > 1 or results.chosen else None,
    )


def _behind(results: Results, row: Row) -> int | None:
    """Return the number of patients behind a row's scores, or None."""
    if results.tested:
        return row.patients
    site = next((site for site in results.sites if site.name == row.target), None)
    if site is None or row.fold is None or row.fold >= len(site.validation_patients):
        return None
    return site.validation_patients[row.fold]


def _one(numbers: Sequence[int | None]) -> int | None:
    """Return the common value of equal numbers, or None for different numbers."""
    return numbers[0] if len(set(numbers)) == 1 else None


def _headline(results: Results, columns: tuple[str, ...]) -> TableLine | None:
    """Return the line of the routes selected by validation, for each target and repeat; None where they grow."""
    repeats, tested = len(results.repeats), results.tested
    cells = []
    for target in columns:
        rows = sorted((row for row in results.headlines if row.target == target), key=lambda row: row.variant)
        if any(row.kind.grows for row in rows):
            return None  # a growing route has a line of its own already
        cells.append(Cell(tuple(rows), repeats, tested=tested, score=results.score) if rows else None)
    return TableLine("Route by validation", (Section.ROUTES, 0), tuple(cells)) if any(cells) else None


def _controls(table: Comparison) -> Iterator[str]:
    """Yield notes on the control for methods with more gradient steps than the longest route."""
    methods = {cell.row.method for cell in table.cells}
    controls = {cell.row.kind.title: cell.row.kind.control for cell in table.cells if cell.row.kind.control}
    if methods & set(controls.values()):
        yield "Longest: with as many gradient steps as the longest row that ends with “then the target” may have."
    beyond = [title for title, control in controls.items() if control not in methods]
    if beyond and any(cell.row.kind.alone for cell in table.cells):
        yield (
            f"{'; '.join(beyond)}: up to a training more of gradient steps than the target alone has in any row here;"
            f' methods.more = ["{LONGEST}"] would give it as many.'
        )


def notes(table: Comparison) -> list[str]:
    """Return what the marks in a table mean; a mark that the table does not have is not explained."""
    found, name = [], table.score.title
    if any(cell and cell.headlines for line in table.with_headline for cell in line.cells):
        what = "chosen anew in each rotation" if table.rotations > 1 else ""
        what += f"{' ' if what else ''}and in how many of the repeats" if table.repeats > 1 else ""
        who = "; test patients had no say in it" if table.tested else ""
        found.append(
            f"{HEADLINE_MARK} the route with the best validation {name} at this target"
            f"{', in the mean over folds' if table.folds > 1 else ''}{', ' + what if what else ''}{who}."
        )
    if any(cell.row.kind.longer for cell in table.cells):
        routed = any(cell.row.kind.routed for cell in table.cells)
        steps = "the target's longest route" if routed else "all hospitals together"
        found.append(f"Longer: with as many gradient steps as {steps}.")
    found += _controls(table)
    if any(cell.row.kind.section is Section.UNSEEN for cell in table.cells):
        found.append(
            "Target unseen: no patient of the target trained the model or chose anything for it; the validation"
            " patients of other hospitals chose."
        )
    grown = [routes_taken(cell) for cell in table.cells if cell.row.kind.grows]
    if grown:
        found.append(f"Routes found: {'; '.join(grown)}.")
    lacking = [
        f"{full_name(cell.row)} at {cell.row.target} without {', '.join(cell.absent)}"
        for cell in table.cells
        if cell.absent
    ]
    if lacking:
        found.append(f"{ABSENT_MARK} not every hospital took part: {'; '.join(lacking)}.")
    few = dict.fromkeys(
        f"{method_of(cell.row.method).title} ({cell.row.rounds})" for cell in table.cells if cell.has_few_rounds
    )
    if few:
        found.append(
            f"{FEW_MARK} fewer than {FEWEST_ROUNDS} rounds, too few for an average at its best, so that no p is given"
            f" against it: {listed(few)}."
        )
    missing = [
        f"{full_name(cell.row)} at {cell.row.target} has {cell.finished}" for cell in table.cells if cell.finished
    ]
    if missing:
        found.append(f"Not everything could be finished: {'; '.join(missing)}.")
    return found


def routes_taken(cell: Cell) -> str:
    """Return the routes of a cell's repeats, each with its number of repeats: "C → A (2), B → A (1)"."""
    return routes_taken_by(cell.rows)


def routes_taken_by(rows: Sequence[Row]) -> str:
    """Return the routes of rows, a row for each repeat, each with its number of repeats."""
    routes = [full_name(row) for row in rows]
    if len(set(routes)) == 1:
        return routes[0]
    often = sorted(dict.fromkeys(routes), key=lambda route: -routes.count(route))
    return ", ".join(f"{route} ({routes.count(route)})" for route in often)

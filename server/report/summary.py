"""The summary: the route selected by validation at each target, compared with the other methods."""

from __future__ import annotations

from common.text import listed
from server.report.contrasts import Contrast, Family, own_interval
from server.report.table import Comparison, deviation, routes_taken
from server.report.wording import figure, full_name, probability, signed
from server.results.schema import Results


def in_short(results: Results, table: Comparison, family: Family) -> list[str]:
    """Return sentences on all targets together, and a sentence for each target."""
    return [*_together(results, family), *_by_target(results, table)]


def _together(results: Results, family: Family) -> list[str]:
    """Return sentences on all methods below the selected routes, and on all methods not below."""
    if not family.contrasts:
        return []
    places = [target for target, _ in max((contrast.at for contrast in family.contrasts), key=len)]
    where = f"Over the held-out patients of {listed(places)}"
    sentences = []
    for words, above in (("lies above", True), ("does not lie above", False)):
        found = [_gap(contrast, places) for contrast in family.contrasts if _above(contrast) == above]
        if found:
            points = f"in points of {results.score.title}"
            sentences.append(f"{where}, the route that validation chose {words}, {points}: {'; '.join(found)}.")
    return sentences


def _above(contrast: Contrast) -> bool:
    """Return whether the selected routes lie above an opponent."""
    gap = contrast.together.difference or 0.0
    return gap > 0 and signed(gap) != "±0.0"


def _gap(contrast: Contrast, places: list[str]) -> str:
    """Return a contrast in words: "target alone (+1.2, +0.4 to +2.0, p = 0.012)"."""
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
    name = contrast.opponent
    name = name[0].lower() + name[1:] if name.startswith(("Target", "All", "Best")) else name
    return f"{name} ({', '.join([signed(whole.difference), *known])})"


def _by_target(results: Results, table: Comparison) -> list[str]:
    """Return a sentence for each target, with the selected route and the other methods."""
    what = "test" if table.tested else "validation"
    # folds differ in their validation patients
    beside = "On the same patients" if table.tested or table.folds < 2 else "The others, each in its selected fold"
    sentences = []
    for column, target in enumerate(table.targets):
        selected = table.selected_at(column)
        if selected is None or selected.dice is None:
            continue
        others = [
            f"{full_name(cell.row)} {figure(cell.dice)}"
            for _, cell in table.column(column)
            if cell.dice is not None and cell.row.kind.adapted and not cell.row.kind.travelling
        ]
        found = own_interval(results, selected.rows) if table.tested else None
        interval = f" ({figure(found[0])} to {figure(found[1])})" if found else ""
        mean = f"{figure(selected.dice)}{deviation(selected.dices)}"
        over = f" over {len(selected.rows)} repeats" if len(selected.rows) > 1 else ""
        sentences.append(
            f"At {target}, validation chose {routes_taken(selected)},"
            f" with a {what} {results.score.title} of {mean} %{interval}{over}."
            + (f" {beside}: {'; '.join(others)}." if others else "")
        )
    return sentences

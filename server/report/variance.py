"""Where the figures vary: patients, splits, trainings, and methods that do better at one hospital than at another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from common.statistics.variance import LEFT, components
from server.results.schema import Results, Row

ROUTE = "route by validation"


@dataclass(frozen=True)
class Share:
    """A source of variance."""

    title: str
    sd: float
    """The standard deviation that the source makes, in points of the Dice that decides."""
    share: float
    """Per cent of the sum of all variances."""


def shares(results: Results) -> list[Share]:
    """Return the sources of variance; none for a study of one repeat, or where figures of single patients are missing.

    Compared are the route that validation chose and every other method, in their selected folds. Hospitals and methods
    have means of their own, which are no variance here.

    Args:
        results: the results of a single network.
    """
    repeats = results.repeats
    splits = {split for split, _ in repeats}
    rows = [row for row in results.rows if _counts(row) and row.value(results.score) is not None]
    if len(repeats) < 2 or any(row.cases(results.score) is None for row in rows):
        return []
    entries = [(row, case, value) for row in rows for case, value in _values(row, results)]
    if not entries:
        return []
    sources: dict[str, list[object]] = {
        "patients of a hospital": [(row.target, case) for row, case, _ in entries],
        "methods that do better at one hospital than at another": [(row.target, _method(row)) for row, _, _ in entries],
    }
    if len({row.target for row in rows}) < 2 or len({_method(row) for row in rows}) < 2:
        del sources["methods that do better at one hospital than at another"]
    split_only = [(row.target, _method(row), row.repeat[0]) for row, _, _ in entries]
    training = [(row.target, _method(row), row.repeat) for row, _, _ in entries]
    if len(splits) in (1, len(repeats)):
        title = "training seeds" if len(splits) == 1 else "splits and training seeds, which change together"
        sources[title] = list(training)
    else:
        sources["splits: which patients train"] = list(split_only)
        sources["training seeds within a split"] = list(training)
    fixed = {
        "hospital": [row.target for row, _, _ in entries],
        "method": [_method(row) for row, _, _ in entries],
    }
    try:
        found = components([value for _, _, value in entries], fixed=fixed, random=sources)
    except ValueError:
        return []
    total = sum(found.values())
    if not total:
        return []
    titles = {LEFT: "patients that suit one training and not another"}
    return [Share(titles.get(name, name), math.sqrt(one), 100 * one / total) for name, one in found.items()]


def _counts(row: Row) -> bool:
    """Return whether a row is compared: the selected fold of an adapted method, of routes the one marked with ★."""
    return row.selected and row.kind.adapted and not row.absent and (not row.kind.routed or row.headline)


def _method(row: Row) -> str:
    return ROUTE if row.kind.routed else row.method


def _values(row: Row, results: Results) -> Iterator[tuple[str, float]]:
    for case, (value, weight) in (row.cases(results.score) or {}).items():
        if value is not None and weight:
            yield case, value

"""Which of a target's rows in results.json validation selects, worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any


def best_row(rows: Iterable[dict[str, Any]], score: str = "validation_dice") -> dict[str, Any]:
    """The method and route (of a variant) with the highest mean over its folds, and of it the best fold."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row.get("variant"), row["method"], tuple(row["route"])), []).append(row)
    means = {key: sum(Fraction(row[score]) for row in group) / len(group) for key, group in groups.items()}
    return max(groups[max(means, key=lambda key: means[key])], key=lambda row: row[score])

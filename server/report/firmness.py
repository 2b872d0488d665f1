"""How firm the routes marked with ★ are: what other validation patients would have chosen, in a sentence or two."""

from __future__ import annotations

import statistics
from collections import defaultdict

from common.statistics.intervals import FEWEST
from common.text import listed
from server.report.wording import signed, targets
from server.results.schema import Results, RouteChoice, Row


def firmness(results: Results) -> list[str]:
    """Return how often another route would have been chosen at each target, and why it is not known elsewhere.

    Args:
        results: the results of a single network.
    """
    marked = {row.target for row in _chosen_among(results) if row.headline and not row.kind.grows}
    found: dict[str, list[RouteChoice]] = defaultdict(list)
    for entry in results.route_choices:
        if entry.target in marked:
            found[entry.target].append(entry)
    told = []
    if found:
        here = [target for target in targets(results) if target in found]
        shares = [f"{_mean([one.another for one in found[target]]):.0f} % at {target}" for target in here]
        above = [f"{signed(_mean([one.optimism for one in found[target]]))} at {target}" for target in here]
        told.append(
            "How firm ★ is: with other validation patients like these (2000 resamples) another route would have been"
            f" chosen in {listed(shares)}. Being the best of several, its validation {results.score.title} is too good,"
            f" by an estimated {listed(above)} points{'; test patients know nothing of it' if results.tested else ''}."
        )
    several = {row.target for row in results.rows if len(_routes(results, row.target)) > 1}
    lacking = [target for target in targets(results) if target in (marked & several) - found.keys()]
    if lacking:
        told.append(
            f"How often other validation patients would have chosen another route is not known for {listed(lacking)}:"
            f" it takes {FEWEST} of them and their single figures, which stay at the hospital unless its"
            " `patient_scores` is true."
        )
    return told


def _chosen_among(results: Results) -> tuple[Row, ...]:
    """Return the rows among which validation chose: where the test rotates, those of each rotation."""
    return results.rotation_rows or results.rows


def _routes(results: Results, target: str) -> set[tuple[str, ...]]:
    return {row.route for row in _chosen_among(results) if row.target == target and row.kind.routed}


def _mean(values: list[float | None]) -> float:
    return statistics.fmean(value for value in values if value is not None)

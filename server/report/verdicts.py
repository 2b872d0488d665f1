"""The page's first paragraph: for each hospital whether handing a model on helped, by how much, with how many patients.

The comparison is that of the hospital's letter (`client.delivery.letter`): the route that validation chose, against the
model that validation chose among those trained on the hospital's patients alone.
"""

from __future__ import annotations

import statistics

import numpy as np

from common.errors import RelayError
from common.scores import DICE
from common.statistics.intervals import FEWEST, Repeat, patients_of
from common.statistics.paired import patient_means
from common.statistics.verdict import Gain, untold, verdict_sentence
from server.report.contrasts import differences, effect_of, not_compared
from server.report.wording import targets
from server.results.schema import Results, Row

WHAT = "handing on"
COMPARED = "Compared are the route that validation chose and the hospital's own model, trained on its patients alone."


def verdicts(results: Results) -> list[str]:
    """Return the sentences of the first paragraph.

    Args:
        results: the results of a single network.
    """
    if nothing := _nothing_to_tell(results):
        return [nothing]
    return [*(verdict(results, target) for target in targets(results)), COMPARED]


def verdict(results: Results, target: str) -> str:
    """Return the sentence about a hospital, or why there is none about any.

    Args:
        results: the results of a single network.
        target: the hospital.

    Raises:
        RelayError: no row is scored at this hospital.
    """
    if target not in targets(results):
        raise RelayError(f'The results have no target "{target}"; give one of {", ".join(targets(results))}.')
    return _nothing_to_tell(results) or _sentence(results, target, dict(not_compared(results)))


def _nothing_to_tell(results: Results) -> str:
    """Return why nothing can be said of any hospital; empty where something can."""
    if not any(row.kind.routed for row in results.rows):
        return "No model was handed on from hospital to hospital in this study."
    if not results.tested:
        return "No test patient was looked at, so it cannot be told from this study whether handing on helped."
    return ""


def measured_sd(results: Results) -> dict[str, float]:
    """Return the standard deviation of the patients' differences between route and own model, in points, by target.

    Each patient counts once, with the mean over the repeats. Targets with fewer than `FEWEST` patients are left out.

    Args:
        results: the results of a single network.
    """
    problems, found = dict(not_compared(results)), {}
    for target in targets(results):
        repeats = differences(_pairs(results, target), results.score) if target not in problems else None
        if repeats and len(patients_of(repeats)) >= FEWEST:
            found[target] = float(np.std(list(patient_means(repeats).values()), ddof=1))
    return found


def _pairs(results: Results, target: str) -> list[tuple[Row, Row]]:
    """Return for each repeat the route that validation chose at a target, and the hospital's own model."""
    score = results.score

    def chosen_by(row: Row) -> float:
        value = row.value(score, tested=False)
        return -1.0 if value is None else value

    rows = [row for row in results.rows if row.target == target and row.value(score) is not None]
    chosen = [row for row in results.chosen if row.target == target and row.value(score) is not None]
    found = []
    for repeat in results.repeats:
        here = [row for row in rows if row.repeat == repeat]
        route = next((row for row in results.headlines if row.repeat == repeat and row.target == target), None)
        # Where the test rotates, each rotation has chosen by itself: one rotation's validation patients test another.
        own = [row for row in chosen if row.repeat == repeat and row.kind.alone] or [
            row for row in here if row.selected and row.kind.alone and not row.absent
        ]
        if route and own:
            found.append((route, max(own, key=chosen_by)))
    return found


def _sentence(results: Results, target: str, problems: dict[str, str]) -> str:
    if target in problems:
        return untold(target, WHAT, "its rows cannot be compared")
    pairs = _pairs(results, target)
    if not pairs:
        return untold(target, WHAT, "a route or the hospital's own model is missing")
    score = results.score
    repeats: list[Repeat] | None = differences(pairs, score)
    volumes = [
        one.dice_volume - other.dice_volume
        for one, other in pairs
        if one.dice_volume is not None and other.dice_volume is not None
    ]
    volume = statistics.fmean(volumes) if volumes and score is DICE else None
    if repeats is None:
        mean = statistics.fmean((one.value(score) or 0.0) - (other.value(score) or 0.0) for one, other in pairs)
        gain = Gain(mean, None, max(one.patients or 0 for one, _ in pairs), volume)
    else:
        effect = effect_of({target: repeats})
        gain = Gain(effect.difference or 0.0, effect.ci95, effect.patients, volume)
    return verdict_sentence(target, WHAT, gain, score.title, results.margin)

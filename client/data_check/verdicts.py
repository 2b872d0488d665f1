"""From evidence to findings: the verdict on the outlines, in sentences and in counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from client.data_check.evidence import HIDDEN, LEAST_LIKENESS, Moved, Verdict
from client.data_check.findings import BY_OUTLINE, Finding, Kind, Looked
from client.data_check.moves import GIVEN, Move
from client.data_check.outline import View
from client.data_check.swaps import Elsewhere, alike
from client.data_check.trials import Outlined
from common.text import percent

MISFIT = 1 / 3
"""The part of the site's usual likeness below which a mask does not fit at all."""
ASTRAY_MM, ASTRAY = 40.0, 6.0
"""Millimetres, and robust deviations, from the others' usual place; a gland farther away than both is reported."""
WORTH_TELLING_MM = 5.0


def outline_findings(
    patients: Mapping[str, Outlined], verdict: Verdict, swapped: Mapping[str, Elsewhere]
) -> list[Finding]:
    """Return the findings of the outlines, at most one finding of a wrong mask for each patient."""
    found = []
    usual = float(np.median(list(verdict.likeness.values()))) if verdict.likeness else 0.0
    astray = _astray(patients) if verdict.likeness else {}
    for name in patients:
        if name in swapped:
            found.append(_elsewhere(name, swapped[name]))
        elif name in verdict.moved:
            found.append(_moved(name, verdict.moved[name]))
        elif name in verdict.upside_down:
            move, advantage = verdict.upside_down[name]
            found.append(_upside_down(name, move, advantage))
        elif usual >= LEAST_LIKENESS and verdict.likeness.get(name, usual) < usual * MISFIT:
            own = verdict.likeness[name]
            found.append(
                Finding(
                    Kind.MISPLACED,
                    name,
                    f"The mask fits its image badly: agreement with the other patients {own:.2f}, usual are"
                    f" {usual:.2f}. No turn and no other patient's image explains it.",
                    {"likeness": own, "usual": usual},
                )
            )
        elif name in astray:
            found.append(
                Finding(
                    Kind.MISPLACED,
                    name,
                    f"The gland's middle lies {astray[name]:.0f} mm from where the other patients' lie.",
                    {"away_mm": astray[name]},
                )
            )
    return found


def looked(
    patients: Mapping[str, Outlined],
    views: Mapping[str, View],
    verdict: Verdict,
    found: Sequence[Finding],
) -> list[Looked]:
    """Return, for each kind found by outlines, the numbers of patients compared, found, hidden and undecided.

    Args:
        patients: patients with an outline.
        views: the usable patients' images, by patient.
        verdict: the verdict on the outlines.
        found: all findings so far.
    """
    wrong = {finding.patient for finding in found if finding.kind in BY_OUTLINE}
    counts = []
    for kind in BY_OUTLINE:
        names = {finding.patient for finding in found if finding.kind is kind}
        if kind is Kind.MISPLACED:
            compared = len(verdict.likeness)
            hidden = {
                name
                for name in verdict.likeness
                if any(alike(views[name], views[other]) > HIDDEN for other in verdict.likeness if other != name)
            }
            counts.append(Looked(kind, compared, len(names), len(hidden - names)))
            continue
        hidden = {name for name, patient in patients.items() if _hidden(patient, kind)}
        undecided = {name for name, kinds in verdict.undecided.items() if kind in kinds}
        without = set(views) - set(patients)
        counts.append(
            Looked(
                kind,
                compared=len(views),
                found=len(names),
                hidden=len(hidden - names),
                undecided=len((undecided | without) - hidden - wrong),
            )
        )
    return counts


def together_sentence(move: Move, moved: Iterable[Moved], patients: int) -> str:
    """Return a sentence on a fault of the whole site."""
    same = sum(one.move == move for one in moved)
    return (
        f"{move.words}, the masks of {same} of {patients} patients would fit their images better:"
        " the whole site may have been converted wrongly."
    )


def _hidden(patient: Outlined, kind: Kind) -> bool:
    """Return whether some move of this kind would hardly change the mask."""
    return any(dice > HIDDEN for move, dice in patient.dice.items() if move.kind is kind)


def _moved(name: str, moved: Moved) -> Finding:
    if moved.by_edges:
        sentence = (
            f"{moved.move.words}, the mask would lie on stronger edges of its image: {moved.likeness:.2f} instead of"
            f" {moved.given:.2f}, stronger along {percent(moved.better, 0)} of its outline."
        )
        return Finding(
            moved.move.kind,
            name,
            sentence,
            {"advantage": moved.advantage, "edges": moved.likeness, "edges_given": moved.given},
        )
    sentence = (
        f"{moved.move.words}, the mask would fit its image better: agreement with the other patients"
        f" {moved.likeness:.2f} instead of {moved.given:.2f}, better along {percent(moved.better, 0)} of its outline."
    )
    if moved.given_away - moved.away > WORTH_TELLING_MM:
        sentence += (
            f" The gland's middle would lie {moved.away:.0f} mm from where the others' lie, instead of"
            f" {moved.given_away:.0f}."
        )
    return Finding(
        moved.move.kind,
        name,
        sentence,
        {
            "advantage": moved.advantage,
            "likeness": moved.likeness,
            "likeness_given": moved.given,
            "share_better": moved.better,
            "away_mm": moved.away,
            "away_given_mm": moved.given_away,
        },
    )


def _elsewhere(name: str, swapped: Elsewhere) -> Finding:
    return Finding(
        Kind.MISPLACED,
        name,
        f"The mask fits the image of {swapped.owner} better than its own: agreement with the other patients"
        f" {swapped.likeness:.2f} there and {swapped.given:.2f} here.",
        {"advantage": swapped.advantage, "likeness": swapped.likeness, "likeness_given": swapped.given},
    )


def _upside_down(name: str, move: Move, advantage: float) -> Finding:
    what = "front and back" if move.rows else "head and feet"
    return Finding(
        Kind.ORIENTATION,
        name,
        f"Against the other patients' images, {what} are exchanged in this one, and in its mask with it.",
        {"advantage": advantage},
    )


def _astray(patients: Mapping[str, Outlined]) -> dict[str, float]:
    """Return, for glands far from the others' usual place, the distance from the usual place in millimetres."""
    places = np.array([patient.middle[GIVEN] for patient in patients.values()])
    centre = np.median(places, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(places - centre), axis=0), 3.0)
    away = np.linalg.norm(places - centre, axis=1)
    deviations = np.linalg.norm((places - centre) / spread, axis=1)
    return {
        name: float(far)
        for name, far, apart in zip(patients, away, deviations, strict=True)
        if far > ASTRAY_MM and apart > ASTRAY
    }

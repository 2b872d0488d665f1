"""What the values of a site's masks seem to be, by place and size: the peripheral zone lies behind the central one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from client.data.layouts import Part, Statement
from client.data_check.findings import Finding, Kind
from client.data_check.patient import Patient
from common.target import CG, PZ, ZONES
from common.text import count, listed

ALIKE = 0.8
"""The least share of patients in whom one value has to lie behind the other before the two count as zones."""
MOST_SHOWN = 8


def values_seen(patients: Sequence[Patient], stated: Statement) -> tuple[str, ...]:
    """Return a remark on size and place of the values in the masks, and on what they seem to be.

    Nothing is said of masks with a single value.

    Args:
        patients: the site's usable patients.
        stated: the site's statements.
    """
    seen: dict[float, list[tuple[float, float | None]]] = defaultdict(list)
    for patient in patients:
        for part in patient.parts:
            seen[part.value].append((part.ml, part.behind_mm))
        if len(patient.values) == 1:
            seen[patient.values[0][0]].append((patient.gland_ml, None))
    if len(seen) < 2:
        return ()
    texts = [_described(value, seen[value]) for value in sorted(seen)[:MOST_SHOWN]]
    return (f"The masks hold the values {listed(texts)}. {_seeming(patients, seen, stated)}",)


def missing_zones(patient: Patient, stated: Statement) -> tuple[str, ...]:
    """Return a sentence for each zone that the site file names and a patient's mask lacks.

    Args:
        patient: the patient.
        stated: the site's statements.
    """
    there = {value for value, _ in patient.values}
    named = stated.zone_names or stated.zones
    return tuple(
        f"The mask lacks the {zone.title} ({listed(map(str, names))} in the site file); in a study of the zones the"
        " patient counts as one of whom the whole gland alone is drawn."
        # none, where the site names no zones
        for zone, values, names in zip(ZONES.zones, stated.zones, named, strict=False)
        if there.isdisjoint(values)
    )


def exchanged_zones(patient: Patient, stated: Statement) -> list[Finding]:
    """Return a finding where a patient's peripheral zone, by the site file, lies in front of the central gland.

    Args:
        patient: the patient.
        stated: the site's statements.
    """
    behind = [_behind(patient.parts, values) for values in stated.zones]
    if len(behind) < 2 or behind[0] is None or behind[1] is None or behind[0] >= behind[1]:
        return []
    sentence = f"The {PZ.title} lies in front of the {CG.title}: the two may be exchanged in this mask."
    return [Finding(Kind.MASK_VALUES, patient.patient, sentence)]


def _described(value: float, parts: Sequence[tuple[float, float | None]]) -> str:
    size = f"{fmean(ml for ml, _ in parts):.3g} ml" + (" in the mean" if len(parts) > 1 else "")
    places = [behind for _, behind in parts if behind is not None]
    where = ""
    if places:
        middle = fmean(places)
        side = "behind" if middle > 0 else "in front of"
        where = f", its middle {abs(middle):.0f} mm {side} the mask's"
    return f"{value:.4g} (in {count(len(parts), 'patient')}, {size}{where})"


def _seeming(
    patients: Sequence[Patient], seen: dict[float, list[tuple[float, float | None]]], stated: Statement
) -> str:
    largest = sorted(seen, key=lambda value: -sum(ml for ml, _ in seen[value]))[:2]
    pairs = [
        tuple(_behind(patient.parts, (value,)) for value in largest)
        for patient in patients
        if {part.value for part in patient.parts}.issuperset(largest)
    ]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    first_behind = sum(one > other for one, other in known)
    share = first_behind / len(known) if known else 0.5
    if max(share, 1 - share) < ALIKE:
        return "By place no two of them are the peripheral zone and the central gland."
    pz, cg = largest if share > 0.5 else largest[::-1]
    agree = max(first_behind, len(known) - first_behind)
    others = [f"{value:.4g}" for value in sorted(seen) if value not in largest]
    text = (
        f"The value {pz:.4g} lies behind {cg:.4g} in {agree} of {count(len(known), 'patient')} with both: it seems to"
        f" be the {PZ.title}, and {cg:.4g} the {CG.title}"
    )
    if others:
        verb = "is" if len(others) == 1 else "are"
        text += f"; {listed(others)} {verb} smaller, and may be a part of either, or no gland"
    if not stated.zones:
        return f"{text}. Studies of the zones need labels = {{ PZ = {pz:.4g}, CG = {cg:.4g} }} in the site file."
    if pz in stated.zones[0] and cg in stated.zones[1]:
        return f"{text}, as the site file says."
    if pz in stated.zones[1] and cg in stated.zones[0]:
        return f'{text}. The site file says the reverse: look at a patient, and correct "labels".'
    return f'{text}. The site file says otherwise: look at a patient, and check "labels".'


def _behind(parts: Sequence[Part], values: Sequence[float]) -> float | None:
    """Return how far the middle of some values lies behind the mask's, in mm; None where none of them is there."""
    here = [part for part in parts if part.value in values]
    total = sum(part.ml for part in here)
    return sum(part.behind_mm * part.ml for part in here) / total if total else None

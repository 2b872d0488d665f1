"""Comparison of each patient with the site's others by header and brightness: spacing, orientation, duplicates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from client.data_check.findings import Finding, Kind
from client.data_check.patient import Patient

ENOUGH_TO_COMPARE = 4
"""The least number of patients with which a patient is compared with the others of the site."""
SPACING_FACTOR = 1.5
INTENSITY_FACTOR = (2.0, 4.0)
"""Factors between a patient's brightness and the site's usual brightness. Above the first factor a patient is reported
if the difference of logarithms exceeds DEVIATIONS robust deviations, above the second always. Scales differ much
between scanners, and much less at one scanner of a site."""
DEVIATIONS = 6.0
TILT, ROLL = 30.0, 15.0
"""Degrees. An axial T2 is tilted to lie across the prostate, by 20 at most as a rule; an axial T2 is not rolled."""
SAME = 0.98
"""The correlation of two fingerprints from which on two images count as the same scan, however scaled their values."""

Fingerprints = Mapping[str, NDArray[np.float32]]
Groups = tuple[tuple[str, ...], ...]


def compare(patients: Sequence[Patient], same: Groups) -> list[Finding]:
    """Return the findings of comparing patients; duplicates, tilt and roll are found in any number of patients.

    Args:
        patients: the site's usable patients.
        same: the groups of patients with the same scan, from `duplicates`.
    """
    found = [*_oblique(patients), *_duplicates(patients, same)]
    if len(patients) >= ENOUGH_TO_COMPARE:
        found += [*_spacing(patients), *_intensity(patients), *_stored(patients)]
    return found


def duplicates(patients: Sequence[Patient], fingerprints: Fingerprints) -> Groups:
    """Return groups of patients with the same scan, each sorted by name."""
    groups: dict[str, set[str]] = {patient.patient: {patient.patient} for patient in patients}

    def join(one: str, other: str) -> None:
        united = groups[one] | groups[other]
        for name in united:
            groups[name] = united

    by_shape = defaultdict(list)
    for patient in patients:
        by_shape[patient.shape].append(patient)
    for alike in by_shape.values():
        prints = np.stack([fingerprints[patient.patient] for patient in alike])
        correlation = prints @ prints.T
        for i, one in enumerate(alike):
            for j in range(i):
                if one.digest == alike[j].digest or correlation[i, j] >= SAME:
                    join(one.patient, alike[j].patient)
    return tuple(sorted({tuple(sorted(group)) for group in groups.values() if len(group) > 1}))


def shared(sites: Mapping[str, Sequence[Patient]]) -> list[str]:
    """Return a sentence for each image that lies at several sites, voxel for voxel.

    In the pooled site such an image would be both trained on and tested.
    """
    owners: dict[str, list[str]] = defaultdict(list)
    for site, patients in sites.items():
        for digest, name in sorted({patient.digest: patient.patient for patient in patients}.items()):
            owners[digest].append(f"{name} of site {site}")
    return sorted(f"One and the same image: {', '.join(names)}." for names in owners.values() if len(names) > 1)


def _duplicates(patients: Sequence[Patient], images: Groups) -> list[Finding]:
    digests = {patient.patient: patient.digest for patient in patients}
    found = []
    for group in images:
        for name in group:
            others = [other for other in group if other != name]
            exactly = all(digests[other] == digests[name] for other in others)
            found.append(
                Finding(
                    Kind.DUPLICATE,
                    name,
                    f"The image is {'the same as' if exactly else 'the same scan as'} that of {', '.join(others)}:"
                    " training and test would share it.",
                )
            )
    masks = defaultdict(list)
    for patient in patients:
        masks[patient.mask_digest].append(patient.patient)
    twice = [group for group in masks.values() if len(group) > 1 and tuple(sorted(group)) not in images]
    for names in twice:
        for name in names:
            owners = ", ".join(other for other in names if other != name)
            found.append(
                Finding(
                    Kind.DUPLICATE,
                    name,
                    f"The mask is the same, voxel for voxel, as that of {owners}, and the image is not.",
                )
            )
    return found


def _spacing(patients: Sequence[Patient]) -> list[Finding]:
    usual = np.median([patient.spacing for patient in patients], axis=0)
    typical = " × ".join(f"{value:.3g}" for value in usual)
    found = []
    for patient in patients:
        ratio = np.array(patient.spacing) / usual
        if ratio.max() > SPACING_FACTOR or ratio.min() < 1 / SPACING_FACTOR:
            own = " × ".join(f"{value:.3g}" for value in patient.spacing)
            found.append(
                Finding(
                    Kind.SPACING, patient.patient, f"The spacing, {own} mm, is far from the site's usual {typical} mm."
                )
            )
    return found


def _intensity(patients: Sequence[Patient]) -> list[Finding]:
    bright = np.array([patient.intensity for patient in patients])
    if np.median(bright) <= 0:
        return []
    usual = float(np.median(bright))
    logarithms = np.log(np.maximum(bright, usual * 1e-6))
    away = np.abs(logarithms - np.log(usual))
    limit = np.clip(DEVIATIONS * 1.4826 * np.median(away), *np.log(INTENSITY_FACTOR))
    return [
        Finding(
            Kind.INTENSITY,
            patient.patient,
            f"The brightest voxels have {patient.intensity:.3g}, far from the site's usual {usual:.3g}.",
            {"brightness": patient.intensity, "usual": usual},
        )
        for patient, far in zip(patients, away > limit, strict=True)
        if far
    ]


def _oblique(patients: Sequence[Patient]) -> list[Finding]:
    found = []
    for patient in patients:
        if patient.tilt > TILT:
            sentence = f"The slices are tilted by {patient.tilt:.0f} degrees against axial ones."
            found.append(Finding(Kind.ORIENTATION, patient.patient, sentence, {"tilt": patient.tilt}))
        if abs(patient.roll) > ROLL:
            sentence = f"The slices are turned by {abs(patient.roll):.0f} degrees in their own plane."
            found.append(Finding(Kind.ORIENTATION, patient.patient, sentence, {"roll": patient.roll}))
    return found


def _stored(patients: Sequence[Patient]) -> list[Finding]:
    """Return findings on files whose headers claim other axes than most others' do.

    Such a header is harmless where right; a wrong header flips the image or mask.
    """
    found = []
    for what, of in (("image", lambda patient: patient.stored), ("mask", lambda patient: patient.mask_stored)):
        (usual, often), *_ = Counter(map(of, patients)).most_common()
        if often * 2 <= len(patients):
            continue
        found += [
            Finding(
                Kind.ORIENTATION,
                patient.patient,
                f"The header of the {what} says {of(patient)}, most others' {usual}: where it is wrong, left and"
                " right, front and back or head and feet are exchanged.",
            )
            for patient in patients
            if of(patient) != usual
        ]
    return found

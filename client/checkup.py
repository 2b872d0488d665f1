"""What lies at a site, and what is wrong with it, before anyone trains on it.

Everything here is for the site's own eyes: patients are named. None of it is sent.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from client import layouts
from client.layouts import Case, Problem
from client.site import SiteConfig
from common.errors import BadPatient

__all__ = ["Checkup", "Patient", "check", "summary", "table", "to_json"]

GLAND_ML = (10.0, 350.0)
"""Volumes outside of this are rare enough to look at; the expert masks of NCI-ISBI lie from 17 to 313."""
SPACING_FACTOR = 1.5
INTENSITY_FACTOR = 4.0
ENOUGH_TO_COMPARE = 4
"""From this many patients on, one is compared with the median of the site."""


@dataclass(frozen=True)
class Patient:
    """One patient that can be used."""

    patient: str
    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    spacing: tuple[float, float, float]
    """Millimetres: slice, row, column."""
    slices: int
    """Slices whose mask holds more than the minimum of pixels, on the native grid."""
    gland_slices: int
    """Slices with any mask at all."""
    gland_ml: float
    intensity: float
    """The image's 99th percentile, in the scanner's own units."""
    digest: str
    """SHA-256 of the image's shape and voxels."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Checkup:
    site: str
    layout: str
    minimum_pixels: int
    patients: tuple[Patient, ...]
    """Sorted by name."""
    problems: tuple[Problem, ...]
    """Patients that cannot be used, sorted by name."""
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of patients with one and the same image."""
    notes: tuple[str, ...] = ()
    """What is good to know of the whole site, a sentence each."""


def check(
    site: SiteConfig, *, minimum_pixels: int = 200, progress: Callable[[int, int], None] | None = None
) -> Checkup:
    """Read every patient of a site once.

    Args:
        site: a plain site; the pooled site's members are checked one by one.
        minimum_pixels: a slice counts where its mask holds more pixels than this.
        progress: called with (patients done, patients in all) after each.

    Raises:
        RelayError: a folder is missing, or no patient lies there at all.
    """
    found = layouts.find(site)
    problems, patients = list(found.problems), []
    for done, source in enumerate(found.sources, start=1):
        try:
            patients.append(_examine(layouts.read(source), minimum_pixels=minimum_pixels))
        except BadPatient as error:
            problems.append(Problem(source.patient, str(error)))
        if progress:
            progress(done, len(found.sources))
    duplicates = _duplicates(patients)
    return Checkup(
        site=site.name,
        layout=found.layout,
        minimum_pixels=minimum_pixels,
        patients=tuple(_compare(patient, patients, duplicates) for patient in patients),
        problems=tuple(sorted(problems, key=lambda problem: problem.patient)),
        duplicates=duplicates,
        notes=found.notes,
    )


def summary(checkup: Checkup) -> str:
    """The check-up in one line."""
    slices = sum(patient.slices for patient in checkup.patients)
    warned = sum(bool(patient.warnings) for patient in checkup.patients)
    return (
        f"Site {checkup.site}: {_count(len(checkup.patients), 'usable patient')}, "
        f"{_count(slices, 'slice')} over {checkup.minimum_pixels} pixels; "
        f"{len(checkup.problems)} unusable, {warned} to look at."
    )


def table(checkup: Checkup) -> Table:
    """The check-up as a table for a terminal: patients with warnings, then the unusable ones."""
    grid = Table(title=summary(checkup), title_justify="left")
    grid.add_column("patient", no_wrap=True)
    for title in ("slices × rows × columns", "spacing mm", f"> {checkup.minimum_pixels} px", "gland ml"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("to look at")
    for patient in checkup.patients:
        grid.add_row(
            escape(patient.patient),
            " × ".join(map(str, patient.shape)),
            " × ".join(f"{value:.3g}" for value in patient.spacing),
            str(patient.slices),
            f"{patient.gland_ml:.0f}",
            escape(" ".join(patient.warnings)),
        )
    if checkup.problems:
        grid.add_section()
    for problem in checkup.problems:
        grid.add_row(escape(problem.patient), "unusable", "", "", "", escape(problem.sentence), style="red")
    return grid


def to_json(checkup: Checkup) -> dict[str, Any]:
    """The check-up as plain values that json can write, with counts first."""
    return {
        "site": checkup.site,
        "layout": checkup.layout,
        "minimum_pixels": checkup.minimum_pixels,
        "usable": len(checkup.patients),
        "unusable": len(checkup.problems),
        "warned": sum(bool(patient.warnings) for patient in checkup.patients),
        "slices": sum(patient.slices for patient in checkup.patients),
        "patients": [asdict(patient) for patient in checkup.patients],
        "problems": [asdict(problem) for problem in checkup.problems],
        "duplicates": [list(group) for group in checkup.duplicates],
        "notes": list(checkup.notes),
    }


def _examine(case: Case, *, minimum_pixels: int) -> Patient:
    pixels = case.mask.sum(axis=(1, 2))
    gland_ml = float(case.mask.sum() * np.prod(case.spacing) / 1000)
    digest = hashlib.sha256(repr(case.image.shape).encode())
    digest.update(case.image.tobytes())
    warnings = []
    if not GLAND_ML[0] <= gland_ml <= GLAND_ML[1]:
        warnings.append(f"The gland has {gland_ml:.1f} ml; expected are {GLAND_ML[0]:g} to {GLAND_ML[1]:g}.")
    if case.mask[[0, -1]].any():
        warnings.append("The mask reaches the first or last slice; the gland may be cut off.")
    if case.mask[:, [0, -1]].any() or case.mask[:, :, [0, -1]].any():
        warnings.append("The mask touches the edge of its slices.")
    if not (pixels > minimum_pixels).any():
        warnings.append(f"No slice has more than {minimum_pixels} mask pixels: nothing to train on.")
    slices, rows, columns = case.image.shape
    return Patient(
        patient=case.patient,
        shape=(slices, rows, columns),
        spacing=case.spacing,
        slices=int((pixels > minimum_pixels).sum()),
        gland_slices=int((pixels > 0).sum()),
        gland_ml=gland_ml,
        intensity=float(np.percentile(case.image, 99)),
        digest=digest.hexdigest(),
        warnings=tuple(warnings),
    )


def _duplicates(patients: Sequence[Patient]) -> tuple[tuple[str, ...], ...]:
    same: dict[str, list[str]] = defaultdict(list)
    for patient in patients:
        same[patient.digest].append(patient.patient)
    return tuple(tuple(group) for group in same.values() if len(group) > 1)


def _compare(patient: Patient, site: Sequence[Patient], duplicates: tuple[tuple[str, ...], ...]) -> Patient:
    """Add what only shows beside the site's other patients."""
    warnings = list(patient.warnings)
    for group in duplicates:
        if patient.patient in group:
            others = ", ".join(name for name in group if name != patient.patient)
            warnings.append(f"The image is the same as that of {others}: training and test would share it.")
    if len(site) >= ENOUGH_TO_COMPARE:
        usual = np.median([other.spacing for other in site], axis=0)
        if _far(np.array(patient.spacing), usual, SPACING_FACTOR):
            typical = " × ".join(f"{value:.3g}" for value in usual)
            warnings.append(f"The spacing is far from the site's usual {typical} mm.")
        bright = float(np.median([other.intensity for other in site]))
        if _far(np.array([patient.intensity]), np.array([bright]), INTENSITY_FACTOR):
            warnings.append(
                f"The brightest voxels have {patient.intensity:.3g}, far from the site's usual {bright:.3g}."
            )
    return Patient(**{**asdict(patient), "warnings": tuple(warnings)})


def _far(value: NDArray[np.float64], usual: NDArray[np.float64], factor: float) -> bool:
    return bool(np.any((value > usual * factor) | (value * factor < usual)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""A data check in words: one line, tables and lines for a terminal, plain values for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from client.data_check import Checkup
from client.data_check.findings import Kind, Looked
from client.data_check.patient import Patient
from common.text import count

NAMES = {
    Kind.UNUSABLE: "patients that cannot be used",
    Kind.SPACING: "another spacing than usual",
    Kind.ORIENTATION: "another orientation",
    Kind.INTENSITY: "unusual brightness, blank slices",
    Kind.DUPLICATE: "one image or mask under two names",
    Kind.MASK_EXTENT: "masks tiny, cut off or in parts",
    Kind.MASK_VALUES: "values in masks that may be no gland",
    Kind.MIRRORED: "masks mirrored left to right",
    Kind.REVERSED: "masks reversed from head to feet",
    Kind.SHIFTED: "masks moved by one slice",
    Kind.TURNED: "masks turned in another way",
    Kind.MISPLACED: "masks of another patient, or astray",
}
"""The name of each kind in the table."""

AGREEMENT = (
    "Agreement is the mean correlation of what lies across a mask's outline with what lies there in the site's other"
    " patients: 1 is the same, 0 is chance. A finding is a reason to look, not a verdict."
)


def summary(checkup: Checkup) -> str:
    """Return the data check in one line."""
    slices = sum(patient.slices for patient in checkup.patients)
    looked_at = len(checkup.suspicious.difference(problem.patient for problem in checkup.problems))
    return (
        f"Site {checkup.site}, layout {checkup.layout}: {count(len(checkup.patients), 'usable patient')}, "
        f"{count(slices, 'slice')} over {checkup.minimum_pixels} pixels; "
        f"{len(checkup.problems)} unusable, {looked_at} to look at."
    )


def remarks(checkup: Checkup) -> Iterator[tuple[str, str, str]]:
    """Yield subject, heading and sentence: first of the whole site, then of findings, then of unusable patients."""
    for note in checkup.notes:
        yield f"Site {checkup.site}", "to know", note
    for patient in checkup.patients:
        for remark in patient.remarks:
            yield patient.patient, "to know", remark
    for finding in checkup.findings:
        yield finding.patient, "to look at", finding.sentence
    for problem in checkup.problems:
        yield problem.patient, "unusable", problem.sentence
    if any("likeness" in finding.evidence for finding in checkup.findings):
        yield f"Site {checkup.site}", "to know", AGREEMENT


def patient_table(checkup: Checkup) -> Table:
    """Return a table of the usable patients, a row each."""
    names = [patient.patient for patient in checkup.patients]
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("patient", overflow="fold", min_width=min(24, max(map(len, names), default=0)))
    minimum = checkup.minimum_pixels
    titles = ("voxels", "mm", f">{minimum}", f"={minimum}", f"<{minimum}", "ml")
    for title in titles:
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("look at", justify="right", no_wrap=True)
    for patient in checkup.patients:
        findings = len(checkup.about(patient.patient))
        grid.add_row(
            escape(patient.patient),
            voxels(patient),
            spacing(patient),
            str(patient.slices),
            str(patient.slices_at),
            str(patient.slices_below),
            f"{patient.gland_ml:.0f}",
            str(findings) if findings else "",
            style="yellow" if findings else None,
        )
    return grid


def kind_table(checkup: Checkup) -> Table:
    """Return a table of the kinds of faults, a row each, with the numbers of patients examined, found and unseen."""
    grid = Table(box=box.SIMPLE_HEAD)
    grid.add_column("looked for")
    for title in ("in patients", "found", "could not be seen"):
        grid.add_column(title, justify="right" if title != "could not be seen" else "left")
    for looked in checkup.looked:
        grid.add_row(
            NAMES[looked.kind],
            str(looked.compared) if looked.compared else "–",
            str(looked.found),
            unseen(looked),
            style="yellow" if looked.found else None,
        )
    return grid


def lines(checkup: Checkup) -> Iterator[str]:
    """Yield the content of both tables as lines for a file or a pipe."""
    minimum = checkup.minimum_pixels
    for patient in checkup.patients:
        yield (
            f"{patient.patient}: {voxels(patient)} voxels of {spacing(patient)} mm,"
            f" {patient.slices} slices over {minimum} pixels, {patient.slices_at} at and {patient.slices_below} below,"
            f" gland {patient.gland_ml:.0f} ml"
        )
    for looked in checkup.looked:
        not_seen = unseen(looked)
        yield (
            f"Looked for {NAMES[looked.kind]}:"
            f" found in {looked.found} of {looked.compared}{'; ' if not_seen else ''}{not_seen}"
            if looked.compared
            else f"Looked for {NAMES[looked.kind]}: not compared, found in {looked.found}; {not_seen}"
        )


def unseen(looked: Looked) -> str:
    """Return where a fault of this kind would stay unseen, and why; empty if no patient could hide the fault."""
    if not looked.compared:
        return "too few patients to compare"
    total = looked.hidden + looked.undecided
    if not total:
        return ""
    alike = "another patient's is nearly the same" if looked.kind is Kind.MISPLACED else "it hardly changes the mask"
    if not looked.undecided:
        return f"in {total}: {alike}"
    if not looked.hidden:
        return f"in {total}: the image does not decide"
    return f"in {total}: in {looked.hidden} {alike}, in {looked.undecided} the image does not decide"


def voxels(patient: Patient) -> str:
    """Return slices, rows and columns in words, such as "20 × 320 × 320"."""
    return " × ".join(map(str, patient.shape))


def spacing(patient: Patient) -> str:
    """Return the spacing in words, such as "3 × 0.5 × 0.5", in mm."""
    return " × ".join(f"{side:.3g}" for side in patient.spacing)


def to_json(checkup: Checkup) -> dict[str, Any]:
    """Return the data check as plain values for JSON, counts first.

    The values name patients, and are for the site alone.
    """
    return {
        "site": checkup.site,
        "layout": checkup.layout,
        "minimum_pixels": checkup.minimum_pixels,
        "usable": len(checkup.patients),
        "unusable": len(checkup.problems),
        "suspicious": len(checkup.suspicious),
        "slices": sum(patient.slices for patient in checkup.patients),
        "looked": [asdict(looked) for looked in checkup.looked],
        "notes": list(checkup.notes),
        "patients": [asdict(patient) for patient in checkup.patients],
        "findings": [{**asdict(finding), "evidence": dict(finding.evidence)} for finding in checkup.findings],
        "problems": [asdict(problem) for problem in checkup.problems],
        "duplicates": [list(group) for group in checkup.duplicates],
    }

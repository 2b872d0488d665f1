"""`relay site check`: what lies at a site and what is wrong with it, for the eyes of who keeps the data."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from rich import box

from client.checkup import Checkup, check, summary, table, to_json
from client.site import SiteConfig, load_site
from common.errors import RelayError
from deploy.console import bar, terminal


def site_check(path: Path, *, as_json: bool) -> int:
    """Check a site, or each member of a pooled one; returns the exit code.

    Raises:
        RelayError: a folder is missing, or no patient of the site can be used.
    """
    site = load_site(path)
    members = site.member_sites() if site.pooled else (site,)
    found = [_checked(member) for member in members]
    if as_json:
        told = [to_json(checkup) for checkup in found]
        print(json.dumps({"members": told} if site.pooled else told[0], indent=1, ensure_ascii=False))
    else:
        for checkup in found:
            _print(checkup)
    for checkup in found:
        if not any(patient.slices for patient in checkup.patients):
            where = "" if as_json else "; what is wrong with each stands above"
            raise RelayError(f"Site {checkup.site} has no patient that can be used{where}.")
    return 0


def _checked(site: SiteConfig) -> Checkup:
    with bar(f"Reading site {site.name}", unit="patients", stream=sys.stderr) as progress:
        return check(site, progress=progress)


def _print(checkup: Checkup) -> None:
    """The patients as a table; below it a line for each thing to look at, since sentences need room."""
    screen = terminal()
    remarks = [(f"Site {checkup.site}", f"layout {checkup.layout}", note) for note in checkup.notes]
    remarks += [
        (patient.patient, "to look at", warning) for patient in checkup.patients for warning in patient.warnings
    ]
    remarks += [(problem.patient, "unusable", problem.sentence) for problem in checkup.problems]
    if screen is None:
        print(summary(checkup))
        for patient in checkup.patients:
            shape, spacing = " × ".join(map(str, patient.shape)), " × ".join(f"{side:.3g}" for side in patient.spacing)
            print(
                f"{patient.patient}: {shape} voxels of {spacing} mm,"
                f" {patient.slices} slices over {checkup.minimum_pixels} pixels, gland {patient.gland_ml:.0f} ml"
            )
    else:
        bare = tuple(dataclasses.replace(patient, warnings=()) for patient in checkup.patients)
        shown = table(dataclasses.replace(checkup, patients=bare, problems=()))
        shown.title, shown.box = None, box.SIMPLE_HEAD
        shown.columns.pop()
        screen.print(summary(checkup), highlight=False, markup=False)
        screen.print(shown)
    for patient_name, kind, sentence in remarks:
        line = f"{patient_name}, {kind}: {sentence}"
        if screen is None:
            print(line)
        else:
            screen.print(line, style="red" if kind == "unusable" else "yellow", highlight=False, markup=False)

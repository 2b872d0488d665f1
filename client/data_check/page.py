"""The site's contact sheet: every patient's slices with the mask's outline. The page stays at the site."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from client import drawing
from client.data_check import Examination
from client.data_check.outline import View
from client.data_check.patient import Patient
from client.data_check.words import AGREEMENT, NAMES, spacing, summary, unseen, voxels
from client.preprocessing import cache
from client.site_config import SiteConfig

NAME = "checkup.html"
SIDE = 160
"""Pixels of a picture's side."""
AROUND = 1.3
"""The factor by which a picture is wider than the mask."""
LEAST_MM = 70.0
"""The least width of a picture in millimetres, as far as the image reaches."""
BETWEEN = 5
"""Slices shown between apex and base, besides apex, base and one slice beyond each."""


def write_page(site: SiteConfig, examination: Examination) -> Path:
    """Write the contact sheet: checkup.html in the site's private folder, mode 0600, replacing the last one.

    Args:
        site: the site.
        examination: the results of its data check with the pictures.

    Returns:
        The path of the page.

    Raises:
        RelayError: the disk is full, or the folder cannot be written.
    """
    checkup = examination.checkup
    patients = [
        {
            "name": patient.patient,
            "facts": _facts(patient, checkup.minimum_pixels),
            "sentences": [finding.sentence for finding in checkup.about(patient.patient)],
            "suggested": patient.patient in examination.suggested,
            "pictures": _strip(examination.views[patient.patient], examination.suggested.get(patient.patient)),
        }
        for patient in checkup.patients
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    text = template.render(
        site=checkup.site,
        summary=summary(checkup),
        at=datetime.now().astimezone().isoformat(timespec="minutes"),
        notes=checkup.notes,
        agreement=AGREEMENT,
        looked=[(NAMES[looked.kind], looked, unseen(looked)) for looked in checkup.looked],
        problems=[
            (problem.patient, [problem.sentence, *(finding.sentence for finding in checkup.about(problem.patient))])
            for problem in checkup.problems
        ],
        # Patients whose mask would fit better after a move come first, then patients with other remarks.
        suspicious=sorted(
            (patient for patient in patients if patient["sentences"]), key=lambda patient: not patient["suggested"]
        ),
        others=[patient for patient in patients if not patient["sentences"]],
        across=BETWEEN + 4,
        colours={"given": drawing.css(drawing.FIRST), "suggested": drawing.css(drawing.SECOND)},
    )
    path = site.private() / NAME
    cache.write_bytes(path, text.encode())
    return path


def _facts(patient: Patient, minimum: int) -> str:
    return (
        f"{voxels(patient)} voxels of {spacing(patient)} mm · gland {patient.gland_ml:.0f} ml ·"
        f" slices over {minimum} pixels: {patient.slices}, at: {patient.slices_at}, below: {patient.slices_below}"
    )


def _strip(view: View, suggested: NDArray[np.bool_] | None) -> list[dict[str, Any]]:
    """Return pictures of slices from below the apex to above the base of the given and the suggested mask."""
    both = view.mask if suggested is None else view.mask | suggested
    filled = np.flatnonzero(both.any(axis=(1, 2)))
    apex, base = int(filled[0]), int(filled[-1])
    inner = np.rint(np.linspace(apex, base, BETWEEN + 2)).astype(int).tolist()
    selected = sorted({max(apex - 1, 0), *inner, min(base + 1, len(both) - 1)})
    words = {apex: "apex", base: "base", inner[len(inner) // 2]: "middle"}
    rows, columns = _window(np.asarray(both.any(axis=0)), view)
    return [
        {
            "number": index + 1,
            "word": words.get(index, ""),
            "png": drawing.png(
                drawing.draw(
                    view.grey[index, rows, columns],
                    [
                        (view.mask[index, rows, columns], drawing.FIRST),
                        *([] if suggested is None else [(suggested[index, rows, columns], drawing.SECOND)]),
                    ],
                    side=SIDE,
                )
            ),
        }
        for index in selected
    ]


def _window(region: NDArray[np.bool_], view: View) -> tuple[slice, slice]:
    """Return a window, square in millimetres, around a region of the box, as far as the box reaches."""
    steps = view.spacing[1:]
    filled = [np.flatnonzero(region.any(axis=1 - axis)) for axis in (0, 1)]
    extent = max((place[-1] - place[0] + 1) * step for place, step in zip(filled, steps, strict=True))
    wanted = max(LEAST_MM, AROUND * extent)
    wide = min(wanted, *(size * step for size, step in zip(region.shape, steps, strict=True)))
    window = []
    for place, step, size in zip(filled, steps, region.shape, strict=True):
        count = min(size, round(wide / step))
        first = int(np.clip((place[0] + place[-1] + 1 - count) // 2, 0, size - count))
        window.append(slice(first, first + count))
    return window[0], window[1]

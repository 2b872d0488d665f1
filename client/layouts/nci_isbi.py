"""NCI-ISBI 2013, as TCIA and the challenge give it out: Prostate-3T and PROSTATE-DIAGNOSIS.

Images: DICOM, <PatientID>/<StudyUID>/<SeriesUID>/*.dcm. Labels: NRRD in a folder of their own, named after
the patient, with 1 = peripheral zone and 2 = central gland.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from client.layouts import Found, Problem, Source, dicom, layout
from client.site import SiteConfig
from common.errors import RelayError

ENDING = re.compile(r"(_truth_pred|_truth|_correctedLabels)$", re.IGNORECASE)


@layout("nci-isbi", masks_apart=True)
def find(site: SiteConfig) -> Found:
    """Pair series and labels by the DICOM PatientID: folders of old downloads carry wrong names."""
    labels = label_files(site.masks or site.images)
    scan = dicom.scan(site.images)
    by_patient: dict[str, list[dicom.Series]] = defaultdict(list)
    for series in scan.series:
        by_patient[series.patient or _top_folder(series.files[0], site.images)].append(series)
    damaged = {path.parent: path for path in reversed(scan.damaged)}
    # A report or a contour beside a patient's readable series is no loss.
    readable = {_top_folder(path, site.images) for series in scan.series for path in series.files}
    problems = [
        Problem(name, f"{path} cannot be read; it is damaged or no image: copy it again.")
        for path in damaged.values()
        if (name := _top_folder(path, site.images)) not in readable
    ]
    sources = []
    for patient, candidates in by_patient.items():
        files = labels.get(patient, [])
        where = str(site.images / _top_folder(candidates[0].files[0], site.images))
        try:
            if not files:
                raise RelayError(f"The images in {where} have no label in {site.masks}; add {patient}.nrrd.")
            if len(files) > 1:
                raise RelayError(f"{len(files)} labels are of this patient ({_names(files)}); keep one of them.")
            chosen = dicom.choose(candidates, site.series, place=where)
            broken = [damaged[path.parent] for path in chosen.files if path.parent in damaged]
            if broken:
                raise RelayError(f"{broken[0]} cannot be read; it is damaged or no image: copy it again.")
        except RelayError as error:
            problems.append(Problem(patient, str(error)))
        else:
            sources.append(Source(patient, chosen.files, (files[0],)))
    problems += [
        Problem(patient, f"The label {_names(files)} has no images in {site.images}; add the DICOM series.")
        for patient, files in labels.items()
        if patient not in by_patient
    ]
    return Found(tuple(sources), tuple(problems))


def label_files(folder: Path) -> dict[str, list[Path]]:
    """The label files in a folder and below it, by patient: the file's name without its ending."""
    labels: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".nrrd" and not path.name.startswith("."):
            labels[ENDING.sub("", path.stem)].append(path)
    return dict(labels)


def _top_folder(path: Path, images: Path) -> str:
    return path.relative_to(images).parts[0]


def _names(files: list[Path]) -> str:
    return ", ".join(path.name for path in files)

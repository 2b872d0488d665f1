"""I2CVB, the prostate set of Dijon (Lemaitre et al., Computers in Biology and Medicine 2015).

A folder a patient: "Patient 1036/T2W/*.dcm" and "Patient 1036/GT/prostate/*.dcm". Mask slices are DICOM, hold
values other than 0 and 1, come in any file order, and one of Patient_428260 is missing.
"""

from __future__ import annotations

from pathlib import Path

from client.layouts import Found, Problem, Source, dicom, layout
from client.site import SiteConfig
from common.errors import RelayError


@layout("i2cvb")
def find(site: SiteConfig) -> Found:
    """One patient a folder; its name is the patient's, since the headers were made anonymous."""
    sources, problems = [], []
    for folder in sorted(path for path in site.images.iterdir() if path.is_dir()):
        image, mask = _inside(folder, "T2W"), _inside(folder, "GT", "prostate")
        is_patient = image or _inside(folder, "GT") or folder.name.lower().startswith("patient")
        if folder.name.startswith(".") or not is_patient:
            continue
        try:
            sources.append(
                Source(
                    folder.name,
                    _series(folder, image, "T2W", site.series),
                    _series(folder, mask, "GT/prostate", ""),
                )
            )
        except RelayError as error:
            problems.append(Problem(folder.name, str(error)))
    return Found(tuple(sources), tuple(problems))


def _series(patient: Path, folder: Path | None, expected: str, pattern: str) -> tuple[Path, ...]:
    kind, other = ("image", "mask") if expected == "T2W" else ("mask", "image")
    if folder is None:
        raise RelayError(f"{patient} has no {kind}; add {expected}, or remove its {other}.")
    scan = dicom.scan(folder)
    if scan.damaged:
        raise RelayError(f"{scan.damaged[0]} cannot be read; it is damaged or no image: copy it again.")
    if not scan.series:
        raise RelayError(f"The series in {folder} is empty: it has no DICOM file; add its files.")
    if kind == "mask":
        # Mask slices were written one by one, often with a series number each.
        return tuple(path for series in scan.series for path in series.files)
    return dicom.choose(scan.series, pattern, place=str(folder)).files


def _inside(folder: Path, *names: str) -> Path | None:
    """The folder of these names, upper or lower case alike; None where there is none."""
    for name in names:
        matching = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() == name.lower()]
        if not matching:
            return None
        folder = matching[0]
    return folder

"""I2CVB, the prostate data set of Dijon (Lemaitre et al., Computers in Biology and Medicine 2015).

Each patient has a folder with "Patient 1036/T2W/*.dcm" and "Patient 1036/GT/prostate/*.dcm". Mask slices are DICOM
files with values other than 0 and 1 and in any file order; one slice of Patient_428260 is missing. GT/cap beside the
gland's mask outlines the cancer. The data set's folders GE and Siemens are two sites.
"""

from __future__ import annotations

from pathlib import Path

from client.data.layouts import Folder, Folders, Found, Problem, Source, dicom, layout, series
from common.errors import RelayError

IMAGE, MASK = ("T2W",), ("GT", "prostate")


def detect(folder: Folder) -> Path | None:
    """Return the first folder PATIENT/GT/prostate."""
    return next((found.path for patient in folder.folders for found in patient.named(*MASK)), None)


@layout("i2cvb", detect=detect, looks_for="PATIENT/T2W beside PATIENT/GT/prostate, both DICOM")
def find(folders: Folders) -> Found:
    """List a patient for each folder, named after the folder, since the headers are anonymised."""
    sources, problems, choices = [], [], {}
    for patient in folders.images.folders:
        if not (patient.named(*IMAGE) or patient.named("GT") or patient.name.lower().startswith("patient")):
            continue
        try:
            choice = _image(patient, folders.series)
            image = choice.series
            sources.append(Source(patient.name, image.files, _mask(patient), person=image.patient))
            choices[patient.name] = choice
        except RelayError as error:
            problems.append(Problem(patient.name, str(error)))
    return Found(tuple(sources), tuple(problems), series.reasons(choices))


def _image(patient: Folder, pattern: str) -> series.Choice:
    folder = _inside(patient, IMAGE, "image", "mask")
    return series.choose(_series(folder), pattern, place=str(folder.path))


def _mask(patient: Folder) -> tuple[Path, ...]:
    # Mask slices were written one by one, often each with a series number of its own.
    return tuple(path for one in _series(_inside(patient, MASK, "mask", "image")) for path in one.files)


def _inside(patient: Folder, names: tuple[str, ...], kind: str, other: str) -> Folder:
    found = patient.named(*names)
    if not found:
        raise RelayError(f"{patient.path} has no {kind}; add {'/'.join(names)}, or remove its {other}.")
    if len(found) > 1:
        raise RelayError(f"{found[0].path} and {found[1].path} differ in nothing but case; keep one of them.")
    return found[0]


def _series(folder: Folder) -> tuple[series.Series, ...]:
    scan = dicom.scan(folder.all_files())
    if scan.damaged:
        raise RelayError(f"{scan.damaged[0]} cannot be read; it is damaged or no image: copy it again.")
    if not scan.series:
        raise RelayError(f"The series in {folder.path} is empty: it has no DICOM file; add its files.")
    return scan.series

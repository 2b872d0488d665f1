"""NCI-ISBI 2013 (Prostate-3T and PROSTATE-DIAGNOSIS), as distributed by TCIA and the challenge.

Images are DICOM files <PatientID>/<StudyUID>/<SeriesUID>/*.dcm, at any depth. Labels are NRRD files in a separate
folder, named after the patient, with 1 = peripheral zone and 2 = central gland. 3D Slicer's segmentations,
PATIENT.seg.nrrd, are labels too. A patient without an NRRD file may have a DICOM segmentation or an RTSTRUCT in either
folder, which refers to the images.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from client.data.layouts import Folder, Folders, Found, Problem, Source, dicom, dicom_labels, layout, series
from client.data.layouts.dicom_labels import Labels, is_label
from client.data.layouts.folder import alike
from common.errors import RelayError

_NO_FILE_NAME = re.compile(r'[/\\:*?"<>|]')
"""Characters of a PatientID that no file's name can hold, on some system or other."""
ENDING = re.compile(r"(_truth_pred|_truth|_correctedLabels|\.seg)+$", re.IGNORECASE)


def detect(folder: Folder) -> Path | None:
    """Return the first DICOM file in the folder or its subfolders."""
    return next((path for path in folder.all_files() if dicom.looks_like_dicom(path)), None)


@layout("nci-isbi", detect=detect, looks_for='DICOM series, their NRRD labels in the folder "masks"', masks_apart=True)
def find(folders: Folders) -> Found:
    """Pair series and labels by the DICOM PatientID, whatever folders and files are called.

    A folder with the name of another patient with a label is reported as a problem: one of the two names is wrong, and
    the files do not tell which. Old downloads hold ProstateDx-01-0035 under a wrong PatientID.
    """
    folder, masks = folders.images, folders.masks or folders.images
    labels: dict[str, list[Path]] = defaultdict(list)
    names: dict[str, str] = {}
    for name, files in label_files(masks).items():
        labels[_key(name)] += files
        names.setdefault(_key(name), name)

    def by_folder(path: Path) -> str:
        """Return the patient named by a file's folders: the first folder with a label, or else the outermost."""
        parts = path.relative_to(folder.path).parts
        return next((names[_key(part)] for part in parts if _key(part) in labels), parts[0])

    scan = dicom.scan(folder.all_files())
    drawn = Labels(
        path for one in ([folder] if masks is folder else [folder, masks]) for path in one.all_files() if is_label(path)
    )
    equal = _made_equal(scan.series, by_folder, labels)
    by_patient: dict[str, list[series.Series]] = defaultdict(list)
    for one in scan.series:
        patient = by_folder(one.files[0]) if not one.patient or one.patient in equal else one.patient
        by_patient[_key(patient)].append(one)
        names.setdefault(_key(patient), patient)
    damaged = {path.parent: path for path in reversed(scan.damaged)}
    # A damaged file beside a patient's readable series, such as a report or a contour, is no problem.
    readable = {by_folder(path) for one in scan.series for path in one.files}
    problems = [
        Problem(by_folder(path), f"{path} cannot be read; it is damaged or no image: copy it again.")
        for path in damaged.values()
        if by_folder(path) not in readable
    ]
    sources, choices = [], {}
    for key, candidates in by_patient.items():
        patient, files = names[key], labels.get(key, [])
        where = os.path.commonpath([path.parent for one in candidates for path in one.files])
        try:
            referring = not files and any(drawn.of(one) for one in candidates)
            if not files and not referring:
                raise RelayError(
                    f"The images in {where} have no label in {masks.path}; add {_NO_FILE_NAME.sub('_', patient)}.nrrd."
                )
            if len(files) > 1:
                raise RelayError(f"{len(files)} labels are of this patient ({_names(files)}); keep one of them.")
            if referring:
                choice, regions = dicom_labels.choose(candidates, drawn, folders, place=where)
                label = regions[0].file
            else:
                choice, label = series.choose(candidates, folders.series, place=where), files[0]
            selected = choice.series
            broken = [damaged[path.parent] for path in selected.files if path.parent in damaged]
            if broken:
                raise RelayError(f"{broken[0]} cannot be read; it is damaged or no image: copy it again.")
            other = by_folder(selected.files[0])
            if _key(other) in labels and _key(other) != key:
                raise RelayError(
                    f"The images in {where} say that they are of {patient}, and their folder is named after {other},"
                    " who has a label too; download them again, or rename the folder."
                )
        except RelayError as error:
            problems.append(Problem(patient, str(error)))
        else:
            sources.append(Source(patient, selected.files, (label,)))
            choices[patient] = choice
    problems += [
        Problem(names[key], f"The label {_names(files)} has no images in {folder.path}; add the DICOM series.")
        for key, files in labels.items()
        if key not in by_patient
    ]
    notes = [
        f'Images in several folders have the PatientID "{patient}": an anonymiser may have made it equal, and the names'
        " of the folders are taken, for which there are labels."
        for patient in sorted(equal)
    ]
    return Found(tuple(sources), tuple(problems), (*notes, *series.reasons(choices)))


def _made_equal(
    found: Sequence[series.Series], by_folder: Callable[[Path], str], labels: Mapping[str, list[Path]]
) -> set[str]:
    """Return the PatientIDs without a label whose images lie in several folders that each have one."""
    folders: dict[str, set[str]] = defaultdict(set)
    for one in found:
        folders[one.patient].add(_key(by_folder(one.files[0])))
    return {
        patient
        for patient, keys in folders.items()
        if patient and _key(patient) not in labels and len(keys) > 1 and all(labels.get(key) for key in keys)
    }


def label_files(folder: Folder) -> dict[str, list[Path]]:
    """Return the label files in a folder and its subfolders, by patient: the file's name without its ending."""
    labels: dict[str, list[Path]] = defaultdict(list)
    for path in folder.all_files():
        if path.suffix.lower() == ".nrrd":
            labels[ENDING.sub("", path.stem)].append(path)
    return dict(labels)


def _key(patient: str) -> str:
    """Return a patient's name for comparing; a character that no file's name can hold is the same as "_"."""
    return alike(_NO_FILE_NAME.sub("_", patient))


def _names(files: list[Path]) -> str:
    return ", ".join(path.name for path in files)

"""One folder of anything that an archive exports: DICOM images, and the segmentations and RTSTRUCT files drawn on them.

Names of folders and files mean nothing. A patient is a study with a T2 to which a label refers: by SOP instance UIDs,
whichever folder the two lie in. Several such studies of one PatientID are visits of one person.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.data.layouts import Folder, Folders, Found, Problem, Source, dicom, dicom_labels, layout, multiframe, series
from client.data.layouts.dicom_labels import Labels
from client.data.layouts.regions import Region
from common.errors import RelayError
from common.text import count, listed

SHOWN = 4
MR = ("", "MR", "OT")


def detect(folder: Folder) -> Path | None:
    """Return the first segmentation or RTSTRUCT in a folder that also holds other DICOM files."""
    label = image = None
    for path in folder.all_files():
        if not dicom.looks_like_dicom(path):
            continue
        if dicom_labels.is_label(path):
            label = label or path
        else:
            image = image or path
        if label and image:
            return label
    return None


@layout("dicom", detect=detect, looks_for="DICOM images, their DICOM-SEG or RTSTRUCT", yields=True)
def find(folders: Folders) -> Found:
    """List a patient for each study with a labelled T2, named after the PatientID."""
    folder = folders.images
    files = [path for path in folder.all_files() if dicom.looks_like_dicom(path)]
    labels = Labels(path for path in files if dicom_labels.is_label(path) or not path.exists())
    apart = {path for path in labels.paths if path.exists()}
    scan = dicom.scan(path for path in files if path not in apart)
    studies: dict[tuple[str, str], list[series.Series]] = defaultdict(list)
    for one in scan.series:
        studies[one.patient, one.study].append(one)
    names = _names(folder, studies, labels)
    broken, unknown = _broken(scan.damaged, studies)
    sources, problems, choices, taken = [], [], {}, {}
    passed: list[str] = []
    for key, candidates in studies.items():
        name = names.get(key)
        if name is None:
            passed.append(key[0])
            continue
        where = os.path.commonpath([path.parent for one in candidates for path in one.files])
        try:
            choice, regions = dicom_labels.choose(candidates, labels, folders, place=where)
            if damaged := broken.get(choice.series.uid):
                raise RelayError(f"{damaged[0]} cannot be read; it is damaged or no image: copy it again.")
        except RelayError as error:
            problems.append(Problem(name, str(error)))
        else:
            sources.append(Source(name, choice.series.files, (regions[0].file,), person=key[0]))
            choices[name], taken[name] = choice, regions
    notes = [*series.reasons(choices), *_taken(taken)]
    if passed:
        people = listed(sorted(set(passed))[:SHOWN])
        notes.append(
            f"{count(len(passed), 'set')} of images of {people} have no label, beside labelled ones of the same person."
        )
    if unknown:
        notes.append(f"{count(len(unknown), 'file')} cannot be read, of no known series, such as {unknown[0]}.")
    return Found(tuple(sources), tuple(problems), tuple(notes))


def _names(
    folder: Folder, studies: Mapping[tuple[str, str], Sequence[series.Series]], labels: Labels
) -> dict[tuple[str, str], str]:
    """Return each study's patient; a study without a label, beside a labelled one of the person, has none."""
    together: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in studies:
        together[key[0]].append(key)
    names = {}
    for patient, keys in together.items():
        labelled = [key for key in keys if any(labels.of(one) for one in studies[key])]
        mr = [key for key in keys if any(one.modality in MR for one in studies[key])]
        kept = sorted(labelled or mr or keys)
        dates = {key: next((one.date for one in studies[key] if one.date), "") for key in kept}
        for number, key in enumerate(kept, start=1):
            if not patient:
                names[key] = _by_place(folder, studies[key])
            elif len(kept) == 1:
                names[key] = patient
            else:
                unique = dates[key] and Counter(dates.values())[dates[key]] == 1
                names[key] = f"{patient}_{dates[key] if unique else f'{dates[key]}-{number}'.strip('-')}"
    return names


def _by_place(folder: Folder, found: Sequence[series.Series]) -> str:
    """Return the name of a study without a PatientID: its outermost folder, or its UID."""
    parts = {path.relative_to(folder.path).parts[0] for one in found for path in one.files}
    outermost = next(iter(parts))
    return outermost if len(parts) == 1 and (folder.path / outermost).is_dir() else found[0].study or outermost


def _broken(
    damaged: Sequence[Path], studies: Mapping[tuple[str, str], Sequence[series.Series]]
) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return unreadable files by the series to which they belong, and those of no known series.

    The header of a file that was cut short still names its series. Another belongs to a series that has the folder to
    itself.
    """
    beside: dict[Path, set[str]] = defaultdict(set)
    for found in studies.values():
        for one in found:
            for path in one.files:
                beside[path.parent].add(one.uid)
    known = {one.uid for found in studies.values() for one in found}
    broken: dict[str, list[Path]] = defaultdict(list)
    unknown: list[Path] = []
    for path in damaged:
        try:
            uid = str(multiframe.read_header(path).get("SeriesInstanceUID", ""))
        except RelayError:
            uid = ""
        alone = beside[path.parent]
        owner = uid if uid in known else next(iter(alone)) if len(alone) == 1 and not uid else ""
        (broken[owner] if owner else unknown).append(path)
    return broken, unknown


def _taken(chosen: Mapping[str, Sequence[Region]]) -> list[str]:
    """Return a sentence on the segments and contours that were taken as gland."""
    texts = Counter(listed(f'"{region.name}"' for region in regions) for regions in chosen.values())
    if not texts:
        return []
    shown = [f"{text} of {count(number, 'patient')}" for text, number in texts.most_common(SHOWN)]
    more = f", and {len(texts) - SHOWN} others" if len(texts) > SHOWN else ""
    return [f"As gland are taken the segments or contours {listed(shown)}{more}."]

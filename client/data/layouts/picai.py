"""PI-CAI (Saha et al., Lancet Oncology 2024): images by patient and study, labels in the repository picai_labels.

Images are PATIENT/PATIENT_STUDY_t2w.mha, in one folder or one for each fold of the download. Labels of the whole gland
are PATIENT_STUDY.nii.gz in anatomical_delineations/whole_gland/AI, or in a folder there for each model that drew
them. Outlines of lesions (csPCa_lesion_delineations) are no labels of the gland.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from client.data.layouts import Folder, Folders, Found, Problem, Source, layout
from client.data.layouts.folder import alike
from common.text import listed

IMAGE = re.compile(r"((?P<person>\d+_)?.+)_t2w\.mha", re.IGNORECASE)
LABEL = re.compile(r"(.+?)\.(nii|nii\.gz)", re.IGNORECASE)
LESIONS, WHOLE = "cspca_lesion_delineations", "whole_gland"


def detect(folder: Folder) -> Path | None:
    """Return the first T2 image with the name of its patient and study."""
    return next((path for path in folder.all_files() if IMAGE.fullmatch(path.name)), None)


@layout(
    "picai",
    detect=detect,
    looks_for='PATIENT_STUDY_t2w.mha, their labels in the folder "masks"',
    masks_apart=True,
)
def find(folders: Folders) -> Found:
    """List a patient for each study with a T2 image; the studies of one patient are visits of one person."""
    images: dict[str, list[Path]] = defaultdict(list)
    persons = {}
    for path in folders.images.all_files():
        if match := IMAGE.fullmatch(path.name):
            images[match[1]].append(path)
            persons[match[1]] = (match["person"] or "").rstrip("_")
    labels, notes = _labels(folders.masks or folders.images)
    sources, problems = [], []
    for name, files in images.items():
        if len(files) > 1:
            problems.append(Problem(name, f"{files[0]} and {files[1]} are images of one study; keep one of them."))
        elif name not in labels:
            problems.append(Problem(name, f"The image {files[0]} has no label of the whole gland; add {name}.nii.gz."))
        else:
            sources.append(Source(name, (files[0],), (labels[name],), person=persons[name]))
    without = sorted(set(labels) - set(images))
    if without and images:
        notes.append(
            f"{len(without)} labels have no image here, such as {labels[without[0]].name}; they are no patients."
        )
    return Found(tuple(sources), tuple(problems), tuple(notes))


def _labels(folder: Folder) -> tuple[dict[str, Path], list[str]]:
    """Return the labels of the gland by study, of the one folder that has most of them, with a note on others."""
    places: dict[Path, dict[str, Path]] = {}
    for inner in folder.tree():
        if LESIONS in map(alike, inner.path.parts):
            continue
        found = {match[1]: path for path in inner.files if (match := LABEL.fullmatch(path.name))}
        if found:
            places[inner.path] = found
    whole = {path: found for path, found in places.items() if WHOLE in map(alike, path.parts)}
    candidates = whole or places
    if not candidates:
        return {}, []
    best = max(sorted(candidates), key=lambda path: len(candidates[path]))
    others = [str(path.relative_to(folder.path)) for path in sorted(candidates) if path != best]
    if not others:
        return candidates[best], []
    taken = f"Several folders hold labels of the gland: those of {best} are taken, and not those of {listed(others)}"
    return candidates[best], [f'{taken}; name one of them as "masks" in the site file to take another.']

"""Prostate158 (Adams et al., Computers in Biology and Medicine 2022): a folder for each patient.

train/020/t2.nii.gz is beside train/020/t2_anatomy_reader1.nii.gz, which labels central gland and peripheral zone, at
any depth, since the two archives hold train/ and test/ folders of their own. Outlines of tumours and other sequences
lie in the same folders. Two readers outlined the patients of the test set; only reader 1 outlined all patients.
"""

from __future__ import annotations

from pathlib import Path

from client.data.layouts import Folder, Folders, Found, Problem, Source, layout, nifti
from client.data.layouts.folder import alike

IMAGE, MASK, SECOND = "t2", "t2_anatomy_reader1", "t2_anatomy_reader2"


def detect(folder: Folder) -> Path | None:
    """Return the first outline of reader 1 in the folder or its subfolders."""
    return next((mask for inner in folder.tree() for mask in _files(inner, MASK)), None)


@layout("prostate158", detect=detect, looks_for="ID/t2.nii.gz beside ID/t2_anatomy_reader1.nii.gz")
def find(folders: Folders) -> Found:
    """List the folders with a T2 image or an outline, as patients named after their folders."""
    sources, problems, twice = [], [], 0
    for inner in folders.images.tree():
        images, masks, seconds = (_files(inner, name) for name in (IMAGE, MASK, SECOND))
        if not images and not masks and not seconds:
            continue
        if len(images) == len(masks) == 1:
            sources.append(Source(inner.name, images, masks))
            twice += bool(seconds)
        elif len(images) > 1 or len(masks) > 1:
            names = ", ".join(path.name for path in (*images, *masks))
            problems.append(Problem(inner.name, f"{inner.path} holds a file twice ({names}); keep one of each."))
        elif images:
            other = f"no outline but {SECOND}, and reader 1 is taken" if seconds else "no outline of the gland"
            problems.append(Problem(inner.name, f"{inner.path} has {other}; add {MASK}.nii.gz."))
        else:
            problems.append(Problem(inner.name, f"{inner.path} has no image; add {IMAGE}.nii.gz."))
    notes = (f"Two readers outlined {twice} of the patients; the outlines of reader 1 are taken.",) if twice else ()
    return Found(tuple(sources), tuple(problems), notes)


def _files(folder: Folder, name: str) -> tuple[Path, ...]:
    """Return the volumes of a given name, with or without .gz: none, one or several."""
    wanted = {f"{name}{ending}" for ending in nifti.ENDINGS}
    return tuple(path for path in folder.files if alike(path.name) in wanted)

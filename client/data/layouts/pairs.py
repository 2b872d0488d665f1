"""Images and masks beside each other in one folder, paired by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from client.data.layouts import Found, Problem, Source
from client.data.layouts.folder import Folder, alike


def pattern(*endings: str) -> re.Pattern[str]:
    """Return a pattern for the names "NAME<ending>" and "NAME_segmentation<ending>", with the groups stem and mask."""
    one_of = "|".join(map(re.escape, endings))
    return re.compile(rf"(?P<stem>.+?)(?P<mask>_segmentation)?({one_of})", re.IGNORECASE)


def first_mask(files: Sequence[Path], name: re.Pattern[str]) -> Path | None:
    """Return the first file marked as a mask by its name; None where no file is a mask."""
    return next((path for path in files if (match := name.fullmatch(path.name)) and match["mask"]), None)


def pair(folder: Folder, name: re.Pattern[str]) -> Found:
    """Return the pairs of image and mask directly in a folder, ignoring case.

    Args:
        folder: the folder, listed.
        name: the pattern of names, from `pattern`.
    """
    images: dict[str, list[Path]] = {}
    masks: dict[str, list[Path]] = {}
    stems: dict[str, str] = {}
    for path in folder.files:
        match = name.fullmatch(path.name)
        if match is None:
            continue
        key = alike(match["stem"])
        (masks if match["mask"] else images).setdefault(key, []).append(path)
        if not match["mask"] or key not in stems:
            stems[key] = match["stem"]
    sources, problems = [], []
    for key, stem in stems.items():
        files = [*images.get(key, ()), *masks.get(key, ())]
        ending = files[0].name[len(stem) :]
        if key not in masks:
            problems.append(Problem(stem, f"The image {files[0]} has no mask; add {stem}_segmentation{ending}."))
        elif key not in images:
            ending = ending[len("_segmentation") :]
            problems.append(Problem(stem, f"The mask {files[0]} has no image; add {stem}{ending}."))
        elif len(files) > 2:
            names = ", ".join(path.name for path in files)
            several = f"Several files in {folder.path} are of this patient ({names}); keep a pair."
            problems.append(Problem(stem, several))
        else:
            sources.append(Source(stem, (files[0],), (files[1],)))
    return Found(tuple(sources), tuple(problems))

"""PROMISE12 (Litjens et al., Medical Image Analysis 2014): pairs of MetaImages.

Case00.mhd with its .raw file is beside Case00_segmentation.mhd with its own; .mha and compressed .zraw files occur as
well. The releases have the folders training_data, test_data and livechallenge_test_data, or TrainingData_Part1 to 3.
Names repeat between these folders, so a patient's name begins with the folder's name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client.data.layouts import Folder, Folders, Found, Problem, layout, metaimage, pairs
from common.errors import RelayError

NAME = pairs.pattern(*metaimage.ENDINGS)

NOTE = (
    "PROMISE12's patients are also those of UCL, BIDMC and HK in the multi-site sets, resampled there:"
    " have one in a study."
)


def detect(folder: Folder) -> Path | None:
    """Return the first mask in the folder or its subfolders."""
    return next((mask for inner in folder.tree() if (mask := pairs.first_mask(inner.files, NAME))), None)


@layout("promise12", detect=detect, looks_for="NAME.mhd beside NAME_segmentation.mhd")
def find(folders: Folders) -> Found:
    """Pair files by name within each folder; a folder without any mask gives a note and no patients."""
    sources, problems, notes = [], [], [NOTE]
    for inner in folders.images.tree():
        found = pairs.pair(inner, NAME)
        place = inner.path.relative_to(folders.images.path)
        if pairs.first_mask(inner.files, NAME) is None:
            if found.problems:
                notes.append(f"{len(found.problems)} images in {inner.path} have no masks; they are no patients here.")
            continue
        problems += [Problem((place / one.patient).as_posix(), one.sentence) for one in found.problems]
        for source in found.sources:
            patient = (place / source.patient).as_posix()
            try:
                image, mask = metaimage.files_of(source.image[0]), metaimage.files_of(source.mask[0])
            except RelayError as error:
                problems.append(Problem(patient, str(error)))
            else:
                sources.append(replace(source, patient=patient, image=image, mask=mask))
    return Found(tuple(sources), tuple(problems), tuple(notes))

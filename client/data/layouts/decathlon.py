"""Medical Segmentation Decathlon, Task05 (Antonelli et al., Nature Communications 2022), also in nnU-Net's naming.

An image imagesTr/prostate_00.nii.gz has the label file labelsTr/prostate_00.nii.gz with 1 = peripheral zone and 2 =
transition zone. An image has four axes, the last of which runs over the modalities in dataset.json's order. nnU-Net
writes a file for each modality instead, such as prostate_00_0000.nii.gz. The images in imagesTs have no labels and are
not listed as patients.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

from client.data.layouts import Folder, Folders, Found, Problem, Source, layout, nifti
from client.data.layouts.folder import alike
from common.errors import RelayError

IMAGES, LABELS, CONTENTS = "imagesTr", "labelsTr", "dataset.json"

MODALITY = re.compile(r"(?P<patient>.+)_(?P<channel>\d{4})")
"""A file's name, without its ending, in nnU-Net's naming of one modality of an image."""

NOTE = (
    "The Decathlon's Task05 shares patients with NCI-ISBI's Prostate-3T, under other names and with other voxels:"
    " never have both as independent sites of a study."
)


def detect(folder: Folder) -> Path | None:
    """Return the folder imagesTr, if a folder labelsTr lies beside."""
    images = folder.named(IMAGES)
    return images[0].path if images and folder.named(LABELS) else None


@layout("decathlon", detect=detect, looks_for=f"{IMAGES} beside {LABELS}, with {CONTENTS}")
def find(folders: Folders) -> Found:
    """Pair images and labels by name, and take the number of the T2 volume from dataset.json.

    Raises:
        RelayError: a folder or dataset.json is missing, or dataset.json does not say which modality is the T2.
    """
    folder = folders.images
    images, labels = _by_stem(folder, IMAGES), _by_stem(folder, LABELS)
    channels = _channels(folder)
    t2 = [number for number, name in channels.items() if "t2" in name.lower()]
    if len(t2) != 1:
        listed = ", ".join(f'"{name}"' for name in channels.values()) or "none"
        raise RelayError(
            f"{folder.path / CONTENTS} does not say which modality is the T2 ({listed}); give one a name with T2 in it."
        )
    whole: dict[str, list[Path]] = defaultdict(list)
    apart: dict[str, list[Path]] = defaultdict(list)
    names = {key: _stem(files[0]) for key, files in labels.items()}
    for key, files in images.items():
        match = MODALITY.fullmatch(_stem(files[0]))
        if match is None or key in labels:
            whole[key] += files
            names.setdefault(key, _stem(files[0]))
        else:
            patient = alike(match["patient"])
            apart[patient] += files if int(match["channel"]) == t2[0] else []
            names.setdefault(patient, match["patient"])
    sources, problems = [], []
    for key, name in names.items():
        pair = [*whole[key], *apart[key]], labels.get(key, [])
        if all(len(files) == 1 for files in pair):
            channel = t2[0] if whole[key] and len(channels) > 1 else None
            sources.append(Source(name, tuple(pair[0]), tuple(pair[1]), channel))
        elif any(len(files) > 1 for files in pair):
            listed = ", ".join(path.name for files in pair for path in files)
            sentence = f"Several files in {folder.path} are of this patient ({listed}); keep a pair."
            problems.append(Problem(name, sentence))
        elif pair[1]:
            problems.append(Problem(name, f"The label {pair[1][0]} has no T2 in {IMAGES}; add {name}.nii.gz there."))
        else:
            problems.append(Problem(name, f"{folder.path / IMAGES} has an image of {name}, {LABELS} no label; add it."))
    return Found(tuple(sources), tuple(problems), (NOTE,))


def _by_stem(folder: Folder, name: str) -> dict[str, list[Path]]:
    """Return the NIfTI files in the subfolder of a given name, grouped by file name without ending."""
    found = folder.named(name)
    if len(found) != 1:
        raise RelayError(f'{folder.path} holds {len(found)} folders "{name}"; give a folder that holds one.')
    files: dict[str, list[Path]] = defaultdict(list)
    for path in found[0].files:
        if path.name.lower().endswith(nifti.ENDINGS):
            files[alike(_stem(path))].append(path)
    return files


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _channels(folder: Folder) -> dict[int, str]:
    """Return the names of the modalities by number; nnU-Net version 2 calls modalities channels."""
    path = next((path for path in folder.files if alike(path.name) == CONTENTS), None)
    if path is None:
        raise RelayError(
            f"{folder.path} has no {CONTENTS}, which says which modality is the T2; copy it from the download."
        )
    try:
        content = json.loads(path.read_text("utf-8"))
        named = content.get("modality") or content.get("channel_names") or {}
        return {int(number): str(name) for number, name in named.items()}
    except (OSError, ValueError, AttributeError):
        raise RelayError(f"{path} cannot be read; copy it again from the download.") from None

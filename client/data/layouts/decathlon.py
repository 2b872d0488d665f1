"""Medical Segmentation Decathlon, Task05 (Antonelli et al., Nature Communications 2022), also in nnU-Net's naming.

An image imagesTr/prostate_00.nii.gz has the label file labelsTr/prostate_00.nii.gz with 1 = peripheral zone and 2 =
transition zone. An image has four axes, the last of which runs over the modalities in dataset.json's order. nnU-Net
writes a file for each modality instead, such as prostate_00_0000.nii.gz, also as .mha, .mhd or .nrrd. The images in
imagesTs have no labels and are not listed as patients.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data.layouts import Folder, Folders, Found, Problem, Source, layout, metaimage, nifti
from client.data.layouts.folder import alike
from client.data.layouts.mask_names import GLAND
from common.errors import RelayError
from common.text import listed

IMAGES, LABELS, CONTENTS = "imagesTr", "labelsTr", "dataset.json"
ENDINGS = (*nifti.ENDINGS, *metaimage.ENDINGS, ".nrrd")
"""The endings of volume files; nnU-Net calls the one of a data set its file_ending."""
NORMALISATIONS = ("zscore", "nonorm", "rescale_0_1", "rescale_to_0_1")
"""What nnU-Net takes for a name of a modality, and says only how its values are scaled."""

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
    contents = _contents(folder)
    channels = contents.modalities
    t2 = [number for number, name in channels.items() if "t2" in name.lower()]
    notes = [] if folders.stated.masks else _label_notes(contents)
    if not t2 and len(channels) == 1 and next(iter(channels.values())).lower() in NORMALISATIONS:
        # nnU-Net names a channel by its normalisation.
        t2 = list(channels)
        notes.append(f'The only modality, "{channels[t2[0]]}" in {CONTENTS}, is taken for the T2.')
    if len(t2) != 1:
        given = ", ".join(f'"{name}"' for name in channels.values()) or "none"
        raise RelayError(
            f"{folder.path / CONTENTS} does not say which modality is the T2 ({given}); give one a name with T2 in it."
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
            try:
                image, mask = (_with_voxels(files[0]) for files in pair)
            except RelayError as error:
                problems.append(Problem(name, str(error)))
            else:
                sources.append(Source(name, image, mask, channel))
        elif any(len(files) > 1 for files in pair):
            several = ", ".join(path.name for files in pair for path in files)
            sentence = f"Several files in {folder.path} are of this patient ({several}); keep a pair."
            problems.append(Problem(name, sentence))
        elif pair[1]:
            ending = pair[1][0].name[len(_stem(pair[1][0])) :]
            problems.append(Problem(name, f"The label {pair[1][0]} has no T2 in {IMAGES}; add {name}{ending} there."))
        else:
            problems.append(Problem(name, f"{folder.path / IMAGES} has an image of {name}, {LABELS} no label; add it."))
    return Found(tuple(sources), tuple(problems), (NOTE, *notes))


def _by_stem(folder: Folder, name: str) -> dict[str, list[Path]]:
    """Return the volume files in the subfolder of a given name, grouped by file name without ending."""
    found = folder.named(name)
    if len(found) != 1:
        raise RelayError(f'{folder.path} holds {len(found)} folders "{name}"; give a folder that holds one.')
    files: dict[str, list[Path]] = defaultdict(list)
    for path in found[0].files:
        if path.name.lower().endswith(ENDINGS):
            files[alike(_stem(path))].append(path)
    return files


def _stem(path: Path) -> str:
    ending = max((one for one in ENDINGS if path.name.lower().endswith(one)), key=len, default="")
    return path.name[: len(path.name) - len(ending)]


def _with_voxels(path: Path) -> tuple[Path, ...]:
    """Return a volume file, with the file of its voxels where that is separate.

    Raises:
        RelayError: the voxels of a MetaImage are missing.
    """
    return metaimage.files_of(path) if path.name.lower().endswith(metaimage.ENDINGS) else (path,)


@dataclass(frozen=True)
class _Contents:
    """What dataset.json says."""

    modalities: dict[int, str]
    """The names by number; nnU-Net version 2 calls modalities channels."""
    labels: dict[str, tuple[int, ...]]
    """The values in the masks by name; in nnU-Net a region may have several."""


def _contents(folder: Folder) -> _Contents:
    path = next((path for path in folder.files if alike(path.name) == CONTENTS), None)
    if path is None:
        raise RelayError(
            f"{folder.path} has no {CONTENTS}, which says which modality is the T2; copy it from the download."
        )
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        named = content.get("modality") or content.get("channel_names") or {}
        return _Contents({int(number): str(name) for number, name in named.items()}, _labels(content.get("labels")))
    except (OSError, ValueError, AttributeError):
        raise RelayError(f"{path} cannot be read; copy it again from the download.") from None


def _labels(named: Any) -> dict[str, tuple[int, ...]]:
    """Return the values of masks by name: version 1 of nnU-Net writes {value: name}, version 2 {name: value}."""
    found: dict[str, tuple[int, ...]] = {}
    for one, other in named.items() if isinstance(named, dict) else ():
        name, values = (other, one) if str(one).isdigit() else (one, other)
        try:
            found[str(name)] = tuple(int(value) for value in (values if isinstance(values, list) else [values]))
        except (TypeError, ValueError):
            continue
    return {name: values for name, values in found.items() if any(values)}


def _label_notes(contents: _Contents) -> list[str]:
    """Return a sentence on values of masks that are no gland by their names in dataset.json."""
    odd = {name: values for name, values in contents.labels.items() if not GLAND.search(name)}
    if not odd:
        return []
    shown = listed(f'"{name}" ({", ".join(map(str, values))})' for name, values in list(odd.items())[:6])
    said = f"By {CONTENTS} the masks hold {shown}, and every value above 0 is taken as gland: if these are none, say"
    return [f'{said} with "labels" in the site file which values are.']

"""Hospitals in four layouts whose patients' files are right, or wrong as a seed says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fuzz.dicom_files import series
from tests.fuzz.plain import Files, Random, elsewhere, harm, packed
from tests.fuzz.planted import GIVEN, NAME
from tests.fuzz.volume_files import TYPES, meta, nifti, nrrd
from tests.support.hospitals import patient

Array = NDArray[Any]
Write = Callable[[str, int, Random | None], Files]
"""The files of a patient of that name and number, sound where there is no generator."""


def name_of(seed: int) -> str:
    """Short, since an identifier has 64 letters at most; no number is part of what is searched for."""
    return f"{NAME} {GIVEN} {seed}"


def voxels(number: int, rng: Random | None, kind: str = "i2") -> tuple[Array, Array]:
    image, mask = patient(number, slices=5, side=32)
    if rng is None:
        return image.astype(kind), mask
    image = image.astype(rng.choice((kind, kind, *TYPES)))
    if image.dtype.kind == "f":
        for _ in range(rng.choice((0, 1, 3))):
            odd = rng.choice((np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38, 1e-40))
            image[tuple(rng.randrange(n) for n in image.shape)] = odd
        if rng.random() < 0.2:
            with np.errstate(all="ignore"):
                image = image * image.dtype.type(rng.choice((1e30, -1e33, 1e-40, 1e300)))
    elif rng.random() < 0.2:
        image[...] = rng.choice((0, 1, image.max()))
    if rng.random() < 0.2:
        mask = rng.choice((np.zeros_like(mask), np.ones_like(mask), mask[::-1], mask[:3], mask[:, :, :9], mask[:, :1]))
    return image, mask


def two(rng: Random | None) -> tuple[Random | None, Random | None]:
    """Which of image and mask are harmed."""
    return (None, None) if rng is None else rng.choice(((rng, None), (None, rng), (rng, None), (rng, rng)))


def nifti_pair(name: str, number: int, rng: Random | None) -> Files:
    image, mask = voxels(number, rng)
    return {f"images/{name}{end}": content for end, content in _nifti(image, mask, rng).items()}


def decathlon(name: str, number: int, rng: Random | None) -> Files:
    image, mask = voxels(number, rng)
    both = np.stack([image, image[::-1]])
    files = _nifti(both, mask, rng)
    contents = json.dumps({"modality": {"0": "T2", "1": "ADC"}}).encode()
    named = {f"images/{'labelsTr' if 'seg' in end else 'imagesTr'}/{name}{end.replace('_segmentation', '')}": content
             for end, content in files.items()}  # fmt: skip
    return named | {"images/dataset.json": contents}


def _nifti(image: Array, mask: Array, rng: Random | None) -> Files:
    files: Files = {}
    for array, ending, own in zip((image, mask), ("", "_segmentation"), two(rng), strict=True):
        if own is None:
            files[f"{ending}.nii"] = nifti(array)
            continue
        way = own.random()
        content = nifti(array, own if way < 0.6 else None)
        if 0.6 <= way < 0.75:
            content = harm(content, own)
        if way < 0.3 or way > 0.75:
            content = packed(content, own)
        files[f"{ending}.nii{own.choice(('', '.gz', '.gz'))}"] = elsewhere(content, own) if way > 0.97 else content
    return files


def metaimage(name: str, number: int, rng: Random | None) -> Files:
    files: Files = {}
    for array, ending, own in zip(voxels(number, rng), ("", "_segmentation"), two(rng), strict=True):
        made = meta(array, f"{name}{ending}", own)
        header = f"{name}{ending}.mhd"
        if own is not None and own.random() < 0.1:
            content = made[header]
            assert isinstance(content, bytes)
            made[header] = harm(content, own)
        # Each in a folder of its own, with the odd files that it may point to.
        files |= {f"images/{name}/{file}": content for file, content in made.items()}
    return files


def label(name: str, number: int, rng: Random | None) -> Files:
    """A sound series with an NRRD label."""
    image, mask = voxels(number, None, "u2")
    if rng is not None and rng.random() < 0.3:
        mask = mask.astype(rng.choice(list(TYPES)))
    content = nrrd(mask, rng)
    if rng is not None and rng.random() < 0.2:
        content = harm(content, rng)
    files: Files = {f"images/{name}/study/{file}": piece for file, piece in series(image, name, number).items()}
    odd = rng is not None and rng.random() < 0.02
    return files | {f"labels/{name}.nrrd": elsewhere(content, rng) if odd and rng is not None else content}


def scan(name: str, number: int, rng: Random | None) -> Files:
    """A series with a sound label."""
    image, mask = voxels(number, None, "u2")
    files: Files = {f"images/{name}/study/{file}": piece for file, piece in series(image, name, number, rng).items()}
    return files | {f"labels/{name}.nrrd": nrrd(mask)}


def two_series(name: str, number: int, rng: Random | None) -> Files:
    """Image and mask are DICOM."""
    image, mask = voxels(number, None, "u2")
    files: Files = {}
    for array, place, own in zip((image, (mask > 0) * 255), ("T2W", "GT/prostate"), two(rng), strict=True):
        made = series(array, name, 2 * number + (place != "T2W"), own)
        files |= {f"images/{name}/{place}/{file}": piece for file, piece in made.items()}
    return files


@dataclass(frozen=True)
class Format:
    layout: str
    write: Write
    masks: bool = False


FORMATS = {
    "dicom": Format("nci-isbi", scan, masks=True),
    "dicom-masks": Format("i2cvb", two_series),
    "nrrd": Format("nci-isbi", label, masks=True),
    "nifti": Format("nifti-pairs", nifti_pair),
    "decathlon": Format("decathlon", decathlon),
    "mhd": Format("promise12", metaimage),
}


def mutated(name: str, seed: int) -> Files:
    """A patient whose files are wrong in the way that a seed says."""
    return FORMATS[name].write(name_of(seed), 1000 + seed, Random(f"{name} {seed}"))


def sound(name: str, number: int) -> Files:
    return FORMATS[name].write(f"sound {number}", number, None)

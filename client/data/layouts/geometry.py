"""Geometry that a volume file lacks: it is taken from the site's statement or refused, never assumed.

ITK fills a missing spacing with 1 mm, and a missing orientation with the axes of the body, without a message.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from client.data.layouts import NOTHING_STATED, Statement, metaimage, nifti, nrrd
from common.errors import RelayError
from common.text import listed

SPACING, ORIENTATION = "spacing", "orientation"
KEYS = {SPACING: "spacing_mm", ORIENTATION: "orientation"}
"""By what may be missing, the key of the site file that states it."""
OF_AXIS = {"S": 0, "I": 0, "P": 1, "A": 1, "L": 2, "R": 2}
"""The place in `Statement.spacing_mm` of the spacing along a direction."""


def lacking(path: Path, image: sitk.Image) -> tuple[str, ...]:
    """Return what a volume file does not state: "spacing", "orientation", both or neither.

    Args:
        path: the file.
        image: its volume of three axes, as ITK read it.
    """
    if is_blank(image):
        return SPACING, ORIENTATION
    name = path.name.lower()
    if name.endswith(nifti.ENDINGS):
        return () if nifti.states_orientation(path) else (ORIENTATION,)
    form = metaimage if name.endswith(metaimage.ENDINGS) else nrrd
    found = {SPACING: form.states_spacing(path), ORIENTATION: form.states_orientation(path)}
    return tuple(what for what, stated in found.items() if not stated)


def is_blank(image: sitk.Image) -> bool:
    """Return whether a volume has the geometry of an array without any: cubes of 1 mm, along the body, from 0 on.

    Programs write this header where they were given none. No scanner places the first voxel at exactly 0, 0, 0 and
    measures 1 mm in all three directions.
    """
    directions = np.abs(np.array(image.GetDirection()))
    return (
        np.allclose(image.GetSpacing(), 1, rtol=0, atol=1e-6)
        and np.allclose(image.GetOrigin(), 0, rtol=0, atol=1e-6)
        and np.allclose(directions, np.rint(directions), rtol=0, atol=1e-6)
    )


def check(path: str, missing: tuple[str, ...], stated: Statement = NOTHING_STATED) -> None:
    """Check that the site states what a file lacks.

    Args:
        path: the file, for the error's sentence.
        missing: what the file lacks, from `lacking`.
        stated: the site's statements.

    Raises:
        RelayError: the site does not state it.
    """
    known = stated_of(missing, stated)
    unknown = [what for what in missing if what not in known]
    if unknown:
        keys = listed(f'"{KEYS[what]}"' for what in unknown)
        raise RelayError(
            f"{path} states no {' and no '.join(missing)} (its header is the one of an array without geometry, or has"
            f" no such entry); convert it again from the scanner's files, or state what is true with {keys} in the site"
            " file."
        )


def stated_of(missing: tuple[str, ...], stated: Statement) -> tuple[str, ...]:
    """Return the part of what a file lacks that the site states."""
    have = {SPACING: stated.spacing_mm is not None, ORIENTATION: bool(stated.orientation)}
    return tuple(what for what in missing if have[what])


def restated(image: sitk.Image, missing: tuple[str, ...], stated: Statement) -> sitk.Image:
    """Return a volume with the site's statements in place of what its file lacks.

    Args:
        image: the volume of three axes.
        missing: what its file lacks, from `lacking`.
        stated: the site's statements, which have passed `check`.

    Raises:
        RelayError: the statement does not fit the volume: its slices would lie across the body.
    """
    made = sitk.Image(image)
    if ORIENTATION in missing:
        made.SetDirection(stated.axes().T.ravel().tolist())
    if SPACING in missing and stated.spacing_mm is not None:
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(made.GetDirection())
        made.SetSpacing([stated.spacing_mm[OF_AXIS[letter]] for letter in code])
        size = dict(zip((OF_AXIS[letter] for letter in code), made.GetSize(), strict=True))
        if size[0] > min(size[1], size[2]):
            raise RelayError(
                f'With "orientation" as the site file states it, an image of {" × ".join(map(str, made.GetSize()))}'
                f" voxels has {size[0]} slices of {size[1]} × {size[2]}; correct the orientation, or export it again."
            )
    return made


def remark(missing: tuple[str, ...], stated: Statement) -> str:
    """Return a sentence on what was taken from the site file."""
    said = []
    if SPACING in missing and stated.spacing_mm is not None:
        steps = " × ".join(f"{step:g}" for step in stated.spacing_mm)
        said.append(f'a spacing of {steps} mm ("spacing_mm")')
    if ORIENTATION in missing and stated.orientation:
        said.append(f'axes that run {stated.orientation} ("orientation")')
    return f"The files state none, so the site file's statement holds: {listed(said)}." if said else ""


def check_stated_step(place: str, step: float, stated: Statement) -> None:
    """Check a distance between slices that the files state against the site's statement of the whole spacing.

    Args:
        place: the file or folder, for the error's sentence.
        step: millimetres between slices, by the positions in the files.
        stated: the site's statements.

    Raises:
        RelayError: they differ by more than a tenth.
    """
    if stated.spacing_mm is not None and abs(step / stated.spacing_mm[0] - 1) > 0.1:
        raise RelayError(
            f'The slices in {place} lie {step:.2f} mm apart, and "spacing_mm" in the site file says'
            f" {stated.spacing_mm[0]:g} mm; correct the one that is wrong."
        )

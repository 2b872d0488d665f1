"""Limits on a volume's size, checked before memory is allocated: a header may claim any size.

Within the limits a shortage of memory is the machine's fault, and no patient is left out for the shortage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import RelayError

MOST_VOXELS = 1 << 27
"""Far more voxels than a prostate's volume has: 640 × 640 pixels on 200 slices are 82 million, and 5 million are usual.
"""
MOST_BYTES = 8 * MOST_VOXELS
MOST_PACKED = 1032
"""The most bytes that deflate compresses into one byte; a larger factor in a header shows that the file is damaged.
"""
SHORT = ("Failed to allocate memory", "bad_alloc")
"""Words in ITK's RuntimeError where memory is short."""
STEPS_MM = (0.01, 100.0)
"""The least and the largest distance between the centres of voxels."""


def check_voxels(place: Path, sizes: Sequence[int]) -> int:
    """Return the number of voxels of a volume.

    Args:
        place: the file or folder, for the error's sentence.
        sizes: voxels along each axis.

    Raises:
        RelayError: there are too many voxels, or an axis has none.
    """
    voxels = math.prod(sizes)
    if min(sizes, default=0) < 1:
        raise RelayError(f"{place} cannot be read; it is damaged or of another format: copy it again.")
    if voxels > MOST_VOXELS:
        about = f"{voxels:.1e}" if voxels < 1e30 else "far too many"
        raise RelayError(
            f"{place} says that it has {about} voxels, and at most {MOST_VOXELS} are read;"
            " copy it again, or crop it to the pelvis."
        )
    return voxels


def check_steps(place: str, spacing: Sequence[float]) -> None:
    """Check that a scanner could have measured the distances between voxels.

    Args:
        place: the file or folder, for the error's sentence.
        spacing: millimetres between voxel centres.

    Raises:
        RelayError: a distance is out of `STEPS_MM`.
    """
    least, most = STEPS_MM
    if not all(least <= step <= most for step in spacing):
        steps = " × ".join(f"{step:g}" for step in spacing)
        raise RelayError(
            f"The voxels of {place} lie {steps} mm apart, where {least:g} to {most:g} are possible;"
            " export it again with its spacing."
        )


def raise_if_short(said: str, voxels: int = 0) -> None:
    """Raise MemoryError where the memory is short: ITK's error says so, or an image of these voxels finds no room.

    ITK's readers of NIfTI and DICOM report only the failure, not the reason. So this function tries to allocate the
    memory of an image and its float32 copy.

    Args:
        said: the text of ITK's RuntimeError.
        voxels: the number of voxels in the volume.

    Raises:
        MemoryError: the memory is short.
    """
    if any(sign in said for sign in SHORT):
        raise MemoryError("ITK found no memory")
    np.empty(voxels, np.float64)

"""How large a volume may be. A header may claim anything: what it claims is looked at before memory is taken for it.

Once that was looked at, a shortage of memory is the machine's, and no patient is left out for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import RelayError

MOST_VOXELS = 1 << 27
"""Far more than a prostate's volume has: 640 × 640 pixels on 200 slices are 82 millions, and usual are 5."""
MOST_BYTES = 8 * MOST_VOXELS
MOST_PACKED = 1032
"""Bytes that deflate packs into one at most: a file that claims more does not hold it."""
SHORT = ("Failed to allocate memory", "bad_alloc")
"""How ITK says that there is no memory, in a RuntimeError."""
STEPS_MM = (0.01, 100.0)
"""Between the centres of voxels."""


def check_voxels(place: Path, sizes: Sequence[int]) -> int:
    """How many voxels axes of these sizes have. Raises RelayError where they are too many, or an axis has none."""
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
    """Raise RelayError where voxels do not lie at distances that a scanner could measure."""
    least, most = STEPS_MM
    if not all(least <= step <= most for step in spacing):
        steps = " × ".join(f"{step:g}" for step in spacing)
        raise RelayError(
            f"The voxels of {place} lie {steps} mm apart, where {least:g} to {most:g} are possible;"
            " export it again with its spacing."
        )


def raise_if_short(said: str, voxels: int = 0) -> None:
    """Raise MemoryError where a RuntimeError of ITK's says that memory is short, or it is too short for these voxels.

    What reads NIfTI and DICOM only says that it failed: so as much is asked for here as an image and its copy take.
    """
    if any(sign in said for sign in SHORT):
        raise MemoryError("ITK found no memory")
    np.empty(voxels, np.float64)

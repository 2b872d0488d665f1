"""What SimpleITK passes over in a NIfTI file.

Its reader fills the rest of a truncated file with zeros and turns NaN and infinity into 0, and says so
nowhere. Both are looked for here, in the file's own bytes. Format: nifti.nimh.nih.gov, NIfTI-1 and NIfTI-2.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from common.errors import RelayError

ENDINGS = (".nii", ".nii.gz")

FLOATS = {16: "f4", 64: "f8"}
"""NIfTI's data type codes of real floating-point values."""


def check(path: Path, *, channel: int | None = None) -> None:
    """Make sure that a .nii or .nii.gz file is whole and holds numbers alone.

    Args:
        channel: the volume, of a file of four axes, that is meant: in the others anything may stand.

    Raises:
        RelayError: it is truncated, damaged, no NIfTI file, or holds NaN or infinity.
    """
    damaged = RelayError(f"{path} cannot be read; it is damaged or of another format: copy it again.")
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        (first,) = struct.unpack_from("<i", content)
        little = first in (348, 540)
        end = "<" if little else ">"
        if struct.unpack_from(f"{end}i", content)[0] == 540:
            code, bits = struct.unpack_from(f"{end}2h", content, 12)
            axes = struct.unpack_from(f"{end}8q", content, 16)
            (start,) = struct.unpack_from(f"{end}q", content, 168)
        else:
            axes = struct.unpack_from(f"{end}8h", content, 40)
            code, bits = struct.unpack_from(f"{end}2h", content, 70)
            start = int(struct.unpack_from(f"{end}f", content, 108)[0])
    except (OSError, EOFError, ValueError, zlib.error, struct.error):
        raise damaged from None
    voxels = int(np.prod(axes[1 : 1 + max(axes[0], 0)], dtype=object))
    if voxels < 1 or start < 0 or len(content) < start + voxels * bits // 8:
        raise damaged
    if channel is not None and axes[0] == 4 and channel < axes[4]:
        voxels //= axes[4]
        start += channel * voxels * bits // 8
    if code in FLOATS:
        values = np.frombuffer(content, f"{end}{FLOATS[code]}", voxels, start)
        wrong = voxels - int(np.isfinite(values).sum())
        if wrong:
            raise RelayError(f"{path} holds {wrong} values that are no numbers (NaN or infinite); export it again.")

"""Checks of NIfTI files for faults that SimpleITK's reader does not report.

The reader fills the missing rest of a truncated file with zeros, and turns NaN and infinity into 0, without a message.
The checks in this module read the file's own bytes. Format: nifti.nimh.nih.gov, NIfTI-1 and NIfTI-2.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from client.data.layouts.size import MOST_BYTES, MOST_PACKED, check_voxels
from common.errors import RelayError

ENDINGS = (".nii", ".nii.gz")

FLOATS = {16: "f4", 64: "f8"}
"""NIfTI's data type codes of real floating-point values."""


_HEADER_BYTES = 540
_MORE_BYTES = 1 << 20


def check(path: Path, *, channel: int | None = None) -> None:
    """Check that a .nii or .nii.gz file is complete and holds finite numbers alone.

    Args:
        path: the file.
        channel: the volume to check in a file of four axes; the other volumes may hold any values.

    Raises:
        RelayError: the file is truncated, damaged, not NIfTI, too large, or holds NaN or infinity.
    """
    damaged = RelayError(f"{path} cannot be read; it is damaged or of another format: copy it again.")
    try:
        with path.open("rb") as packed:
            gzipped = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            file = gzip.GzipFile(fileobj=packed) if gzipped else packed
            content = file.read(_HEADER_BYTES)
            end, axes, code, bits, start = _header(content)
            if bits % 8 or not 8 <= bits <= 256 or start < 0 or not 1 <= axes[0] <= 7:
                raise damaged
            voxels = check_voxels(path, axes[1 : 1 + axes[0]])
            needed = start + voxels * bits // 8
            held = path.stat().st_size * (MOST_PACKED if gzipped else 1)
            if needed > min(held, 2 * MOST_BYTES):
                raise damaged
            content += file.read(max(0, needed - len(content)))
            # Reading continues to the end, where gzip's checksum is. Some bytes may follow the voxels, but less than 1
            # MiB.
            if len(content) < needed or len(file.read(_MORE_BYTES)) == _MORE_BYTES:
                raise damaged
    except (OSError, EOFError, ArithmeticError, ValueError, zlib.error, struct.error):
        raise damaged from None
    if code in FLOATS and bits != 8 * np.dtype(FLOATS[code]).itemsize:
        raise damaged
    if channel is not None and axes[0] == 4 and channel < axes[4]:
        voxels //= axes[4]
        start += channel * voxels * bits // 8
    if code in FLOATS:
        values = np.frombuffer(content, f"{end}{FLOATS[code]}", voxels, start)
        wrong = voxels - int(np.isfinite(values).sum())
        if wrong:
            raise RelayError(f"{path} holds {wrong} values that are no numbers (NaN or infinite); export it again.")


def _header(content: bytes) -> tuple[str, tuple[int, ...], int, int, int]:
    """Return byte order, axes preceded by their number, data type, bits of a value, and the voxels' offset in bytes."""
    (first,) = struct.unpack_from("<i", content)
    end = "<" if first in (348, 540) else ">"
    if struct.unpack_from(f"{end}i", content)[0] == 540:
        code, bits = struct.unpack_from(f"{end}2h", content, 12)
        axes = struct.unpack_from(f"{end}8q", content, 16)
        (start,) = struct.unpack_from(f"{end}q", content, 168)
    else:
        axes = struct.unpack_from(f"{end}8h", content, 40)
        code, bits = struct.unpack_from(f"{end}2h", content, 70)
        start = int(struct.unpack_from(f"{end}f", content, 108)[0])
    return end, axes, code, bits, start

"""Checks of NIfTI files for faults that SimpleITK's reader does not report.

The reader fills the missing rest of a truncated file with zeros, and turns NaN and infinity into 0, without a message.
The checks in this module read the file's own bytes. Format: nifti.nimh.nih.gov, NIfTI-1 and NIfTI-2.
"""

from __future__ import annotations

import gzip
import itertools
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.layouts.size import MOST_BYTES, MOST_PACKED, check_voxels
from common.errors import RelayError

ENDINGS = (".nii", ".nii.gz")

FLOATS = {16: "f4", 64: "f8"}
"""NIfTI's data type codes of real floating-point values."""

SAME_STEP = 0.01
"""The relative difference up to which two statements of a spacing agree."""
SAME_PLACE = 0.5
"""The distance, in the smallest spacing, up to which two statements of a voxel's place agree."""

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
            if gzipped and not path.name.lower().endswith(".gz"):
                raise RelayError(f"{path} is packed with gzip, and its name does not say so; name it {path.name}.gz.")
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


def states_orientation(path: Path) -> bool:
    """Return whether a NIfTI file says how its axes lie in the body: at least one of its two codes is above 0."""
    place = _placement(path)
    return place.sform_code > 0 or place.qform_code > 0


def check_placement(path: Path) -> None:
    """Check that the three statements of a NIfTI file about its geometry agree: sform, qform and pixdim.

    Raises:
        RelayError: two of them contradict each other.
    """
    place = _placement(path)
    if not np.isfinite(place.pixdim).all() or place.pixdim.min() <= 0:
        raise RelayError(
            f"{path} states no spacing: its pixdim is {_steps(place.pixdim)} mm; convert it again from the scanner's"
            " files."
        )
    own = np.linalg.norm(place.sform[:3, :3], axis=0)
    if place.sform_code > 0 and not np.allclose(own, place.pixdim, rtol=SAME_STEP, atol=0):
        raise RelayError(
            f"{path} contradicts itself: its voxels measure {_steps(own)} mm by sform, and {_steps(place.pixdim)} mm by"
            " pixdim; convert it again from the scanner's files."
        )
    if place.sform_code <= 0 or place.qform_code <= 0:
        return
    corners = np.array(list(itertools.product(*([0, size - 1] for size in place.size), [1])))
    apart = np.abs(corners @ (place.sform - place.qform).T[:, :3]).max()
    if apart > SAME_PLACE * min(place.pixdim):
        raise RelayError(
            f"{path} contradicts itself: its sform ({_matrix(place.sform)}) and its qform ({_matrix(place.qform)})"
            f" place voxels up to {apart:.1f} mm apart; convert it again from the scanner's files."
        )


@dataclass(frozen=True, eq=False)
class _Placement:
    size: tuple[int, ...]
    pixdim: NDArray[np.float64]
    sform_code: int
    qform_code: int
    sform: NDArray[np.float64]
    """4 × 4, from voxels to mm, in the file's own directions (RAS)."""
    qform: NDArray[np.float64]


def _placement(path: Path) -> _Placement:
    """Return the geometry in the header of a file that has passed `check`."""
    with path.open("rb") as packed:
        gzipped = packed.read(2) == b"\x1f\x8b"
        packed.seek(0)
        content = (gzip.GzipFile(fileobj=packed) if gzipped else packed).read(_HEADER_BYTES)
    end, axes, *_ = _header(content)
    second = struct.unpack_from(f"{end}i", content)[0] == 540
    number, whole = ("d", "i") if second else ("f", "h")
    pixdim, code, quatern, rows = (104, 344, 352, 400) if second else (76, 252, 256, 280)
    steps = struct.unpack_from(f"{end}8{number}", content, pixdim)
    qform_code, sform_code = struct.unpack_from(f"{end}2{whole}", content, code)
    b, c, d, *offset = struct.unpack_from(f"{end}6{number}", content, quatern)
    sform = np.eye(4)
    sform[:3] = np.array(struct.unpack_from(f"{end}12{number}", content, rows)).reshape(3, 4)
    sizes = [*axes[1 : 1 + axes[0]], 1, 1][:3]
    used = np.abs(np.array(steps[1:4]))
    return _Placement(
        size=tuple(sizes),
        pixdim=used,
        sform_code=sform_code,
        qform_code=qform_code,
        sform=sform,
        qform=_from_quaternion((b, c, d), used, steps[0], offset),
    )


def _from_quaternion(
    bcd: tuple[float, float, float], steps: NDArray[np.float64], handed: float, offset: Sequence[float]
) -> NDArray[np.float64]:
    """Return the qform's matrix (NIfTI-1, section on METHOD 2)."""
    b, c, d = bcd
    a = math.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * steps * np.array([1, 1, -1 if handed < 0 else 1])
    matrix[:3, 3] = offset
    return matrix


def _steps(values: NDArray[np.float64]) -> str:
    return " × ".join(f"{value:.3g}" for value in values)


def _matrix(matrix: NDArray[np.float64]) -> str:
    return "; ".join(" ".join(f"{value:.4g}" for value in row) for row in matrix[:3])


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

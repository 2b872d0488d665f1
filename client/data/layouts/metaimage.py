"""Checks of MetaImage files: a text header with the voxels behind it (.mha) or in a separate .raw or .zraw file (.mhd).

ITK reports missing voxels on stderr alone. ITK reads beyond the expected end of a longer file, which may hold another
patient, and fills voxels that cannot be decompressed with arbitrary memory. The checks in this module find these faults
before ITK reads the file. Format: itk.org/Wiki/MetaIO/Documentation.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from client.data.layouts.size import check_voxels
from common.errors import RelayError

ENDINGS = (".mhd", ".mha")

_HEADER_BYTES = 1 << 16
_LONGEST_NAME = 255
_KEY = re.compile(r"[A-Za-z0-9_]+( [A-Za-z0-9_]+)*")
_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
"""Bytes of a value, by MetaIO's name of its type without "MET_" and without the U of an unsigned type."""


def files_of(path: Path) -> tuple[Path, ...]:
    """Return all files of a MetaImage, the header first, after checking their sizes; no voxel is read.

    Raises:
        RelayError: the file is not a MetaImage, or its voxels are missing, cut short, too many, or in several files.
    """
    voxels = _voxels(path)
    return (path,) if voxels.file == path else (path, voxels.file)


def check(path: Path) -> None:
    """Check that a MetaImage is complete and its compressed voxels can be decompressed.

    Raises:
        RelayError: as for `files_of`, or the voxels are damaged.
    """
    voxels = _voxels(path)
    if not voxels.compressed:
        return
    try:
        with voxels.file.open("rb") as file:
            file.seek(voxels.start)
            unpack = zlib.decompressobj(wbits=47)  # zlib's or gzip's own header
            size = len(unpack.decompress(file.read(), voxels.bytes + 1))
    except (OSError, zlib.error):
        raise _damaged(voxels.file) from None
    if not unpack.eof or size != voxels.bytes:
        raise _damaged(voxels.file)


def states_orientation(path: Path) -> bool:
    """Return whether a MetaImage says how its axes lie in the body."""
    keys, _ = _header(path)
    return any(key in keys for key in ("TransformMatrix", "Rotation", "Orientation"))


def states_spacing(path: Path) -> bool:
    """Return whether a MetaImage says how far its voxels lie apart."""
    keys, _ = _header(path)
    return "ElementSpacing" in keys or "ElementSize" in keys


@dataclass(frozen=True)
class _Voxels:
    file: Path
    start: int
    """The position of the first voxel in the file, in bytes."""
    bytes: int
    """The number of bytes after decompression."""
    compressed: bool


def _voxels(path: Path) -> _Voxels:
    keys, length = _header(path)
    name = keys.get("ElementDataFile", "")
    if name.upper().startswith("LIST") or "%" in name:
        raise RelayError(f"The voxels of {path} lie in several files; write it again as one volume.")
    try:
        sizes = [int(axis) for axis in keys["DimSize"].split()]
        channels = int(keys.get("ElementNumberOfChannels", 1))
        before = int(keys.get("HeaderSize", 0))
        compressed = {"true": True, "false": False}[keys.get("CompressedData", "False").lower()]
        # ITK ends the process at an impossible number of axes.
        if int(keys["NDims"]) != len(sizes) or len(sizes) > 5 or min([*sizes, channels]) < 1 or before < -1:
            raise ValueError
        kind = keys["ElementType"].removeprefix("MET_").removeprefix("U")
        expected = check_voxels(path, [*sizes, channels]) * _BYTES[kind]
        needed = int(keys.get("CompressedDataSize", 1)) if compressed else expected
    except (KeyError, ValueError):
        raise _damaged(path) from None
    local = name.upper() == "LOCAL"
    if len(name) > _LONGEST_NAME:
        raise _damaged(path)
    if Path(name).name != name:
        raise RelayError(f"The voxels of {path} lie in another folder; put them beside it, and name them so in it.")
    file = path if local else path.parent / name
    try:
        size = file.stat().st_size if file.is_file() else -1
    except (OSError, ValueError):
        size = -1
    if size < 0:
        raise RelayError(f"The voxels of {path} are missing; add the file {file.name} beside it.") from None
    # HeaderSize = -1: the voxels are at the end of the file.
    start = (length if local else 0) + before if before >= 0 else max(0, size - needed)
    there = size - start
    if there < needed or (there > needed and not compressed):
        raise RelayError(f"{file} holds {there} bytes of voxels where its header asks for {needed}; copy it again.")
    return _Voxels(file, start, expected, compressed)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Return the header's entries and its length in bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(_HEADER_BYTES)
    except OSError:
        raise _damaged(path) from None
    keys: dict[str, str] = {}
    length = 0
    for line in content.split(b"\n"):
        length += len(line) + 1
        key, equals, value = line.decode("utf-8", "surrogateescape").partition("=")
        key = key.strip()
        # A line that ITK may parse differently makes this check meaningless, so the file is rejected.
        if key in keys or (line.strip() and not (equals and _KEY.fullmatch(key))):
            raise _damaged(path)
        keys[key] = value.strip()
        if key == "ElementDataFile":  # always the last entry
            return keys, length
    raise _damaged(path)


def _damaged(path: Path) -> RelayError:
    return RelayError(f"{path} cannot be read; it is damaged or of another format: copy it again.")

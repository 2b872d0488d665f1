"""Checks of NRRD files for faults that SimpleITK's reader does not report.

The reader uses the readable part of a damaged compressed file without comparing the checksum, and writes beyond its own
memory where a header field is long. Format: teem.sourceforge.net/nrrd.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from client.data.layouts.size import MOST_BYTES, check_voxels
from common.errors import RelayError

_HEADER_BYTES = 1 << 20
_FIELD_BYTES = 500
"""The most bytes of a header field; the longest real fields, lists of a few numbers, have a fifth. Comments may be
longer."""


def check(path: Path) -> None:
    """Check that a .nrrd file holds its own voxels, not too many, and that gzip can decompress gzipped voxels.

    Raises:
        RelayError: the voxels are in another file or too many, or the file is damaged.
    """
    damaged = RelayError(f"{path} cannot be read; it is damaged or of another format: copy it again.")
    try:
        with path.open("rb") as file:
            content = file.read(_HEADER_BYTES)
            end = re.search(rb"\r?\n\r?\n", content)
            header = content[: end.start() if end else len(content)].lower()
            if re.search(rb"^data ?file:", header, re.MULTILINE):
                raise RelayError(f"The voxels of {path} lie in another file; write it again as one .nrrd file.")
            sizes = re.findall(rb"^sizes: *([0-9 \t]+?)\s*$", header, re.MULTILINE)
            if end is None or not header.startswith(b"nrrd") or len(sizes) != 1 or _long(header):
                raise damaged
            voxels = check_voxels(path, [int(size) for size in sizes[0].split()])
            if path.stat().st_size > _HEADER_BYTES + MOST_BYTES:
                raise damaged
            if re.search(rb"^encoding: *gz", header, re.MULTILINE):
                file.seek(end.end())
                held = _unpack(gzip.GzipFile(fileobj=file), 8 * voxels)
            elif re.search(rb"^encoding: *bz", header, re.MULTILINE):
                held = voxels
            else:
                held = path.stat().st_size - end.end()
            if held < voxels:
                raise damaged
    except (OSError, EOFError, ValueError, zlib.error):
        raise damaged from None


def states_orientation(path: Path) -> bool:
    """Return whether a .nrrd file says how its axes lie in the body."""
    return _states(path, rb"space directions")


def states_spacing(path: Path) -> bool:
    """Return whether a .nrrd file says how far its voxels lie apart."""
    return _states(path, rb"space directions|spacings|axis mins|axismins")


def _states(path: Path, entries: bytes) -> bool:
    with path.open("rb") as file:
        header = re.split(rb"\r?\n\r?\n", file.read(_HEADER_BYTES), maxsplit=1)[0].lower()
    return re.search(rb"^(%b):" % entries, header, re.MULTILINE) is not None


def _long(header: bytes) -> bool:
    """Return whether a line is too long for NRRD's own fields; comments and users' "key:=value" pairs may be long."""
    return any(len(line) > _FIELD_BYTES and not re.match(rb"#|[^:]*:=", line) for line in header.splitlines())


def _unpack(file: gzip.GzipFile, most: int) -> int:
    """Return the number of decompressed bytes, without keeping the bytes.

    Args:
        file: the compressed voxels.
        most: the greatest expected number of bytes; up to 1 MiB more is accepted.

    Raises:
        ValueError: the file has too many bytes.
        OSError: the file is damaged.
    """
    there = 0
    while piece := file.read(1 << 20):
        there += len(piece)
        if there > most + (1 << 20):
            raise ValueError("it swells")
    return there

"""What SimpleITK passes over in a NRRD file.

Its reader takes what it can unpack of a damaged file without a look at the checksum, and writes beyond its own
memory where a field of the header is long. Format: teem.sourceforge.net/nrrd.
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
"""The longest fields of a header, which list a few numbers, have a fifth of that. Comments may be longer."""


def check(path: Path) -> None:
    """Make sure that a .nrrd file holds its own voxels, not too many, and that what is compressed can be unpacked.

    Raises:
        RelayError: its voxels lie in another file, are too many, or it is damaged.
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


def _long(header: bytes) -> bool:
    """Whether a line is longer than NRRD's own fields are; those of its users, "key:=value", are read otherwise."""
    return any(len(line) > _FIELD_BYTES and not re.match(rb"#|[^:]*:=", line) for line in header.splitlines())


def _unpack(file: gzip.GzipFile, most: int) -> int:
    """How many bytes are packed; none is kept. Raises ValueError where they are too many, OSError where damaged."""
    there = 0
    while piece := file.read(1 << 20):
        there += len(piece)
        if there > most + (1 << 20):
            raise ValueError("it swells")
    return there

"""What SimpleITK passes over in a NRRD file.

Its reader takes what it can unpack of a damaged file without a look at the checksum. Format: teem.sourceforge.net/nrrd.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from common.errors import RelayError


def check(path: Path) -> None:
    """Make sure that a .nrrd file holds its own voxels, and that what is compressed can be unpacked.

    Raises:
        RelayError: its voxels lie in another file, or it is damaged.
    """
    damaged = RelayError(f"{path} cannot be read; it is damaged or of another format: copy it again.")
    try:
        content = path.read_bytes()
    except OSError:
        raise damaged from None
    end = re.search(rb"\r?\n\r?\n", content)
    header = content[: end.start() if end else len(content)].lower()
    if re.search(rb"^data ?file:", header, re.MULTILINE):
        raise RelayError(f"The voxels of {path} lie in another file; write it again as one .nrrd file.")
    if end is None or not header.startswith(b"nrrd"):
        raise damaged
    if re.search(rb"^encoding: *gz", header, re.MULTILINE):
        try:
            gzip.decompress(content[end.end() :])
        except (OSError, EOFError, zlib.error):
            raise damaged from None

"""The header of a DICOM file as GDCM reads it, after a look at the bytes for what would end the process."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.layouts.size import MOST_BYTES, raise_if_short
from common.errors import RelayError

PATIENT_ID, SERIES_UID, DESCRIPTION, SOP_CLASS = "0010|0020", "0020|000e", "0008|103e", "0008|0016"
INSTANCE_UID, STUDY_UID = "0008|0018", "0020|000d"
SERIES_NUMBER, SERIES_DATE, STUDY_DATE, MODALITY = "0020|0011", "0008|0021", "0008|0020", "0008|0060"
IMAGE_TYPE, ECHO_TIME, B_VALUE, SCANNING_SEQUENCE = "0008|0008", "0018|0081", "0018|9087", "0018|0020"
POSITION, ORIENTATION, FRAMES, GAP_STATED = "0020|0032", "0020|0037", "0028|0008", "0018|0088"
INSTANCE_NUMBER, IMAGES_IN_ACQUISITION, THICKNESS = "0020|0013", "0020|1002", "0018|0050"
PHOTOMETRIC, SAMPLES, PADDING, SLOPE, INTERCEPT = "0028|0004", "0028|0002", "0028|0120", "0028|1053", "0028|1052"

DEFLATED = b"1.2.840.10008.1.2.1.99"
DEEPEST = 200
"""The deepest nesting of sequences that is read. Structured reports have about ten levels; GDCM's recursion ends after
thousands."""
_ITEM = re.compile(rb"(?:\xfe\xff[\x00\x0d]\xe0|\xff\xfe\xe0[\x00\x0d])(....)", re.DOTALL)
_ITEM_STARTS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_ITEM_ENDS = (b"\xfe\xff\x0d\xe0", b"\xff\xfe\xe0\x0d")

Vector = NDArray[np.float64]


def tag(header: sitk.ImageFileReader, key: str) -> str:
    """Return a header entry without its padding; empty where the header has no such entry."""
    if not header.HasMetaDataKey(key):
        return ""
    # Bytes outside UTF-8 arrive as surrogates, which no log or page could write.
    return header.GetMetaData(key).encode("utf-8", "replace").decode().strip(" \0")


def is_axial(normal: Vector) -> bool:
    """Return whether a slice normal (x, y, z) is closer to the body's long axis than to the other two."""
    return int(np.argmax(np.abs(normal))) == 2


def header_of(path: Path) -> sitk.ImageFileReader:
    """Return a file's header.

    Raises:
        RelayError: the file is damaged, no image, or one that GDCM must not see.
    """
    header = header_if_known(path)
    if header is None:
        raise RelayError(f"{path} cannot be read; it is damaged or no DICOM image: copy it again.")
    return header


def header_if_known(path: Path) -> sitk.ImageFileReader | None:
    """Return a file's header; None where GDCM makes no image of the file.

    Raises:
        RelayError: GDCM must not see the file.
    """
    if _ends_gdcm(path):
        raise RelayError(f"{path} cannot be read; it is deflated or damaged: export it again, uncompressed.")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.LoadPrivateTagsOff()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        # The error's text is not used: a damaged length asks for any amount of memory.
        raise_if_short("", bytes_of(path))
        return None
    return reader


def bytes_of(path: Path) -> int:
    """Return a file's size in bytes; 0 where the file is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _ends_gdcm(path: Path) -> bool:
    """Return whether GDCM may end the process, which cannot be caught, when the file's header is read.

    GDCM fails on some files in the transfer syntax that deflates all but the first lines; no scanner uses this syntax.
    GDCM also reads nested sequences by recursion. The depth is estimated from items' tags and lengths alone, anywhere
    in the file: a few pixel values that look like tags add no depth.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        return False
    if DEFLATED in content[:4096]:
        return True
    if not any(item in content for item in _ITEM_STARTS):  # true for nearly all files
        return False
    ends: list[float] = []
    for found in _ITEM.finditer(content):
        if found[0][:4] in _ITEM_ENDS:
            if ends:
                ends.pop()
            continue
        while ends and ends[-1] <= found.start():
            ends.pop()
        length = int.from_bytes(found[1], "little" if found[0][0] == 0xFE else "big")
        ends.append(math.inf if length == 0xFFFFFFFF else found.end() + length)
        if len(ends) > DEEPEST:
            return True
    return False


def axes_read(header: sitk.ImageFileReader) -> Vector:
    """Return unit vectors along columns and rows, and the slice normal, as rows."""
    return np.array(header.GetDirection()).reshape(3, 3).T


def looks_like_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its name, or else by its first 132 bytes."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or _begins_without_preamble(start)


def _begins_without_preamble(start: bytes) -> bool:
    """Return whether a file begins with DICOM's first elements at once: group 8 or 2, then a length or a VR that fits.

    Some old archives leave out the preamble of 128 bytes and the four letters after it.
    """
    group, element = int.from_bytes(start[:2], "little"), int.from_bytes(start[2:4], "little")
    if (group, element) not in ((2, 0), (2, 1), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x12), (8, 0x16)):
        return False
    if start[4:6] in (b"UL", b"OB", b"CS", b"DA", b"UI"):
        return True
    return 0 < int.from_bytes(start[4:8], "little") <= 128

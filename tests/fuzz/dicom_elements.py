"""A DICOM file taken to pieces and put together again, right or wrong. Shares nothing with GDCM.

Format: DICOM PS3.5 and PS3.10. Read are files in explicit little endian, whose sequences stay in one piece;
written is any transfer syntax, and any lie about a length.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
COMPRESSED = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.92",
    "1.2.840.10008.1.2.4.100",
    "1.2.840.10008.1.2.4.201",
    RLE,
)
"""JPEG, JPEG-LS, JPEG 2000, MPEG, HTJ2K, run lengths."""

UNDEFINED = 0xFFFFFFFF
PIXELS = (0x7FE0, 0x0010)
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""The representations whose length has four bytes."""
NUMBERS = {b"US": 2, b"SS": 2, b"OW": 2, b"UL": 4, b"SL": 4, b"FL": 4, b"OF": 4, b"AT": 2, b"FD": 8, b"OD": 8}
"""Those whose bytes are turned round in big endian, with the length of a value."""

Tag = tuple[int, int]


@dataclass
class Element:
    tag: Tag
    vr: bytes
    value: bytes
    length: int | None = None
    """What the header says; None where it is the truth."""


@dataclass
class File:
    elements: list[Element]
    """All, those of the file's own header (group 2) first."""
    preamble: bytes = bytes(128) + b"DICM"
    syntax: str = EXPLICIT
    """How the data set is written; what the header says of it is an element like others."""

    def get(self, tag: Tag) -> Element | None:
        return next((one for one in self.elements if one.tag == tag), None)

    def put(self, tag: Tag, vr: bytes, value: bytes) -> Element:
        """Set an element, or add it in its place."""
        if (known := self.get(tag)) is not None:
            known.vr, known.value, known.length = vr, value, None
            return known
        made = Element(tag, vr, value)
        place = next((k for k, one in enumerate(self.elements) if one.tag > tag), len(self.elements))
        self.elements.insert(place, made)
        return made

    def say(self, syntax: str) -> None:
        """Let the header name a transfer syntax."""
        self.put((2, 0x10), b"UI", padded(syntax.encode(), b"\0"))


def parse(content: bytes) -> File:
    elements, place = [], 132
    while place < len(content):
        group, element, vr = struct.unpack_from("<HH2s", content, place)
        if vr in LONG:
            (length,) = struct.unpack_from("<I", content, place + 8)
            place += 12
        else:
            (length,) = struct.unpack_from("<H", content, place + 6)
            place += 8
        if length == UNDEFINED:  # pixels in fragments, which stand last
            elements.append(Element((group, element), vr, content[place:], UNDEFINED))
            break
        elements.append(Element((group, element), vr, content[place : place + length]))
        place += length
    return File(elements, content[:132])


def write(file: File) -> bytes:
    head = b"".join(_element(one, EXPLICIT) for one in file.elements if one.tag[0] == 2)
    body = b"".join(_element(one, file.syntax) for one in file.elements if one.tag[0] != 2)
    if file.syntax == DEFLATED:
        pack = zlib.compressobj(wbits=-15)
        body = pack.compress(body) + pack.flush()
    return file.preamble + head + body


def in_syntax(file: File, syntax: str) -> File:
    """The same data set, truthfully in another uncompressed transfer syntax, or in run lengths."""
    made = File([Element(one.tag, one.vr, one.value, one.length) for one in file.elements], file.preamble, syntax)
    made.say(syntax)
    if syntax == RLE:
        made.syntax = EXPLICIT
        pixels = made.get(PIXELS)
        assert pixels is not None
        pixels.vr, pixels.value, pixels.length = b"OB", fragments([b"", run_lengths(pixels.value)]), UNDEFINED
    return made


def fragments(pieces: Iterable[bytes]) -> bytes:
    """Encapsulated pixel data: the table of offsets, the frames' fragments, the end."""
    items = (b"\xfe\xff\x00\xe0" + struct.pack("<I", len(padded(piece))) + padded(piece) for piece in pieces)
    return b"".join(items) + b"\xfe\xff\xdd\xe0\0\0\0\0"


def run_lengths(pixels: bytes) -> bytes:
    """16-bit pixels as DICOM's run lengths have them: a plane of high bytes, then one of low bytes."""
    planes = [padded(_packed(pixels[1::2])), padded(_packed(pixels[0::2]))]
    offsets = [64, 64 + len(planes[0]), *[0] * 13]
    return struct.pack("<16I", 2, *offsets) + b"".join(planes)


def sequence(items: Sequence[bytes], *, undefined: bool) -> bytes:
    """The value of a sequence of data sets in explicit little endian."""
    made = b""
    for item in items:
        length = UNDEFINED if undefined else len(item)
        made += b"\xfe\xff\x00\xe0" + struct.pack("<I", length) + item
        made += b"\xfe\xff\x0d\xe0\0\0\0\0" if undefined else b""
    return made + (b"\xfe\xff\xdd\xe0\0\0\0\0" if undefined else b"")


def padded(value: bytes, by: bytes = b" ") -> bytes:
    return value + by if len(value) % 2 else value


def _packed(plane: bytes) -> bytes:
    return b"".join(
        bytes([len(piece) - 1]) + piece for piece in (plane[k : k + 128] for k in range(0, len(plane), 128))
    )


def _element(one: Element, syntax: str) -> bytes:
    length = len(one.value) if one.length is None else one.length
    if syntax == IMPLICIT:
        return struct.pack("<HHI", *one.tag, length % 2**32) + one.value
    end = ">" if syntax == BIG_ENDIAN else "<"
    value = one.value
    width = NUMBERS.get(one.vr, 1)
    if end == ">" and width > 1 and len(value) % width == 0:
        value = b"".join(value[k : k + width][::-1] for k in range(0, len(value), width))
    head = struct.pack(f"{end}HH2s", *one.tag, one.vr)
    if one.vr in LONG:
        return head + struct.pack(f"{end}HI", 0, length % 2**32) + value
    return head + struct.pack(f"{end}H", length % 2**16) + value

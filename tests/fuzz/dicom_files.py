"""A patient's DICOM series, slice by slice from its elements, with any of these wrong."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fuzz import dicom_elements as dicom
from tests.fuzz.dicom_elements import Element, File, padded
from tests.fuzz.plain import FLOATS, NUMBERS, PHI, Random, elsewhere, harm
from tests.fuzz.planted import BORN, GIVEN, NAME, PATIENT, USER, WARD

Array = NDArray[Any]

TEXTS = (b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST", b"TM", b"UI", b"UT")
KINDS = (*TEXTS, *dicom.NUMBERS, b"OB", b"SQ", b"UN", b"??", b"\0\0", b"ox")
SYNTAXES = (dicom.IMPLICIT, dicom.BIG_ENDIAN, dicom.DEFLATED, *dicom.COMPRESSED, "1.2.840.10008.1.2.9", NAME, "")
ODD = {
    (0x0018, 0x0050): (b"", b"nan", b"0", b"-3"),
    (0x0020, 0x0032): (b"nan\\nan\\nan", b"inf\\0\\0", b"0\\0\\1e300", b"0\\0\\1e9", b"0\\0\\-5e11", b"1\\2", b"\\\\",
                       b"0\\0\\0", b"-9\\-4\\3e4", b"1e-320\\0\\0"),
    (0x0020, 0x0037): (b"nan\\0\\0\\0\\1\\0", b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\1\\0\\0", b"1\\0\\0\\0\\0\\1", b"1\\0",
                       b"2\\0\\0\\0\\9\\0", b"inf\\0\\0\\0\\inf\\0", b"-1\\0\\0\\0\\-1\\0", b""),
    (0x0028, 0x0030): (b"0\\0", b"-1\\1", b"nan\\nan", b"1e-30\\1e-30", b"1e30\\1e30", b"1", b"", b"inf\\1"),
    (0x0028, 0x0004): (b"RGB ", b"YBR_FULL_422", b"PALETTE COLOR", b"MONOCHROME1", b"ARGB", b""),
    (0x0028, 0x0008): (b"0", b"-1", b"2", b"1000000", b"2147483647", b"99999999999", b"x"),
    (0x0028, 0x1052): (b"nan", b"inf", b"1e308", b"-1e308", b"x", b"", b"1e-300"),
    (0x0028, 0x1053): (b"nan", b"inf", b"0", b"1e308", b"-1", b"", b"1e-310", b"3.5"),
    (0x0008, 0x0005): (b"ISO_IR 192", b"ISO_IR 100", b"ISO 2022 IR 87", b"\\ISO 2022 IR 6", b"nonsense"),
    (0x0020, 0x000E): (b"", b"1.2.3", b"x", b"9" * 64),
    (0x0010, 0x0020): (b"", b"..", b"/etc/passwd", b"a\\b", b"\xff\xfe", b"\r\n", b"x" * 300),
}  # fmt: skip
SHORTS = (0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 63, 64, 255, 256, 32767, 32768, 40000, 65535)
LENGTHS = (0, 1, 2, 3, 4, 7, 255, 65534, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 2, dicom.UNDEFINED)


def slices(array: Array, name: str, series: str) -> list[File]:
    """Sound files, one a slice; 1 x 1 x 3 mm, from feet to head."""
    made = []
    for k, plane in enumerate(array):
        uid = f"1.2.826.0.1.{series}.{k + 1}".encode()
        texts: dict[dicom.Tag, tuple[bytes, bytes]] = {
            (0x0002, 0x0002): (b"UI", b"1.2.840.10008.5.1.4.1.1.4"),
            (0x0002, 0x0003): (b"UI", uid),
            (0x0002, 0x0010): (b"UI", dicom.EXPLICIT.encode()),
            (0x0002, 0x0012): (b"UI", b"1.2.826.0.1"),
            (0x0008, 0x0005): (b"CS", b"ISO_IR 192"),
            (0x0008, 0x0016): (b"UI", b"1.2.840.10008.5.1.4.1.1.4"),
            (0x0008, 0x0018): (b"UI", uid),
            (0x0008, 0x0060): (b"CS", b"MR"),
            (0x0008, 0x0080): (b"LO", WARD.encode()),
            (0x0008, 0x0090): (b"PN", f"{USER}^{GIVEN}".encode()),
            (0x0008, 0x103E): (b"LO", b"T2W_TSE_AX"),
            (0x0010, 0x0010): (b"PN", f"{NAME}^{GIVEN}".encode()),
            (0x0010, 0x0020): (b"LO", name.encode()),
            (0x0010, 0x1005): (b"PN", BORN.encode()),
            (0x0018, 0x0050): (b"DS", b"3"),
            (0x0020, 0x000D): (b"UI", f"1.2.826.0.2.{series}".encode()),
            (0x0020, 0x000E): (b"UI", f"1.2.826.0.3.{series}".encode()),
            (0x0020, 0x0013): (b"IS", str(k + 1).encode()),
            (0x0020, 0x0032): (b"DS", f"-9\\-4\\{3 * k - 7}".encode()),
            (0x0020, 0x0037): (b"DS", b"1\\0\\0\\0\\1\\0"),
            (0x0028, 0x0004): (b"CS", b"MONOCHROME2"),
            (0x0028, 0x0008): (b"IS", b"1"),
            (0x0028, 0x0030): (b"DS", b"1\\1"),
            (0x0028, 0x1052): (b"DS", b"0"),
            (0x0028, 0x1053): (b"DS", b"1"),
        }
        elements = [
            Element(tag, vr, padded(value, b"\0" if vr == b"UI" else b" ")) for tag, (vr, value) in texts.items()
        ]
        numbers = {
            0x0002: 1,
            0x0010: plane.shape[0],
            0x0011: plane.shape[1],
            0x0100: 16,
            0x0101: 16,
            0x0102: 15,
            0x0103: 0,
        }
        elements += [Element((0x0028, low), b"US", struct.pack("<H", number)) for low, number in numbers.items()]
        elements.append(Element(dicom.PIXELS, b"OW", plane.astype("<u2").tobytes()))
        elements.append(Element((0x0002, 0x0001), b"OB", b"\0\1"))
        elements.sort(key=lambda one: one.tag)
        head = sum(len(dicom.write(File([one], b""))) for one in elements if one.tag[0] == 2)
        made.append(File([Element((2, 0), b"UL", struct.pack("<I", head)), *elements]))
    return made


def series(array: Array, name: str, number: int, rng: Random | None = None) -> dict[str, Any]:
    """A series' files by name; with a generator one of which some or all are harmed."""
    files = slices(array, name, str(number))
    names = [f"{k:03}.dcm" for k in range(len(files))]
    if rng is None:
        return {name: dicom.write(file) for name, file in zip(names, files, strict=True)}
    way = rng.random()
    selected = range(len(files)) if rng.random() < 0.5 else [rng.randrange(len(files))]
    if way < 0.75:
        state = rng.getrandbits(64)
        for k in selected:
            same = Random(state)  # all slices are harmed in one way, or one of them is
            for _ in range(same.choice((1, 1, 1, 2, 3))):
                files[k] = _harmed(files[k], same)
        return {name: dicom.write(file) for name, file in zip(names, files, strict=True)}
    made: dict[str, Any] = {name: dicom.write(file) for name, file in zip(names, files, strict=True)}
    for k in selected:
        made[names[k]] = harm(made[names[k]], rng) if way < 0.95 else elsewhere(made[names[k]], rng)
    if way > 0.98:
        made["DICOMDIR"] = made[f"{NAME}.dcm"] = made[names[0]]
    return made


def _harmed(file: File, rng: Random) -> File:
    ways = (
        _odd,
        _odd,
        _odd,
        _number,
        _number,
        _number,
        _lose,
        _lose,
        _twice,
        _kind,
        _length,
        _length,
        _syntax,
        _syntax,
    )
    return rng.choice((*ways, _pieces, _nested, _head, _more))(file, rng)


def _any(file: File, rng: Random) -> Element:
    return rng.choice(file.elements)


def _odd(file: File, rng: Random) -> File:
    tag = rng.choice(list(ODD))
    values = (*ODD[tag], *ODD[tag], *(text.encode() for text in (*NUMBERS, *FLOATS, *PHI)))
    file.put(tag, b"DS" if tag[0] != 0x10 else b"LO", padded(rng.choice(values)))
    return file


def _number(file: File, rng: Random) -> File:
    low = rng.choice((0x0002, 0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103, 0x0006, 0x0106, 0x0107))
    file.put((0x0028, low), b"US", struct.pack("<H", rng.choice(SHORTS)))
    if low in (0x0010, 0x0011) and rng.random() < 0.5:
        file.put((0x0028, 0x0021 - low), b"US", struct.pack("<H", 65535))
        file.put((0x0028, 0x0008), b"IS", rng.choice((b"1 ", b"60000 ", b"2147483647")))
    return file


def _lose(file: File, rng: Random) -> File:
    file.elements.remove(_any(file, rng))
    return file


def _twice(file: File, rng: Random) -> File:
    one = _any(file, rng)
    value = rng.choice((one.value, one.value[::-1], b"", padded(rng.choice(PHI).encode())))
    place = rng.randrange(len(file.elements) + 1)
    file.elements.insert(place, Element(one.tag, one.vr, value))
    return file


def _kind(file: File, rng: Random) -> File:
    _any(file, rng).vr = rng.choice(KINDS)
    return file


def _length(file: File, rng: Random) -> File:
    one = _any(file, rng)
    one.length = rng.choice((*LENGTHS, len(one.value) + 1, len(one.value) + 2, max(0, len(one.value) - 2)))
    return file


def _syntax(file: File, rng: Random) -> File:
    """Another transfer syntax: in truth, or said and not so, or so and not said."""
    way = rng.randrange(3)
    if way == 0:
        return dicom.in_syntax(file, rng.choice((dicom.IMPLICIT, dicom.BIG_ENDIAN, dicom.DEFLATED, dicom.RLE)))
    if way == 1:
        file.say(rng.choice(SYNTAXES))
        return file
    file.syntax = rng.choice((dicom.IMPLICIT, dicom.BIG_ENDIAN, dicom.DEFLATED))
    return file


def _pieces(file: File, rng: Random) -> File:
    """Compressed pixels that are none."""
    file.say(rng.choice(dicom.COMPRESSED))
    pixels = file.put(dicom.PIXELS, b"OB", b"")
    start = rng.choice(
        (b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xf7\0\x0b\x10", b"\xff\x4f\xff\x51\0\x29", b"\0\0\0\x0cjP  ", b"")
    )
    size = struct.pack(">HHB", rng.choice((32, 0, 65535)), rng.choice((32, 65535)), rng.choice((1, 3, 255)))
    frame = start + rng.choice((b"", b"\xff\xc3\0\x0b\x10" + size + b"\x11\0")) + rng.randbytes(rng.randrange(200))
    if rng.random() < 0.3:
        frame = struct.pack(
            "<16I", rng.choice((2, 1, 0, 15, 2**31)), *(rng.choice((64, 0, 2**32 - 1)) for _ in range(15))
        )
        frame += rng.randbytes(rng.randrange(300))
    pixels.value = dicom.fragments([rng.choice((b"", b"\0\0\0\0", b"\xff" * 8)), *[frame] * rng.choice((1, 0, 3))])
    pixels.length = rng.choice((dicom.UNDEFINED, dicom.UNDEFINED, None, 10))
    pixels.value = pixels.value[: rng.choice((len(pixels.value), rng.randrange(len(pixels.value) + 1)))]
    return file


def _nested(file: File, rng: Random) -> File:
    """Sequences in sequences, a few or thousands deep, with a name in the innermost."""
    value = dicom.write(File([Element((0x0010, 0x0010), b"PN", padded(NAME.encode()))], b""))
    undefined = rng.random() < 0.7
    if undefined:
        mark = b"\0" * 7
        before, after = dicom.write(File([Element((0x0008, 0x1140), b"SQ", mark, dicom.UNDEFINED)], b"")).split(mark)
        open_, close = dicom.sequence([mark], undefined=True).split(mark)
        depth = rng.choice((1, 3, 100, 3000, 60_000))
        value = (before + open_) * depth + value + (close + after) * rng.choice((depth, depth, 0))
    else:
        for _ in range(rng.choice((1, 3, 100))):
            inner = Element((0x0008, 0x1140), b"SQ", dicom.sequence([value], undefined=False))
            value = dicom.write(File([inner], b""))
    place = next(k for k, one in enumerate(file.elements) if one.tag > (0x0008, 0x0080))
    whole = dicom.sequence([value], undefined=undefined)
    if rng.random() < 0.3:
        whole = whole[: rng.randrange(len(whole))]
    file.elements.insert(place, Element((0x0008, 0x1140), b"SQ", whole, dicom.UNDEFINED if undefined else None))
    return file


def _head(file: File, rng: Random) -> File:
    file.preamble = rng.choice((b"", bytes(128), PATIENT.encode().ljust(128, b"\0") + b"DICM", bytes(128) + b"dicm"))
    if rng.random() < 0.5:
        file.elements = [one for one in file.elements if one.tag[0] != 2]
    return file


def _more(file: File, rng: Random) -> File:
    """Elements that have no place there, private ones, and values without end."""
    for _ in range(rng.choice((1, 5))):
        tag = rng.choice(((0x0009, 0x0010), (0x0029, 0x1010), (0x0000, 0x0000), (0xFFFE, 0xE000), (0xFFFE, 0xE0DD),
                          (0x0028, 0x0009), (0x5200, 0x9229), (0x5200, 0x9230), (0x7FE0, 0x0008), (0x7FE0, 0x0010),
                          (0x0028, 0x1101), (0x0028, 0x1201), (0x0008, 0x0016), (0xFFFF, 0xFFFF)))  # fmt: skip
        value = padded(rng.choice((*(text.encode() for text in PHI), b"", np.random.default_rng(1).bytes(64))))
        file.elements.insert(rng.randrange(len(file.elements) + 1), Element(tag, rng.choice(KINDS), value))
    if rng.random() < 0.3:
        file.put((0x0008, 0x0016), b"UI", b"1.2.840.10008.5.1.4.1.1.4.1\0")  # enhanced: many frames in a file
    return file

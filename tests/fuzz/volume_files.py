"""NIfTI, NRRD and MetaImage written from their descriptions alone, with headers that may say anything."""

from __future__ import annotations

import bz2
import struct
import zlib
from typing import Any

from numpy.typing import NDArray

from tests.fuzz.plain import PHI, Entry, Fifo, Files, Link, Random, elsewhere, harm, lines, packed
from tests.fuzz.planted import NAME, USER

Array = NDArray[Any]

TYPES = {"i2": (4, "short", "MET_SHORT"), "u1": (2, "uchar", "MET_UCHAR"), "f4": (16, "float", "MET_FLOAT")}
TYPES |= {"f8": (64, "double", "MET_DOUBLE"), "i4": (8, "int", "MET_INT"), "u2": (512, "ushort", "MET_USHORT")}
"""What NIfTI, NRRD and MetaIO call numpy's types."""

ONE = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
    "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "b"),
    "descrip": (148, "80s"), "aux_file": (228, "24s"), "qform_code": (252, "h"), "sform_code": (254, "h"),
    "quatern": (256, "6f"), "srow": (280, "12f"), "intent_name": (328, "16s"), "magic": (344, "4s"),
    "extension": (348, "4s"),
}  # fmt: skip
TWO = {
    "sizeof_hdr": (0, "i"), "magic": (4, "8s"), "datatype": (12, "h"), "bitpix": (14, "h"), "dim": (16, "8q"),
    "pixdim": (104, "8d"), "vox_offset": (168, "q"), "scl_slope": (176, "d"), "scl_inter": (184, "d"),
    "descrip": (240, "80s"), "aux_file": (320, "24s"), "qform_code": (344, "i"), "sform_code": (348, "i"),
    "quatern": (352, "6d"), "srow": (400, "12d"), "xyzt_units": (500, "i"), "intent_name": (508, "16s"),
    "extension": (540, "4s"),
}  # fmt: skip
"""Where the fields of NIfTI-1 and NIfTI-2 stand, as struct has it."""

WHOLE = (0, 1, -1, 2, 3, 4, 5, 7, 8, 9, 16, 32, 64, 348, 352, 540, 32767, -32768, 65535, 2**31 - 1, 2**40, 2**62)
REAL = (0.0, -0.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e-30, 1e-300, 1e30, 1e300, 352.5, -352.0, 1e9)


def nifti_header(array: Array, end: str, two: bool) -> bytearray:
    """A sound header for slices, rows, columns of 3, 1, 1 mm."""
    fields, start = (TWO, 544) if two else (ONE, 352)
    content = bytearray(start)
    code = TYPES[array.dtype.str[1:]][0]
    shape = array.shape[::-1]
    values: dict[str, tuple[Any, ...]] = {
        "sizeof_hdr": (540 if two else 348,),
        "dim": (array.ndim, *shape, *[1] * (7 - array.ndim)),
        "datatype": (code,),
        "bitpix": (array.dtype.itemsize * 8,),
        "pixdim": (1, 1, 1, 3, 1, 1, 1, 1),
        "vox_offset": (start,),
        "scl_slope": (1,),
        "xyzt_units": (2,),
        "sform_code": (1,),
        "srow": (-1, 0, 0, 9, 0, -1, 0, 4, 0, 0, 3, -7),
        "magic": (b"n+2\0\r\n\x1a\n" if two else b"n+1\0",),
    }
    for name, value in values.items():
        place, form = fields[name]
        struct.pack_into(end + form, content, place, *value)
    return content


def nifti(array: Array, rng: Random | None = None) -> bytes:
    """A NIfTI file; with a generator one whose header, order of bytes or length is harmed."""
    two = rng is not None and rng.random() < 0.25
    end = "<" if rng is None or rng.random() < 0.7 else ">"
    content = nifti_header(array, end, two)
    voxels = array.astype(array.dtype.newbyteorder(end)).tobytes()
    if rng is None:
        return bytes(content) + voxels
    fields = TWO if two else ONE
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(("dim", "dim", "pixdim", "datatype", "bitpix", "vox_offset", *fields))
        place, form = fields[name]
        letter, old = form[-1], list(struct.unpack_from(end + form, content, place))
        if letter == "s":
            old[0] = rng.choice((*(text.encode() for text in PHI), b"ni1\0", b"n+1\0", b"\1\0\0\0", b"\xff" * 8))
        else:
            for _ in range(rng.choice((1, 1, 2, len(old)))):
                k = rng.randrange(len(old))
                old[k] = rng.choice(REAL) if letter in "fd" else rng.choice(WHOLE)
                if letter in "bhi":
                    half = 1 << (8 * struct.calcsize(letter) - 1)
                    old[k] = (old[k] + half) % (2 * half) - half
                elif letter == "f" and abs(old[k]) > 3e38:
                    old[k] = old[k] * 1e10  # infinite
        struct.pack_into(end + form, content, place, *old)
    if rng.random() < 0.1:  # an extension of any size, with a name in it
        content[-4:] = b"\1\0\0\0" + struct.pack(end + "ii", rng.choice((16, 0, -8, 2**31 - 1, 32)), 6) + NAME.encode()
    return bytes(content) + (voxels if rng.random() < 0.9 else voxels[: rng.randrange(len(voxels))])


NRRD = {
    "sizes": ("-3 28 5", "0 0 0", "100000 100000 100000", "2147483647 2 1", "32 32", "32 32 5 1", "5120 1 1"),
    "dimension": ("0", "1", "2", "4", "16", "17", "-3"),
    "type": ("block", "signed char", "uint64", "float", "double", "long long", "none", ""),
    "endian": ("big", "middle", ""),
    "encoding": ("ascii", "hex", "gzip", "gz", "bzip2", "bz2", "raw", "zrl", "text", NAME),
    "space": ("scanner-xyz", "RAS", "3D-right-handed", "left-posterior-superior-time", NAME),
    "space directions": ("none none none", "(nan,0,0) (0,1,0) (0,0,3)", "(0,0,0) (0,0,0) (0,0,0)", "(1,0) (0,1) (0,0)",
                         "(1,0,0) (1,0,0) (0,0,3)", "(1e-30,0,0) (0,1,0) (0,0,3)", "(1e30,0,0) (0,1e30,0) (0,0,1e30)",
                         "(inf,0,0) (0,inf,0) (0,0,inf)", "(-1,0,0) (0,0,1) (0,3,0)"),
    "space origin": ("(nan,nan,nan)", "(inf,0,0)", "(1e300,0,0)", "(0,0)", "none", "0 0 0"),
    "kinds": ("vector domain domain", "RGB-color domain domain", "list", "complex domain domain", "??? ??? ???"),
}  # fmt: skip
NRRD_MORE = (
    ("data file", "/etc/passwd"), ("data file", f"/home/{USER}/{NAME}.raw"), ("datafile", "LIST"),
    ("data file", "fifo"), ("data file", "x%03d.raw 1 9 1"), ("byte skip", "-1"), ("byte skip", "99999999999"),
    ("line skip", "99999999"), ("line skip", "-1"), ("content", NAME), ("spacings", "nan nan nan"), ("# ", NAME),
    ("old min", "nan"), ("sample units", NAME), ("measurement frame", "(1,0,0) (0,1,0) (0,0,nan)"),
    ("thicknesses", "1 2"), ("axis mins", "inf inf inf"), ("labels", f'"{NAME}" "b" "c'), ("number", "3"),
    ("centerings", "cell node ???"), ("units", '"mm" "mm"'), (f"{NAME}:=", NAME),
)  # fmt: skip


def nrrd(array: Array, rng: Random | None = None) -> bytes:
    code = TYPES[array.dtype.str[1:]][1]
    encoding = "gzip" if rng is None else rng.choice(("raw", "gzip", "gzip", "ascii", "hex", "bzip2"))
    header = [
        ("type", code),
        ("dimension", "3"),
        ("space", "left-posterior-superior"),
        ("sizes", " ".join(map(str, array.shape[::-1]))),
        ("space directions", "(1,0,0) (0,1,0) (0,0,3)"),
        ("kinds", "domain domain domain"),
        ("endian", "little"),
        ("encoding", encoding),
        ("space origin", "(-9,-4,-7)"),
    ]
    voxels = array.tobytes()
    first, between = "NRRD0004", "\n"
    if rng is None:
        body = packed(voxels, _Sound())
    else:
        if rng.random() < 0.7:
            header = lines(header, rng, NRRD)
        for _ in range(rng.choice((0, 0, 1, 2))):
            header.insert(rng.randrange(len(header) + 1), rng.choice(NRRD_MORE))
        if rng.random() < 0.1:
            first = rng.choice(("NRRD0005", "NRRD0001", "NRRD9999", "NRRD", "nrrd0004", NAME))
        if rng.random() < 0.1:
            between = rng.choice(("\r\n", "\r", "\n\n"))
        texts = {
            "raw": lambda: voxels,
            "gzip": lambda: packed(voxels, rng),
            "ascii": lambda: " ".join(map(str, array.ravel())).encode(),
            "hex": lambda: voxels.hex().encode(),
            "bzip2": lambda: bz2.compress(voxels),
        }
        body = texts[encoding]()
        body = body[: rng.randrange(len(body))] if rng.random() < 0.1 else body
    text = between.join([first, *(f"{key}: {value}" for key, value in header), "", ""])
    return text.encode("utf-8", "replace") + body


class _Sound(Random):
    """Chooses the first of all choices."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


META = {
    "NDims": ("0", "-1", "2", "4", "5", "10", "11", "1000000"),
    "DimSize": ("-3 28 5", "0 0 0", "100000 100000 100000", "2147483647 2 1", "32 32", "32 32 5 1", "5120 1 1"),
    "ElementType": ("MET_UCHAR", "MET_DOUBLE", "MET_OTHER", "MET_STRING", "MET_LONG_LONG", "MET_SHORT_ARRAY"),
    "ElementDataFile": ("LOCAL", "LIST", "/etc/passwd", "../../../etc/passwd", "fifo", "/dev/zero", "x%03d.raw 1 9 1",
                        "", ".", f"/home/{USER}/{NAME}.raw", "\0", "n" * 5000, "/proc/self/mem", "../x.raw"),
    "ElementSpacing": ("nan nan nan", "0 0 0", "-1 1 3", "1e-30 1 3", "1e30 1e30 1e30", "1 1", "3 3 1"),
    "TransformMatrix": ("nan 0 0 0 1 0 0 0 1", "0 0 0 0 0 0 0 0 0", "1 1 1 1 1 1 1 1 1", "1 0", "0 0 1 1 0 0 0 1 0"),
    "Offset": ("nan nan nan", "inf 0 0", "1e300 0 0", "1 2"),
    "CompressedData": ("True", "true", "False", "T", "maybe"),
    "BinaryDataByteOrderMSB": ("True", "maybe"),
    "BinaryData": ("False", "no"),
    "ObjectType": ("Scene", "Tube", "Image2", NAME),
}  # fmt: skip
META_MORE = (
    ("HeaderSize", "-1"), ("HeaderSize", "-2"), ("HeaderSize", "100"), ("HeaderSize", "9223372036854775807"),
    ("CompressedDataSize", "0"), ("CompressedDataSize", "-5"), ("CompressedDataSize", "99999999999"),
    ("ElementNumberOfChannels", "0"), ("ElementNumberOfChannels", "3"), ("ElementNumberOfChannels", "-1"),
    ("ElementNumberOfChannels", "100000000"), ("Comment", NAME), ("Name", NAME), ("ID", "-7"), ("ParentID", "x"),
    ("ElementSize", "nan nan nan"), ("Orientation", "1 0 0"), ("Position", "1 2"), ("Color", "1 1 1"),
    ("SequenceID", "1 2 3"), ("ElementMin", "nan"), ("ElementToIntensityFunctionSlope", "nan"), ("Modality", NAME),
)  # fmt: skip


def meta(array: Array, stem: str, rng: Random | None = None) -> Files:
    """A .mhd with its voxels, by file name."""
    compressed = rng is not None and rng.random() < 0.4
    name = f"{stem}.zraw" if compressed else f"{stem}.raw"
    header = [
        ("ObjectType", "Image"),
        ("NDims", "3"),
        ("BinaryData", "True"),
        ("BinaryDataByteOrderMSB", "False"),
        ("CompressedData", str(compressed)),
        ("TransformMatrix", "1 0 0 0 1 0 0 0 1"),
        ("Offset", "-9 -4 -7"),
        ("ElementSpacing", "1 1 3"),
        ("DimSize", " ".join(map(str, array.shape[::-1]))),
        ("ElementType", TYPES[array.dtype.str[1:]][2]),
        ("ElementDataFile", name),
    ]
    voxels: Entry = zlib.compress(array.tobytes()) if compressed else array.tobytes()
    between = " = "
    if rng is not None:
        assert isinstance(voxels, bytes)
        way = rng.random()
        if way < 0.7:
            header = lines(header, rng, META)
            for _ in range(rng.choice((0, 0, 1, 2))):
                header.insert(rng.randrange(len(header)), rng.choice(META_MORE))
        elif compressed and way < 0.85:
            voxels = packed(array.tobytes(), rng)
        elif way < 0.95:
            voxels = harm(voxels, rng)
        else:
            voxels = elsewhere(voxels, rng)
        if rng.random() < 0.08:
            between = rng.choice(("=", ": ", ":", "==", " ", "\t=\t"))
    text = "".join(f"{key}{between}{value}\n" for key, value in header).encode("utf-8", "replace")
    if rng is not None and ("ElementDataFile", "LOCAL") in header and isinstance(voxels, bytes):
        text += voxels
    files: Files = {f"{stem}.mhd": text, name: voxels}
    return files | ({"fifo": Fifo(), "x.raw": Link("fifo")} if rng is not None and rng.random() < 0.3 else {})

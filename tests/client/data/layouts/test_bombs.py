"""A file that would end the process, hang it or take all its memory is told before any library sees it."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from client.data import layouts
from client.data.layouts import dicom
from tests.fuzz import dicom_elements
from tests.fuzz.dicom_elements import Element
from tests.fuzz.dicom_files import slices
from tests.support.layout_files import (
    Array,
    as_nci_isbi,
    as_nifti_pairs,
    as_promise12,
    bad,
    only,
    problem,
    site,
    truth,
    write_volume,
)

ZEROS = gzip.compress(bytes(1 << 24), mtime=0) * 64
"""A gigabyte, packed."""


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("of", ["Case00", "Case00_segmentation"])
def test_a_packed_nifti_file_that_swells_is_told(tmp_path: Path, of: str) -> None:
    source = only(layouts.find(as_nifti_pairs(tmp_path, *truth())))
    path = tmp_path / "images" / f"{of}.nii.gz"
    path.write_bytes(path.read_bytes() + ZEROS)
    with little_memory():
        assert f"{of}.nii.gz cannot be read" in bad(source)


def test_a_packed_label_that_swells_is_told(tmp_path: Path) -> None:
    source = only(layouts.find(as_nci_isbi(tmp_path, *truth())))
    source.mask[0].write_bytes(source.mask[0].read_bytes() + ZEROS)
    with little_memory():
        assert "cannot be read" in bad(source)


@pytest.mark.slow
def test_packed_voxels_of_a_metaimage_that_swell_are_told(tmp_path: Path) -> None:
    source = only(layouts.find(as_promise12(tmp_path, *truth(), compressed=True)))
    source.image[1].write_bytes(zlib.compress(bytes(1 << 30)))
    with little_memory():
        assert "cannot be read" in bad(source)


def nifti_with(path: Path, place: int, form: str, *values: float) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, content, place, *values)
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    ("place", "form", "values", "told"),
    [
        (40, "<4h", (3, 32767, 32767, 32767), "at most"),
        (40, "<h", (-3,), "cannot be read"),
        (70, "<2h", (64, 8), "cannot be read"),
        (72, "<h", (-16,), "cannot be read"),
        (108, "<f", (float("inf"),), "cannot be read"),
        (108, "<f", (float("nan"),), "cannot be read"),
        (108, "<f", (1e30,), "cannot be read"),
    ],
    ids=["a terabyte", "axes below zero", "doubles of a byte", "bits below zero", "inf", "nan", "far away"],
)
def test_a_nifti_header_that_claims_what_cannot_be_is_told(
    tmp_path: Path, place: int, form: str, values: tuple[float, ...], told: str
) -> None:
    source = only(layouts.find(as_nifti_pairs(tmp_path, *truth())))
    nifti_with(source.image[0], place, form, *values)
    with little_memory():
        assert told in bad(source)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"space origin: ", b"space origin: " + b"x" * 5000, "cannot be read"),
        (b"sizes: 28 32 8", b"sizes: 2800 32000 8000", "at most"),
        (b"sizes: 28 32 8", b"sizes: 28 32 8\nsizes: 28 32 8", "cannot be read"),
        (b"sizes: 28 32 8", b"sizes: 0 32 8", "cannot be read"),
    ],
    ids=["a field without end", "a terabyte", "sizes twice", "no voxels"],
)
def test_a_label_whose_header_would_end_the_process_is_told(tmp_path: Path, old: bytes, new: bytes, told: str) -> None:
    source = only(layouts.find(as_nci_isbi(tmp_path, *truth())))
    content = source.mask[0].read_bytes()
    assert old in content
    source.mask[0].write_bytes(content.replace(old, new))
    assert told in bad(source)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/Case00.raw", "sub/Case00.raw"])
def test_voxels_in_another_folder_are_told(tmp_path: Path, name: str) -> None:
    config = as_promise12(tmp_path, *truth())
    path = tmp_path / "images" / "Case00.mhd"
    path.write_text(path.read_text("utf-8").replace("Case00.raw", name), encoding="utf-8")
    assert "another folder" in problem(layouts.find(config), "Case00")


def test_a_name_that_no_file_can_have_is_not_repeated(tmp_path: Path) -> None:
    config = as_promise12(tmp_path, *truth())
    path = tmp_path / "images" / "Case00.mhd"
    path.write_text(path.read_text("utf-8").replace("Case00.raw", "n" * 5000), encoding="utf-8")
    assert "cannot be read" in problem(layouts.find(config), "Case00")


@pytest.mark.parametrize(
    "more", ["DimSize = 9999 9999 9999\n", "DimSize: 9999 9999 9999\n", "DimSize 9999 9999 9999\n", "ID=1\nID=2\n"]
)
def test_a_header_that_may_be_read_in_two_ways_is_told(tmp_path: Path, more: str) -> None:
    config = as_promise12(tmp_path, *truth())
    path = tmp_path / "images" / "Case00.mhd"
    path.write_text(more + path.read_text("utf-8"), encoding="utf-8")
    assert "cannot be read" in problem(layouts.find(config), "Case00")


@pytest.mark.parametrize("linked", [True, False])
def test_a_pipe_is_told_and_nobody_waits_for_it(tmp_path: Path, linked: bool) -> None:
    config = as_promise12(tmp_path, *truth())
    (tmp_path / "images" / "Case00.raw").unlink()
    pipe = tmp_path / "pipe" if linked else tmp_path / "images" / "Case00.raw"
    os.mkfifo(pipe)
    if linked:
        (tmp_path / "images" / "Case00.raw").symlink_to(pipe)
    found = layouts.find(config)
    assert "neither a file nor a folder" in problem(found, "Case00.raw")
    assert "are missing" in problem(found, "Case00")


def nested(depth: int, *, undefined: bool) -> bytes:
    """A slice with sequences in sequences."""
    file = slices(np.ones((1, 16, 16), np.uint16), "P1", "1")[0]
    if undefined:
        mark = b"\0" * 7
        before, after = dicom_elements.sequence([mark], undefined=True).split(mark)
        head = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
        value = (before + head) * depth + after * depth
    else:
        value = b""
        for _ in range(depth):
            inner = dicom_elements.sequence([value], undefined=False)
            value = b"\x08\x00\x40\x11SQ\0\0" + len(inner).to_bytes(4, "little") + inner
        value = dicom_elements.sequence([value], undefined=False)
    length = dicom_elements.UNDEFINED if undefined else None
    place = next(k for k, one in enumerate(file.elements) if one.tag > (0x0008, 0x1140))
    file.elements.insert(place, Element((0x0008, 0x1140), b"SQ", value, length))
    return dicom_elements.write(file)


@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_without_end_are_told(tmp_path: Path, undefined: bool) -> None:
    """GDCM follows them by recursion, and takes the whole process with it."""
    path = tmp_path / "a.dcm"
    path.write_bytes(nested(60_000 if undefined else 1000, undefined=undefined))
    assert dicom.scan([path]).damaged == (path,)


def test_some_sequences_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(nested(20, undefined=False))
    assert dicom.scan([path]).damaged == ()


def test_a_deflated_file_is_told(tmp_path: Path) -> None:
    """GDCM ends the process on some of them."""
    file = slices(np.ones((1, 16, 16), np.uint16), "P1", "1")[0]
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom_elements.write(dicom_elements.in_syntax(file, dicom_elements.DEFLATED)))
    assert dicom.scan([path]).damaged == (path,)


def write_with(folder: Path, array: Array, number: str, tag: tuple[int, int], text: bytes, *, of: int) -> None:
    """A series with another text in its first slices, or in its last."""
    files = slices(array, "P1", number)
    for file in files[of:] if of < 0 else files[:of]:
        file.put(tag, b"DS", dicom_elements.padded(text))
    folder.mkdir(parents=True)
    for k, file in enumerate(files):
        (folder / f"{k}.dcm").write_bytes(dicom_elements.write(file))


def test_mask_slices_that_lie_kilometres_apart_make_no_volume(tmp_path: Path) -> None:
    image, mask = truth()
    patient = tmp_path / "images" / "P1"
    write_with(patient / "T2W", image, "1", (0x0020, 0x0032), b"", of=0)
    write_with(patient / "GT" / "prostate", mask, "2", (0x0020, 0x0032), b"-9\\-4\\3000000008", of=-1)
    with little_memory():
        assert "at most" in bad(only(layouts.find(site(tmp_path, "i2cvb"))))


@pytest.mark.parametrize("steps", [b"1e-30\\1e-30", b"1e30\\1e30", b"-1\\1"])
def test_pixels_of_a_size_that_cannot_be_are_told(tmp_path: Path, steps: bytes) -> None:
    """Resampled, they would take any amount of memory."""
    image, mask = truth()
    write_with(tmp_path / "images" / "P1", image, "1", (0x0028, 0x0030), steps, of=8)
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    assert "mm apart" in bad(only(layouts.find(site(tmp_path, "nci-isbi"))))

"""The table of docs/reference/layouts.md: each format with each trouble, and what happens, cell by cell.

"read" means the voxels and the place that were written; "refused" a sentence that names the trouble; "stated" refused,
and read once the site file states what is true; "told" read, and named by `relay site check`.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from client import data_check
from client.data import layouts
from client.data_check import words
from client.site_config import SiteConfig, load_site
from common.errors import BadPatient
from tests.support.enhanced import place_of, write_enhanced
from tests.support.layout_files import CORONAL, Array, only, same, site, truth, write_series, write_volume

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "layouts.md"
STATED = 'spacing_mm = [3.0, 0.5, 0.75]\norientation = "LPS"\n'


class Files:
    """One patient's image in a format, with a mask beside it, and ways to spoil the two."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.image, self.mask = truth()

    def write(self, image: Array | None = None, mask: Array | None = None, **how: Any) -> None:
        image = self.image if image is None else image
        mask = self.mask if mask is None else mask
        images = self.folder / "images"
        if self.kind == "DICOM, a file a slice":
            write_series(images / "P1", image, **how)
        elif self.kind == "DICOM, frames in one file":
            write_enhanced(images / "P1" / "1.dcm", list(image), list(range(len(image))), **how)
        else:
            write_volume(images / f"P1{self.ending}", image, compressed=False, **how)
        if self.dicom:
            write_volume(self.folder / "labels" / "P1.nrrd", mask)
        else:
            write_volume(images / f"P1_segmentation{self.ending}", mask, compressed=False)

    @property
    def dicom(self) -> bool:
        return self.kind.startswith("DICOM")

    @property
    def ending(self) -> str:
        return {"NIfTI": ".nii.gz", "MetaImage": ".mha"}[self.kind]

    def site(self, more: str = "") -> SiteConfig:
        layout = "nci-isbi" if self.dicom else "nifti-pairs" if self.kind == "NIfTI" else "promise12"
        site(self.folder, layout)
        path = self.folder / "site.toml"
        path.write_text(path.read_text("utf-8") + more, encoding="utf-8")
        return load_site(path)

    def each(self, change: Callable[[Any], None]) -> None:
        """Change every DICOM file."""
        for path in sorted((self.folder / "images").rglob("*.dcm")):
            header = pydicom.dcmread(path)
            change(header)
            header.save_as(path)

    def first_groups(self, header: Any) -> Any:
        return header.SharedFunctionalGroupsSequence[0]

    def volume(self, name: str, change: Callable[[bytearray], bytes | bytearray]) -> None:
        path = self.folder / "images" / f"{name}{self.ending}"
        content = path.read_bytes()
        packed = self.ending.endswith(".gz")
        changed = bytes(change(bytearray(gzip.decompress(content) if packed else content)))
        path.write_bytes(gzip.compress(changed) if packed else changed)


def sound(files: Files) -> None:
    files.write()


def shuffled(files: Files) -> None:
    order = [3, 0, 6, 5, 1, 7, 2, 4]
    if files.kind == "DICOM, a file a slice":
        files.write(numbers=order)
    else:
        files.write()
        write_enhanced(files.folder / "images" / "P1" / "1.dcm", [files.image[k] for k in order], order)


def own_rescaling(files: Files) -> None:
    slopes = 1 + 0.25 * np.arange(8)
    stored = files.image
    if files.kind == "DICOM, a file a slice":
        files.write()
        for slope, path in zip(slopes, sorted((files.folder / "images").rglob("*.dcm")), strict=True):
            header = pydicom.dcmread(path)
            header.RescaleSlope = f"{slope:g}"
            header.save_as(path)
    else:
        files.write(slopes=[(slope, 0.0) for slope in slopes])
    files.image = (stored * slopes[:, None, None]).astype(np.float32)


def lost_spacing(files: Files) -> None:
    files.write()
    if files.kind == "DICOM, a file a slice":
        files.each(lambda header: delattr(header, "PixelSpacing"))
    elif files.dicom:
        files.each(lambda header: delattr(files.first_groups(header), "PixelMeasuresSequence"))
    elif files.kind == "MetaImage":
        for name in ("P1", "P1_segmentation"):
            files.volume(name, lambda content: without_line(content, b"ElementSpacing"))


def lost_orientation(files: Files) -> None:
    files.write()
    if files.kind == "DICOM, a file a slice":
        files.each(lambda header: delattr(header, "ImageOrientationPatient"))
    elif files.dicom:
        files.each(lambda header: delattr(files.first_groups(header), "PlaneOrientationSequence"))
    for name in ("P1", "P1_segmentation") if not files.dicom else ():
        if files.kind == "MetaImage":
            files.volume(name, lambda content: without_line(content, b"TransformMatrix"))
        else:
            files.volume(name, lambda content: packed(content, 252, "<2h", 0, 0))


def lost_all(files: Files) -> None:
    files.write(spacing=(1.0, 1.0, 1.0), origin=np.zeros(3))
    write_volume(
        files.folder / "images" / f"P1_segmentation{files.ending}", files.mask, spacing=(1, 1, 1), origin=np.zeros(3)
    )


def contradiction(files: Files) -> None:
    files.write()
    if files.kind == "NIfTI":
        files.volume("P1", lambda content: packed(content, 268, "<3f", 0.0, 0.0, 0.0))
    elif files.kind == "DICOM, a file a slice":
        files.each(wider_where_fourth)
    else:
        files.each(fourth_frame_elsewhere)


def wider_where_fourth(header: Any) -> None:
    if header.InstanceNumber == 4:
        header.PixelSpacing = ["0.7", "0.9"]


def fourth_frame_elsewhere(header: Any) -> None:
    header.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0].ImagePositionPatient = place_of(9.5)


def missing_slice(files: Files) -> None:
    if files.kind == "DICOM, a file a slice":
        files.write(without=(4,))
    else:
        files.write()
        kept = [k for k in range(8) if k != 4]
        write_enhanced(files.folder / "images" / "P1" / "1.dcm", [files.image[k] for k in kept], kept)


def two_volumes(files: Files) -> None:
    files.write()
    if files.kind == "DICOM, a file a slice":
        write_series(files.folder / "images" / "P1", files.image, numbers=range(20, 28))
    elif files.dicom:
        frames = [*files.image, *files.image]
        write_enhanced(files.folder / "images" / "P1" / "1.dcm", frames, [*range(8)] * 2)
    else:
        path = files.folder / "images" / f"P1{files.ending}"
        one = sitk.ReadImage(str(path))
        sitk.WriteImage(sitk.JoinSeries([one, one]), str(path))


def not_axial(files: Files) -> None:
    files.write(axes=CORONAL)


def cut_short(files: Files) -> None:
    files.write()
    path = max((files.folder / "images").rglob("*"), key=lambda path: path.is_file() and "seg" not in path.name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def probabilities(files: Files) -> None:
    files.write(mask=(files.mask > 0).astype(np.float32) * 0.8)


def other_values(files: Files) -> None:
    mask = files.mask.copy()
    mask[4, 18:20, 14:16] = 255
    files.mask = mask
    files.write(mask=mask)


def without_line(content: bytearray, key: bytes) -> bytes:
    start = content.index(key)
    return bytes(content[:start] + content[content.index(b"\n", start) + 1 :])


def packed(content: bytearray, place: int, form: str, *values: float) -> bytearray:
    struct.pack_into(form, content, place, *values)
    return content


FORMATS = ("DICOM, a file a slice", "DICOM, frames in one file", "NIfTI", "MetaImage")
NONE = "–"
TABLE: dict[str, tuple[Callable[[Files], None], str, str, str, str]] = {
    "sound files": (sound, "read", "read", "read", "read"),
    "slices in any order": (shuffled, "read", "read", NONE, NONE),
    "a rescaling of each slice's own": (own_rescaling, "read", "read", NONE, NONE),
    "no spacing": (lost_spacing, "stated", "stated", NONE, "stated"),
    "no orientation": (lost_orientation, "stated", "stated", "stated", "stated"),
    "the header of an array without geometry": (lost_all, NONE, NONE, "stated", "stated"),
    "statements that contradict each other": (contradiction, "refused", "refused", "refused", NONE),
    "a slice is missing": (missing_slice, "refused", "refused", NONE, NONE),
    "two volumes at one place": (two_volumes, "refused", "refused", "refused", "refused"),
    "slices that are not axial": (not_axial, "refused", "refused", "refused", "refused"),
    "a file cut short": (cut_short, "refused", "refused", "refused", "refused"),
    "a mask of probabilities": (probabilities, "refused", "refused", "refused", "refused"),
    "values in a mask that may be no gland": (other_values, "told", "told", "told", "told"),
}


def cell(files: Files) -> str:
    found = layouts.find(files.site())
    if found.problems:
        return "refused"
    try:
        case = layouts.read(only(found))
    except BadPatient:
        stated = layouts.find(files.site(STATED))
        try:
            same(layouts.read(only(stated)), files.image, files.mask)
        except BadPatient:
            return "refused"
        return "stated"
    same(case, files.image, files.mask)
    checkup = data_check.check(files.site(), minimum_pixels=5)
    told = [sentence for who, _, sentence in words.remarks(checkup) if who == "P1" and '"labels"' in sentence]
    return "told" if told else "read"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("trouble", TABLE)
def test_a_cell_is_what_happens(tmp_path: Path, trouble: str, kind: str) -> None:
    spoil, *outcomes = TABLE[trouble]
    outcome = outcomes[FORMATS.index(kind)]
    if outcome == NONE:
        pytest.skip("the format has no such trouble")
    files = Files(tmp_path, kind)
    spoil(files)
    assert cell(files) == outcome


def test_the_page_has_this_table() -> None:
    lines = [f"| | {' | '.join(FORMATS)} |"]
    lines += [f"| {trouble} | {' | '.join(row[1:])} |" for trouble, row in TABLE.items()]
    text = PAGE.read_text("utf-8")
    for line in lines:
        assert line in text, line

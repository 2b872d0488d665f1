"""The table of labels in docs/reference/layouts.md: each kind of DICOM label with each trouble, cell by cell.

"read" means the gland that was drawn, at its place; "stated" refused, and read once the site file names the region or
the threshold; "refused" a sentence. Each cell also holds that prediction reads the same image beside the label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from client import data_check
from client.data import layouts
from client.data.layouts import volumes
from client.inference.predict import find_scan
from client.site_config import SiteConfig, load_site
from common.errors import BadPatient
from tests.client.data.layouts.test_matrix import NONE, PAGE
from tests.support.dicom_labels import Polygon, instances, outline, write_rtstruct, write_seg
from tests.support.layout_files import Array, same, site, truth, write_series

KINDS = ("DICOM-SEG", "RTSTRUCT")
MASK = truth()[1] > 0
OTHER = np.roll(MASK, 3, axis=0)


class Labelled:
    """A patient's series, and a label in one of two formats."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.gland = folder, kind, MASK
        self.refers = instances(write_series(folder / "images" / "a", truth()[0]))
        self.label = folder / "images" / "b" / "label.dcm"
        self.stated = ""

    def write(self, drawn: Mapping[str, Array | Mapping[float, Any]], **how: Any) -> None:
        """Write regions: masks, or for contours also polygons."""
        if self.kind == "DICOM-SEG":
            masks = {name: mask for name, mask in drawn.items() if isinstance(mask, np.ndarray)}
            write_seg(self.label, masks, list(self.refers.values()), **how)
        else:
            polygons = {name: outline(mask) if isinstance(mask, np.ndarray) else mask for name, mask in drawn.items()}
            write_rtstruct(self.label, polygons, self.refers, **how)

    def site(self, more: str = "") -> SiteConfig:
        site(self.folder, "auto")
        path = self.folder / "site.toml"
        path.write_text(path.read_text("utf-8") + more, encoding="utf-8")
        return load_site(path)


def sound(label: Labelled) -> None:
    label.write({"Prostate": MASK})


def elsewhere(label: Labelled) -> None:
    label.label = label.folder / "images" / "export" / "2020" / "IM0001"
    label.write({"Prostate": MASK}, patient="somebody")


def among_others(label: Labelled) -> None:
    label.write({"Bladder": OTHER, "prostate": MASK, "Prostate PTV": OTHER, "Peripheral zone": OTHER})


def several(label: Labelled) -> None:
    label.write({"Prostate 1": MASK, "Prostate 2": OTHER})
    label.stated = "roi = 'prostate 1'\n"


def unnamed(label: Labelled) -> None:
    label.write({"Segment_1": MASK})
    label.stated = "roi = 'segment_1'\n"


def zones(label: Labelled) -> None:
    mask = truth()[1]
    if label.kind == "DICOM-SEG":
        label.write({"PZ": mask == 1, "TZ": mask == 2})
    else:
        label.write({"PZ": MASK, "TZ": mask == 2})
    label.stated = "roi = ['PZ', 'TZ']\n"


def in_pieces(label: Labelled) -> None:
    """Two pieces on a slice, of which one has a hole."""
    gland = np.zeros_like(MASK)
    gland[2:5, 8:18, 4:14] = True
    gland[2:5, 11:15, 7:11] = False
    gland[2:5, 22:28, 16:24] = True
    label.gland = gland
    boxes = [box(8, 18, 4, 14), box(11, 15, 7, 11), box(22, 28, 16, 24)]
    label.write({"Prostate": gland if label.kind == "DICOM-SEG" else dict.fromkeys((2, 3, 4), boxes)})


def box(top: int, bottom: int, left: int, right: int) -> Polygon:
    """The outline of rows top to bottom - 1 and columns left to right - 1."""
    rows, columns = (top - 0.5, bottom - 0.5), (left - 0.5, right - 0.5)
    return [(columns[0], rows[0]), (columns[0], rows[1]), (columns[1], rows[1]), (columns[1], rows[0])]


def of_other_images(label: Labelled) -> None:
    label.refers = {k: f"1.9.{k:g}" for k in range(8)}
    label.write({"Prostate": MASK})


def of_no_images(label: Labelled) -> None:
    label.write({"Prostate": MASK}, **({} if label.kind == "DICOM-SEG" else {"instance": False}))
    header = pydicom.dcmread(label.label)
    for name in ("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"):
        if name in header:
            delattr(header, name)
    header.save_as(label.label)


def cut_short(label: Labelled) -> None:
    label.write({"Prostate": MASK})
    content = label.label.read_bytes()
    label.label.write_bytes(content[: len(content) - 300])


def every_second(label: Labelled) -> None:
    label.write({"Prostate": {k: [box(10, 20, 6, 16)] for k in (1, 3, 5)}})


def between(label: Labelled) -> None:
    label.write({"Prostate": {k: [box(10, 20, 6, 16)] for k in (1.5, 2.5, 3.5)}})


def beside(label: Labelled) -> None:
    if label.kind == "RTSTRUCT":
        label.write({"Prostate": {k: [box(10, 20, 60, 70)] for k in (2, 3, 4)}})
        return
    label.write({"Prostate": MASK})
    header = pydicom.dcmread(label.label)
    for group in header.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [float(place.ImagePositionPatient[0]) + 60, *place.ImagePositionPatient[1:]]
    header.save_as(label.label)


def probabilities(label: Labelled) -> None:
    label.write({"Prostate": MASK})
    header = pydicom.dcmread(label.label)
    header.SegmentationType, header.MaximumFractionalValue = "FRACTIONAL", 100
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.PixelData = (MASK[MASK.any(axis=(1, 2))] * 80).astype(np.uint8).tobytes()
    header.save_as(label.label)
    label.stated = "mask_threshold = 0.5\n"


def own(label: Labelled) -> None:
    label.write({"Prostate": MASK}, model="prostate-relay")


TABLE: dict[str, tuple[Callable[[Labelled], None], str, str]] = {
    "a sound label": (sound, "read", "read"),
    "in another folder, under another patient's name": (elsewhere, "read", "read"),
    "several regions, of which one is the prostate": (among_others, "read", "read"),
    "holes, and several pieces on a slice": (in_pieces, "read", "read"),
    "several regions that could be the prostate": (several, "stated", "stated"),
    "a region whose name and code do not say what it is": (unnamed, "stated", "stated"),
    "zones in place of the gland": (zones, "stated", "stated"),
    "probabilities": (probabilities, "stated", NONE),
    "a label of other images": (of_other_images, "refused", "refused"),
    "a label that refers to no images": (of_no_images, "refused", "refused"),
    "a label beside its image": (beside, "refused", "refused"),
    "contours on every second slice": (every_second, NONE, "refused"),
    "contours between the slices": (between, NONE, "refused"),
    "a label file cut short": (cut_short, "refused", "refused"),
    "a segmentation that `relay predict` made": (own, "refused", NONE),
}


def cell(label: Labelled) -> str:
    shown = volumes.upright(find_scan(label.folder / "images").image, "here")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(shown), truth()[0])
    outcome = outcome_of(label.site(), label.gland)
    if outcome == "refused" and label.stated:
        outcome = "stated" if outcome_of(label.site(label.stated), label.gland) == "read" else outcome
    return outcome


def outcome_of(config: SiteConfig, gland: Array) -> str:
    checkup = data_check.check(config, minimum_pixels=5)
    usable = [one.patient for one in checkup.patients if one.slices]
    found = layouts.find(config)
    assert found.layout == "dicom" and len(found.sources) + len(found.problems) == 1
    try:
        case = layouts.read(found.sources[0]) if found.sources else None
    except BadPatient:
        case = None
    if case is None:
        assert usable == [], "the check and the reader agree"
        return "refused"
    assert usable == ["P1"]
    same(case, truth()[0], gland)
    return "read"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trouble", TABLE)
def test_a_cell_is_what_happens(tmp_path: Path, trouble: str, kind: str) -> None:
    spoil, *outcomes = TABLE[trouble]
    outcome = outcomes[KINDS.index(kind)]
    if outcome == NONE:
        pytest.skip("the format has no such trouble")
    label = Labelled(tmp_path, kind)
    spoil(label)
    assert cell(label) == outcome


def test_the_page_has_this_table() -> None:
    lines = [f"| | {' | '.join(KINDS)} |"]
    lines += [f"| {trouble} | {' | '.join(row[1:])} |" for trouble, row in TABLE.items()]
    text = PAGE.read_text("utf-8")
    for line in lines:
        assert line in text, line

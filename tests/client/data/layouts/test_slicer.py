"""What 3D Slicer saves, NAME.seg.nrrd, is a label, whether cut to its segment, in layers, or of several segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from client.data import layouts
from client.site_config import load_site
from tests.client.data.layouts.test_geometry import stating
from tests.support.layout_files import ORIGIN, SPACING, Array, bad, only, same, site, truth, write_series

CUT = (2, 10, 6)
"""Slice, row and column at which the file begins: Slicer cuts a segmentation to what is drawn."""


def write_segmentation(path: Path, layers: list[Array], segments: list[tuple[str, int, int]]) -> None:
    """The text of the format by hand: `segments` have name, layer and value; several layers are the first axis."""
    cut = [np.ascontiguousarray(layer[CUT[0] : 6, CUT[1] : 22, CUT[2] : 18]).astype(np.uint8) for layer in layers]
    z, y, x = cut[0].shape
    origin = ORIGIN + np.array(CUT[::-1]) * SPACING[::-1]
    steps = [f"({SPACING[2]},0,0)", f"(0,{SPACING[1]},0)", f"(0,0,{SPACING[0]})"]
    several = len(cut) > 1
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {4 if several else 3}",
        "space: left-posterior-superior",
        f"sizes: {f'{len(cut)} ' if several else ''}{x} {y} {z}",
        f"space directions: {'none ' if several else ''}{' '.join(steps)}",
        f"kinds: {'list ' if several else ''}domain domain domain",
        "encoding: raw",
        f"space origin: ({','.join(f'{value:g}' for value in origin)})",
    ]
    for number, (name, layer, value) in enumerate(segments):
        lines += [f"Segment{number}_Name:={name}", f"Segment{number}_Layer:={layer}"]
        lines += [f"Segment{number}_LabelValue:={value}", f"Segment{number}_Color:=0.5 0.7 0.6"]
    voxels = np.stack(cut, axis=-1) if several else cut[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + voxels.tobytes())


def one(folder: Path, layers: list[Array], segments: list[tuple[str, int, int]], name: str = "P1.seg.nrrd") -> Any:
    write_series(folder / "images" / "P1", truth()[0])
    write_segmentation(folder / "labels" / name, layers, segments)
    return site(folder, "nci-isbi")


@pytest.mark.parametrize("name", ["P1.seg.nrrd", "P1_truth.seg.nrrd", "P1.nrrd", "p1.SEG.nrrd"])
def test_a_segmentation_cut_to_its_segment_is_read(tmp_path: Path, name: str) -> None:
    image, mask = truth()
    same(layouts.read(only(layouts.find(one(tmp_path, [mask > 0], [("Prostate", 0, 1)], name)))), image, mask)


def test_layers_are_told_apart_and_what_belongs_to_no_segment_is_nothing(tmp_path: Path) -> None:
    image, mask = truth()
    other = np.roll(mask, 1, axis=1)
    same(layouts.read(only(layouts.find(one(tmp_path, [mask > 0, other], [("Prostate", 0, 1)])))), image, mask)
    second = tmp_path / "second"
    found = layouts.find(one(second, [other, mask > 0], [("Prostate", 1, 1)]))
    same(layouts.read(only(found)), image, mask)


def test_zones_in_layers_are_united(tmp_path: Path) -> None:
    image, mask = truth()
    config = one(tmp_path, [mask == 1, (mask == 2) * 2], [("PZ", 0, 1), ("Transition zone", 1, 2)])
    same(layouts.read(only(layouts.find(config))), image, mask)


@pytest.mark.parametrize("layered", [True, False])
def test_gland_and_another_organ_are_told_and_chosen_by_value(tmp_path: Path, layered: bool) -> None:
    image, mask = truth()
    bladder = np.zeros_like(mask)
    bladder[5, 12:18, 8:14] = 2
    layers = [mask > 0, bladder] if layered else [(mask > 0) + bladder]
    config = one(tmp_path, layers, [("Prostate", 0, 1), ("Bladder", int(layered), 2)])
    told = bad(only(layouts.find(config)))
    assert '"Prostate" with the value 1' in told and '"Bladder" with the value 2' in told and '"labels"' in told
    same(layouts.read(only(layouts.find(stating(tmp_path, "labels = [1]\n")))), image, mask)


def test_segments_of_one_value_are_told_where_labels_cannot_tell_them_apart(tmp_path: Path) -> None:
    _, mask = truth()
    config = one(tmp_path, [mask > 0, mask == 2], [("Prostate", 0, 1), ("Lesion", 1, 1)])
    assert '"Lesion"' in bad(only(layouts.find(config)))
    assert "one value" in bad(only(layouts.find(stating(tmp_path, "labels = [1]\n"))))


def test_a_layer_that_is_not_there_is_told(tmp_path: Path) -> None:
    _, mask = truth()
    config = one(tmp_path, [mask > 0, mask > 0], [("Prostate", 7, 1)])
    assert "layer" in bad(only(layouts.find(config)))
    assert sitk.ReadImage(str(tmp_path / "labels" / "P1.seg.nrrd")).GetNumberOfComponentsPerPixel() == 2


@pytest.mark.parametrize("layered", [True, False])
def test_a_segment_is_chosen_by_its_name(tmp_path: Path, layered: bool) -> None:
    image, mask = truth()
    bladder = np.zeros_like(mask)
    bladder[2:5, 10:14, 16:18] = 1
    layers = [mask > 0, bladder] if layered else [np.where(mask > 0, 1, bladder * 2)]
    config = one(tmp_path, layers, [("Prostate", 0, 1), ("Bladder", int(layered), 1 if layered else 2)])
    assert '"roi"' in bad(only(layouts.find(config)))
    path = tmp_path / "site.toml"
    path.write_text(path.read_text("utf-8") + "roi = 'prostate'\n", encoding="utf-8")
    same(layouts.read(only(layouts.find(load_site(path)))), image, mask)

"""Geometry that a volume file lacks or contradicts is told by its name, and a site may state what is true."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import data_check
from client.data import layouts
from client.inference.predict import draw, find_scan
from client.preprocessing.pipeline import prepare
from client.site_config import SiteConfig, load_site
from common.config.study import N4Config, PreprocessingConfig
from common.errors import RelayError
from tests.client.inference.test_predict import CARD, CPU, Bright
from tests.support.layout_files import (
    OBLIQUE,
    STRAIGHT,
    Array,
    as_i2cvb,
    as_nci_isbi,
    as_nifti_pairs,
    bad,
    only,
    same,
    site,
    truth,
    write_volume,
)

STATED = 'spacing_mm = [3.0, 0.5, 0.75]\norientation = "LPS"\n'


def stating(folder: Path, lines: str) -> SiteConfig:
    """The site again, with more lines in its file."""
    path = folder / "site.toml"
    path.write_text(path.read_text(encoding="utf-8") + lines, encoding="utf-8")
    return load_site(path)


def blank(folder: Path, image: Array, mask: Array, ending: str) -> SiteConfig:
    """A pair saved from arrays without any geometry, as nibabel with np.eye(4) and SimpleITK from an array do."""
    for array, name in ((image, "c"), (mask, "c_segmentation")):
        (folder / "images").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / "images" / f"{name}{ending}"))
    return site(folder, "nifti-pairs" if ".nii" in ending else "promise12")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha"])
def test_a_pair_without_geometry_is_told_and_read_once_the_site_states_it(tmp_path: Path, ending: str) -> None:
    image, mask = truth()
    config = blank(tmp_path, image, mask, ending)
    told = bad(only(layouts.find(config)))
    assert "no spacing" in told and "no orientation" in told and '"spacing_mm"' in told
    assert '"orientation"' in bad(only(layouts.find(stating(tmp_path, STATED.partition("\n")[0] + "\n"))))
    case = layouts.read(only(layouts.find(stating(tmp_path, STATED.partition("\n")[2]))))
    same(case, image, mask)
    assert "3 × 0.5 × 0.75 mm" in case.remarks[0] and "LPS" in case.remarks[0]


def test_arrays_stored_in_another_order_are_told_by_where_their_slices_would_lie(tmp_path: Path) -> None:
    image, mask = truth()
    blank(tmp_path, image.transpose(2, 1, 0), mask.transpose(2, 1, 0), ".nii.gz")
    assert "orientation" in bad(only(layouts.find(stating(tmp_path, STATED))))
    right = STATED.replace("LPS", "SPL")
    (tmp_path / "site.toml").write_text(f'name = "A"\nimages = "images"\n{right}', encoding="utf-8")
    same(layouts.read(only(layouts.find(load_site(tmp_path / "site.toml")))), image, mask)


def test_predict_refuses_an_image_without_geometry(tmp_path: Path) -> None:
    blank(tmp_path, *truth(), ".nii.gz")
    scan = find_scan(tmp_path / "images" / "c.nii.gz")
    with pytest.raises(RelayError, match="states no spacing"):
        draw(scan, CARD, Bright(), CPU)


def with_header(path: Path, place: int, form: str, *values: float) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, content, place, *values)
    path.write_bytes(gzip.compress(content))


PIXDIM, QFORM_CODE, SFORM_CODE, QOFFSET, QUATERN, SROW = 76, 252, 254, 268, 256, 280


@pytest.mark.parametrize(
    ("place", "form", "values", "told"),
    [
        (SROW, "<12f", (-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0), ("sform", "1 × 1 × 1", "pixdim", "0.75 × 0.5 × 3")),
        (PIXDIM + 4, "<3f", (1, 1, 1), ("pixdim", "1 × 1 × 1", "sform", "0.75 × 0.5 × 3")),
        (QOFFSET, "<3f", (0, 0, 0), ("sform", "qform", "mm apart")),
        (QUATERN, "<3f", (1, 0, 0), ("sform", "qform", "mm apart")),
        (SROW, "<12f", (0.75, 0, 0, 12, 0, -0.5, 0, 30, 0, 0, 3, 40), ("sform", "qform", "mm apart")),
    ],
    ids=["sform of cubes", "pixdim of cubes", "qform elsewhere", "qform turned", "sform mirrored"],
)
@pytest.mark.parametrize("of", ["Case00", "Case00_segmentation"])
def test_statements_of_a_nifti_file_that_contradict_each_other_are_told_with_both_values(
    tmp_path: Path, of: str, place: int, form: str, values: tuple[float, ...], told: tuple[str, ...]
) -> None:
    config = as_nifti_pairs(tmp_path, *truth())
    with_header(tmp_path / "images" / f"{of}.nii.gz", place, form, *values)
    sentence = bad(only(layouts.find(config)))
    assert of in sentence and all(word in sentence for word in told), sentence


@pytest.mark.parametrize("code", [SFORM_CODE, QFORM_CODE])
def test_one_statement_that_is_switched_off_contradicts_nothing(tmp_path: Path, code: int) -> None:
    image, mask = truth()
    config = as_nifti_pairs(tmp_path, image, mask)
    for name in ("Case00", "Case00_segmentation"):
        with_header(tmp_path / "images" / f"{name}.nii.gz", code, "<h", 0)
        if code == SFORM_CODE:
            with_header(tmp_path / "images" / f"{name}.nii.gz", SROW, "<12f", *[0.0] * 12)
        else:
            with_header(tmp_path / "images" / f"{name}.nii.gz", QUATERN, "<3f", 0.5, 0.1, 0.2)
    same(layouts.read(only(layouts.find(config))), image, mask)


def test_a_nifti_file_without_any_orientation_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_nifti_pairs(tmp_path, image, mask)
    for name in ("Case00", "Case00_segmentation"):
        with_header(tmp_path / "images" / f"{name}.nii.gz", QFORM_CODE, "<2h", 0, 0)
    told = bad(only(layouts.find(config)))
    assert "no orientation" in told and "no spacing" not in told
    same(layouts.read(only(layouts.find(stating(tmp_path, 'orientation = "LPS"\n')))), image, mask)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.sampled_from(["LPS", "RAS", "LAS", "RPI", "PLS", "SAR", "ILA"]),
    oblique=st.booleans(),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
)
def test_the_three_statements_of_a_sound_file_agree(
    tmp_path: Path, order: str, oblique: bool, origin: tuple[float, float, float]
) -> None:
    image, mask = truth()
    axes = OBLIQUE if oblique else STRAIGHT
    for array, name in ((image, "c"), (mask, "c_segmentation")):
        write_volume(tmp_path / "images" / f"{name}.nii", array, axes=axes, order=order, origin=np.array(origin))
    same(layouts.read(only(layouts.find(site(tmp_path, "nifti-pairs")))), image, mask)


def without_spacing(folder: Path) -> None:
    for path in (folder / "images").rglob("*.dcm"):
        header = pydicom.dcmread(path)
        del header.PixelSpacing
        header.save_as(path)


@pytest.mark.parametrize("write", [as_nci_isbi, as_i2cvb])
def test_a_series_without_pixel_spacing_is_read_with_the_stated_one(tmp_path: Path, write: Any) -> None:
    image, mask = truth()
    write(tmp_path, image, mask)
    without_spacing(tmp_path)
    assert '"spacing_mm"' in bad(only(layouts.find(load_site(tmp_path / "site.toml"))))
    config = stating(tmp_path, "spacing_mm = [3.0, 0.5, 0.75]\n")
    case = layouts.read(only(layouts.find(config)))
    same(case, image, mask)
    assert "3 × 0.5 × 0.75 mm" in case.remarks[0]


def test_a_stated_spacing_that_contradicts_the_positions_is_told(tmp_path: Path) -> None:
    as_nci_isbi(tmp_path, *truth())
    without_spacing(tmp_path)
    told = bad(only(layouts.find(stating(tmp_path, "spacing_mm = [4.0, 0.5, 0.75]\n"))))
    assert "3.00 mm" in told and "4 mm" in told


def test_what_the_files_state_is_taken_from_the_files(tmp_path: Path) -> None:
    image, mask = truth()
    as_nci_isbi(tmp_path, image, mask)
    case = layouts.read(only(layouts.find(stating(tmp_path, 'spacing_mm = [5.0, 1.0, 1.0]\norientation = "RAS"\n'))))
    same(case, image, mask)
    assert case.remarks == ()


def test_the_sites_log_says_what_was_stated_and_a_statement_makes_new_slices(tmp_path: Path) -> None:
    part = PreprocessingConfig(pixels=64, spacing_mm=0.5, minimum_mask_pixels=3, n4=N4Config(enabled=False))
    as_i2cvb(tmp_path, *truth())
    without_spacing(tmp_path)
    prepared = prepare(stating(tmp_path, "spacing_mm = [3.0, 0.5, 0.75]\n"), part)
    log = tmp_path / ".relay-A" / "site.log"
    assert "to know: Patient 1036:" in log.read_text("utf-8") and "3 × 0.5 × 0.75 mm" in log.read_text("utf-8")
    path = tmp_path / "site.toml"
    path.write_text(path.read_text("utf-8").replace("0.75", "0.7"), encoding="utf-8")
    (again,) = prepare(load_site(path), part).records
    assert again.digest != prepared.records[0].digest


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_pixdim_of_nothing_is_told(tmp_path: Path, value: float) -> None:
    config = as_nifti_pairs(tmp_path, *truth())
    with_header(tmp_path / "images" / "Case00.nii.gz", PIXDIM + 12, "<f", value)
    with_header(tmp_path / "images" / "Case00.nii.gz", SFORM_CODE, "<h", 0)
    assert "pixdim" in bad(only(layouts.find(config)))


@pytest.mark.parametrize(
    ("ending", "lines", "told"),
    [
        (".mha", [b"ElementSpacing"], "no spacing"),
        (".mha", [b"TransformMatrix"], "no orientation"),
        (".mha", [b"ElementSpacing", b"TransformMatrix", b"Offset"], "no spacing and no orientation"),
    ],
)
def test_a_metaimage_without_an_entry_is_told_and_read_once_it_is_stated(
    tmp_path: Path, ending: str, lines: list[bytes], told: str
) -> None:
    image, mask = truth()
    for array, name in ((image, "c"), (mask, "c_segmentation")):
        path = write_volume(tmp_path / "images" / f"{name}{ending}", array, compressed=False)
        content = path.read_bytes()
        for line in lines:
            start = content.index(line)
            content = content[:start] + content[content.index(b"\n", start) + 1 :]
        path.write_bytes(content)
    config = site(tmp_path, "promise12")
    assert told in bad(only(layouts.find(config)))
    same(layouts.read(only(layouts.find(stating(tmp_path, STATED)))), image, mask)


def test_cubes_of_exactly_1_mm_are_told(tmp_path: Path) -> None:
    for array, name in zip(truth(), ("c", "c_segmentation"), strict=True):
        write_volume(tmp_path / "images" / f"{name}.nii.gz", array, spacing=(1.0, 1.0, 1.0))
    checkup = data_check.check(site(tmp_path, "nifti-pairs"), minimum_pixels=5)
    assert any("cubes of exactly 1 mm" in finding.sentence for finding in checkup.findings)


@pytest.mark.parametrize(("padding", "replaced"), [(-2000, True), (32000, True), (0, False), (None, False)])
@pytest.mark.parametrize("slope", ["1", "2"])
def test_padding_far_off_the_image_is_no_brightness(
    tmp_path: Path, padding: int | None, replaced: bool, slope: str
) -> None:
    image, mask = truth()
    marked = image.copy()
    marked[:, :4] = -2000 if padding is None else padding
    as_nci_isbi(tmp_path, marked, mask)
    for path in (tmp_path / "images").rglob("*.dcm"):
        header = pydicom.dcmread(path)
        header.RescaleSlope = slope
        if padding is not None:
            header.add_new("PixelPaddingValue", "SS", padding)
        header.save_as(path)
    expected = marked.astype(np.float32)
    if replaced:
        expected[:, :4] = image[:, 4:].min()
    same(layouts.read(only(layouts.find(load_site(tmp_path / "site.toml")))), expected * int(slope), mask)

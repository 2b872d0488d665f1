"""A mask lies where its image lies, whatever way the file's axes run; what cannot be drawn on is told in a sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from client.delivery.model_card import Card
from client.inference.predict import Drawn, Scan, draw, ending_of, find_scan, load_network, write_mask
from client.training.device import Device
from common.config.model import ModelConfig
from common.config.study import N4Config, PreprocessingConfig
from common.digest import digest_of
from common.errors import RelayError
from common.model.network import build
from common.model.weights import serialised, serialize_chunks
from tests.support.cards import card
from tests.support.layout_files import OBLIQUE, STRAIGHT, truth, volume, write_channels, write_series, write_volume

CPU = Device("cpu", "float32")
PLAIN = PreprocessingConfig(pixels=64, spacing_mm=0.5, n4=N4Config(enabled=False))
"""32 × 32 mm: more than the images of `truth`, which measure 16 × 21 mm."""
CARD = card(preprocessing=PLAIN, mean=100.0, std=50.0)


class Bright(nn.Module):
    """A network that takes for gland what is brighter than half a standard deviation above the mean."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 0.5) * 100


def bright_block() -> NDArray[np.int16]:
    """Dark, with a bright block that is symmetric about no axis."""
    _, mask = truth()
    noise = np.random.default_rng(3).integers(0, 40, mask.shape)
    return (60 + noise + 200 * (mask > 0)).astype(np.int16)


def drawn(path: Path, *, using: Card = CARD, pattern: str = "") -> tuple[Scan, Drawn]:
    scan = find_scan(path, pattern)
    return scan, draw(scan, using, [Bright()], CPU)


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    return (one.GetSize(), one.GetSpacing(), one.GetOrigin(), one.GetDirection()) == (
        other.GetSize(),
        other.GetSpacing(),
        other.GetOrigin(),
        other.GetDirection(),
    )


@pytest.mark.parametrize("axes", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("order", ["LPS", "RAS", "LAI", "PIR", "SLP", "ASL"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_mask_has_its_images_own_grid_and_lies_on_the_gland(
    tmp_path: Path, ending: str, order: str, axes: NDArray[np.float64]
) -> None:
    image = bright_block()
    path = write_volume(tmp_path / f"scan{ending}", image, order=order, axes=axes)
    as_read = sitk.ReadImage(str(path))
    scan, found = drawn(path)
    assert same_grid(found.mask, as_read) and same_grid(scan.image, as_read)
    assert found.mask.GetPixelID() == sitk.sitkUInt8
    # What is drawn and what is bright, each in physical space; a voxel at the rim may fall to either side.
    bright = sitk.GetArrayFromImage(as_read) > 160
    mask = sitk.GetArrayFromImage(found.mask)
    assert set(np.unique(mask)) == {0, 1}
    assert np.mean(mask[bright]) > 0.95 and np.sum(mask[~bright]) < 0.1 * bright.sum()
    upright = sitk.GetArrayFromImage(sitk.DICOMOrient(found.mask, "LPS"))
    again = write_volume(tmp_path / "upright.nrrd", image, axes=axes)
    expected = sitk.GetArrayFromImage(drawn(again)[1].mask)
    assert np.array_equal(upright, expected), "the same image gives the same mask, whichever way its axes run"
    out = tmp_path / f"mask{ending}"
    write_mask(found.mask, out)
    back = sitk.ReadImage(str(out))
    assert np.array_equal(sitk.GetArrayFromImage(back), mask) and back.GetPixelID() == sitk.sitkUInt8
    for got, wanted in ((back.GetOrigin(), as_read.GetOrigin()), (back.GetDirection(), as_read.GetDirection())):
        assert got == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("axes", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_a_series_is_one_volume_in_order_of_position(tmp_path: Path, axes: NDArray[np.float64]) -> None:
    image = bright_block()
    write_series(tmp_path / "series", image, axes=axes, numbers=(5, 2, 7, 0, 3, 6, 1, 4))
    scan, found = drawn(tmp_path / "series")
    assert scan.is_series and len(scan.files) == 8
    expected = sitk.GetArrayFromImage(drawn(write_volume(tmp_path / "v.nrrd", image, axes=axes))[1].mask)
    assert np.array_equal(sitk.GetArrayFromImage(found.mask), expected)
    # Against ITK's own reader of series.
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    series = reader.Execute()
    assert found.mask.GetSize() == series.GetSize()
    for index in ((0, 0, 0), (27, 31, 7), (3, 9, 5)):
        mine, its = (one.TransformIndexToPhysicalPoint(index) for one in (found.mask, series))
        assert mine == pytest.approx(its, abs=1e-3)


def test_ml_and_slices_are_counted(tmp_path: Path) -> None:
    _, found = drawn(write_volume(tmp_path / "scan.nrrd", bright_block()))
    mask = sitk.GetArrayFromImage(found.mask)
    assert found.ml == pytest.approx(mask.sum() * 3.0 * 0.5 * 0.75 / 1000)
    assert found.slices == 3 and found.remarks == ()


class BrightBelow(nn.Module):
    """A network of three neighbouring slices that draws on each slice what is bright on the one nearer the feet."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1] == 3
        return (images[:, :1] - 0.5) * 100


@pytest.mark.parametrize("order", ["LPS", "RAI"])
def test_neighbours_are_shown_in_the_bodys_order_and_the_last_slice_twice(tmp_path: Path, order: str) -> None:
    path = write_volume(tmp_path / "scan.nrrd", bright_block(), order=order)
    three = CARD.model_copy(update={"model": CARD.model.model_copy(update={"neighbours": 1})})
    below = draw(find_scan(path), three, [BrightBelow()], CPU)
    own, shifted = (sitk.GetArrayFromImage(sitk.DICOMOrient(found.mask, "LPS")) for found in (drawn(path)[1], below))
    assert own.any() and not np.array_equal(own, shifted)
    assert np.array_equal(shifted, own[[0, *range(len(own) - 1)]])


class TwoBrightnesses(nn.Module):
    """A network that takes for peripheral zone what is bright, and for central gland what is brighter still."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright, brighter = (images.clamp(max=5) - 1) * 50, (images - 5.5) * 200
        return torch.cat([torch.zeros_like(images), bright, brighter], dim=1)


@pytest.mark.parametrize("order", ["LPS", "RAI", "ASL"])
def test_both_zones_are_drawn_each_with_its_own_value(tmp_path: Path, order: str) -> None:
    _, mask = truth()
    noise = np.random.default_rng(3).integers(0, 40, mask.shape)
    image = (60 + noise + 200 * (mask == 1) + 420 * (mask == 2)).astype(np.int16)
    model = ModelConfig.model_validate({"target": "zones"})
    scan = find_scan(write_volume(tmp_path / "scan.nrrd", image, order=order))
    found = draw(scan, CARD.model_copy(update={"model": model}), [TwoBrightnesses()], CPU)
    assert same_grid(found.mask, scan.image) and found.mask.GetPixelID() == sitk.sitkUInt8
    values = sitk.GetArrayFromImage(sitk.DICOMOrient(found.mask, "LPS"))
    assert set(np.unique(values)) == {0, 1, 2}
    for label in (1, 2):
        both = ((values == label) & (mask == label)).sum()
        assert 2 * both / ((values == label).sum() + (mask == label).sum()) > 0.85
    voxel = 3.0 * 0.5 * 0.75 / 1000
    assert found.zones_ml == pytest.approx([(values == label).sum() * voxel for label in (1, 2)])
    assert found.ml == pytest.approx(sum(found.zones_ml)) and found.slices == 3
    alone = drawn(write_volume(tmp_path / "gland.nrrd", image, order=order))[1]
    assert alone.zones_ml == () and set(np.unique(sitk.GetArrayFromImage(alone.mask))) == {0, 1}


def test_a_segmentation_is_cleaned_up_if_the_card_says_so(tmp_path: Path) -> None:
    """As the hospital's validation patients decided; a card without that word leaves all that is drawn."""
    image = bright_block()
    image[0, :3, :3] = 260  # bright, and apart from the block
    path = write_volume(tmp_path / "scan.nrrd", image)
    _, as_drawn = drawn(path)
    _, cleaned = drawn(path, using=CARD.model_copy(update={"cleaned": True}))
    everything, rest = (sitk.GetArrayFromImage(one.mask).astype(bool) for one in (as_drawn, cleaned))
    labels, parts = ndimage.label(everything)
    assert parts > 1, "or this image shows nothing"
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    assert np.array_equal(rest, ndimage.binary_fill_holes(largest))
    assert cleaned.ml == pytest.approx(rest.sum() * 3.0 * 0.5 * 0.75 / 1000)


def test_beyond_the_studys_field_of_view_the_mask_is_0_and_that_is_said(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "scan.nrrd", np.full((4, 96, 96), 250, np.int16) + bright_block()[:4, :1, :1])
    narrow = card(
        preprocessing=PreprocessingConfig(pixels=32, spacing_mm=0.5, n4=N4Config(enabled=False)), mean=0, std=50
    )
    _, found = drawn(path, using=narrow)
    mask = sitk.GetArrayFromImage(found.mask)
    seen = np.zeros((96, 96), bool)
    rows = (np.arange(96) - 47.5) * 0.5
    columns = (np.arange(96) - 47.5) * 0.75
    seen[np.ix_(np.abs(rows) < 8, np.abs(columns) < 8)] = True
    assert mask[:, seen].all() and not mask[:, ~seen].any()
    assert any("48 × 72 mm, of which the model sees 16 × 16 mm" in remark for remark in found.remarks)


def test_an_image_of_another_scanner_and_an_empty_mask_are_remarked_on(tmp_path: Path) -> None:
    scaled = write_volume(tmp_path / "bright.nrrd", bright_block() * 20)
    assert any("brightness is unlike" in remark for remark in drawn(scaled)[1].remarks)
    dark = write_volume(tmp_path / "dark.nrrd", np.minimum(bright_block(), 100))
    remarks = drawn(dark)[1].remarks
    assert remarks == ("The model found no gland in any slice.",)


def test_a_volume_is_standardised_by_itself_if_the_card_says_so(tmp_path: Path) -> None:
    using = card(preprocessing=PLAIN.model_copy(update={"standardise": "volume"}), mean=0.0, std=1.0)
    dark, bright = (
        drawn(write_volume(tmp_path / f"{times}.nrrd", bright_block() * times), using=using)[1] for times in (1, 20)
    )
    assert bright.ml == dark.ml > 0 and bright.remarks == dark.remarks == ()


def test_the_bias_field_is_fitted_with_the_studys_settings_and_tells_how_far_it_is(tmp_path: Path) -> None:
    n4 = N4Config(shrink=1, iterations=(4, 3), convergence=1e-9)
    scan = find_scan(write_volume(tmp_path / "scan.nrrd", bright_block()))
    told: list[tuple[int, int]] = []
    using = card(preprocessing=PLAIN.model_copy(update={"n4": n4}), mean=100.0, std=50.0)
    draw(scan, using, [Bright()], CPU, progress=lambda done, of: told.append((done, of)))
    assert [of for _, of in told] == [7] * len(told)
    assert [done for done, _ in told] == list(range(1, 8))


# -- which scan is meant -------------------------------------------------------------------------


def refused(path: Path, pattern: str = "") -> str:
    with pytest.raises(RelayError) as error:
        drawn(path, pattern=pattern)
    assert "\n" not in str(error.value) and "site file" not in str(error.value)
    return str(error.value)


def test_of_several_series_the_user_says_which(tmp_path: Path) -> None:
    image = bright_block()
    write_series(tmp_path / "p" / "a", image, description="T2 axial", uid="1.2.1")
    write_series(tmp_path / "p" / "b", image[:, ::-1], description="T2 axial, again", uid="1.2.2")
    write_series(tmp_path / "p" / "c", image, description="T1 axial", uid="1.2.3")
    told = refused(tmp_path / "p")
    assert "2 series" in told and "--series" in told and '"T2 axial"' in told
    scan, _ = drawn(tmp_path / "p", pattern="again")
    assert {file.parent.name for file in scan.files} == {"b"}
    assert '"T1 axial"' in refused(tmp_path / "p", "localiser") and "--series" in refused(tmp_path / "p", "localiser")
    assert len(drawn(tmp_path / "p" / "a")[0].files) == 8


def test_one_series_that_calls_itself_no_t2_needs_the_users_word(tmp_path: Path) -> None:
    write_series(tmp_path / "s", bright_block(), description="DIFFUSION")
    assert "--series" in refused(tmp_path / "s")
    drawn(tmp_path / "s", pattern="diffusion")


HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing there": (lambda path: None, "There is no file or folder"),
    "an empty folder": (lambda path: path.mkdir(), "No DICOM series lies in"),
    "a text": (lambda path: path.write_text("x" * 500), "is no DICOM file and none of"),
    "two patients": (
        lambda path: [write_series(path / name, bright_block(), patient=name, uid=f"1.2.{name}") for name in "12"],
        "several patients",
    ),
    "a slice is missing": (lambda path: write_series(path, bright_block(), without=(3,)), "incomplete"),
    "a slice is damaged": (
        lambda path: (write_series(path, bright_block()) / "000003.dcm").write_bytes(b"no"),
        "cannot be read",
    ),
    "one slice": (lambda path: write_series(path, bright_block()[:1]), "no volume"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_cannot_be_drawn_on_is_told(tmp_path: Path, harm: str) -> None:
    spoil, told = HARMS[harm]
    path = tmp_path / "scan"
    spoil(path)
    assert told in refused(path)


def test_volumes_that_cannot_be_drawn_on_are_told(tmp_path: Path) -> None:
    image = bright_block()
    assert "same value" in refused(write_volume(tmp_path / "flat.nrrd", np.full_like(image, 7)))
    spoiled = image.astype(np.float32)
    spoiled[1, 2, 3] = np.nan
    assert "no numbers" in refused(write_volume(tmp_path / "nan.nii.gz", spoiled))
    assert "no plain volume" in refused(write_channels(tmp_path / "four.nii.gz", [image, image]))
    path = write_volume(tmp_path / "cut.nii.gz", image)
    path.write_bytes(path.read_bytes()[:200])
    assert "damaged" in refused(path)


# -- which weights, and where to -----------------------------------------------------------------

SMALL = ModelConfig(architecture="Unet", encoder="mobilenet_v2", encoder_weights="none")


def test_weights_and_card_have_to_belong_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = build(SMALL).state_dict()
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised(weights))
    own = card(model=SMALL, weights=digest_of(serialize_chunks(weights)))
    network = load_network(path, own)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in weights.items())
    with pytest.raises(RelayError, match="does not hold the weights that its card is about"):
        load_network(path, card(model=SMALL))
    with pytest.raises(RelayError, match="no weights of the card's network"):
        load_network(path, own.model_copy(update={"model": ModelConfig(architecture="Unet", encoder="resnet18")}))
    with pytest.raises(RelayError, match="cannot be read"):
        load_network(tmp_path / "none.safetensors", own)
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(RelayError, match="damaged"):
        load_network(path, own)


def test_a_mask_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    mask = volume(np.ones((3, 4, 5), np.uint8))
    for name in ("m.nii", "m.NII.GZ", "m.nrrd", "sub/m.mha"):
        write_mask(mask, tmp_path / name)
        assert sitk.ReadImage(str(tmp_path / name)).GetSize() == (5, 4, 3)
    for name in ("m.png", "m", "m.gz", "m.mhd"):
        with pytest.raises(RelayError, match=r"use \.nii\.gz"):
            ending_of(tmp_path / name)
    (tmp_path / "sub" / "a.nii.gz").mkdir()
    with pytest.raises(RelayError, match="cannot be written"):
        write_mask(mask, tmp_path / "sub" / "a.nii.gz")
    left = [path.name for path in tmp_path.rglob("*") if ".part" in path.name]
    assert left == []
    shutil.rmtree(tmp_path / "sub")

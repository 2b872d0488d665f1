"""NIfTI pairs, as the multi-site sets name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.data import layouts
from tests.support.layout_files import (
    as_nifti_pairs,
    one_sentence,
    only,
    problem,
    same,
    site,
    truth,
    write_volume,
)


@pytest.mark.parametrize("ending", ["_segmentation.nii.gz", "_Segmentation.nii.gz", "_SEGMENTATION.nii"])
def test_nifti_pairs_are_matched_whatever_their_case(tmp_path: Path, ending: str) -> None:
    image, mask = truth()
    write_volume(tmp_path / "images" / "Case00.nii.gz", image)
    write_volume(tmp_path / "images" / f"case00{ending}", mask)
    (tmp_path / "images" / "readme.txt").write_text("", encoding="utf-8")
    source = only(layouts.find(site(tmp_path, "nifti-pairs")))
    assert source.patient == "Case00"
    same(layouts.read(source), image, mask)


@pytest.mark.parametrize("name", ["Case00", "case00", "CASE00", "Müller", "Mu\u0308ller"])
def test_a_name_pairs_with_itself_however_it_is_written(tmp_path: Path, name: str) -> None:
    """A Macintosh stores an accent as a letter of its own."""
    image, mask = truth()
    path = write_volume(tmp_path / "images" / "written.nii.gz", image)
    path.rename(path.with_name(f"{name}.NII.GZ"))
    other = "Müller" if name.startswith("M") else "Case00"
    write_volume(tmp_path / "images" / f"{other}_segmentation.nii.gz", mask)
    same(layouts.read(only(layouts.find(site(tmp_path, "nifti-pairs")))), image, mask)


def test_two_images_for_one_mask_are_told(tmp_path: Path) -> None:
    config = as_nifti_pairs(tmp_path, *truth())
    write_volume(tmp_path / "images" / "Case00.nii", truth()[0])
    assert "keep a pair" in problem(layouts.find(config), "Case00")


@pytest.mark.parametrize(
    ("folder", "origin"),
    [
        ("RUNMC", "NCI-ISBI's Prostate-3T"),
        ("BMC", "NCI-ISBI's PROSTATE-DIAGNOSIS"),
        ("I2CVB", "I2CVB"),
        ("UCL", "PROMISE12"),
        ("BIDMC", "PROMISE12"),
        ("hk", "PROMISE12"),
    ],
)
def test_a_folder_of_the_multi_site_sets_names_the_set_that_it_shares_patients_with(
    tmp_path: Path, folder: str, origin: str
) -> None:
    as_nifti_pairs(tmp_path, *truth())
    (tmp_path / "images").rename(tmp_path / folder)
    (note,) = layouts.find(site(tmp_path, "nifti-pairs", images=folder)).notes
    assert f"those of {origin}" in note
    one_sentence(note)
    (tmp_path / folder).rename(tmp_path / "ward")
    assert layouts.find(site(tmp_path, "nifti-pairs", images="ward")).notes == ()

"""PI-CAI: images of studies, labels of the whole gland in a repository of their own; a person's studies are visits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.data import layouts
from tests.support.layout_files import as_picai, only, problem, same, site, truth, write_volume

GLAND = Path("labels", "anatomical_delineations", "whole_gland", "AI")


def test_a_study_is_read_with_its_whole_gland_and_not_its_lesion(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_picai(tmp_path, image, mask)
    same(layouts.read(only(layouts.find(config))), image, mask)
    assert layouts.recognise(config.images, config.masks) == "picai"


def test_the_studies_of_a_person_stay_together(tmp_path: Path) -> None:
    for name in ("10001_1000001", "10001_1000002", "10002_1000003"):
        config = as_picai(tmp_path, *truth(), name=name)
    found = layouts.find(config)
    assert [(one.patient, one.person) for one in found.sources] == [
        ("10001_1000001", "10001_1000001"),
        ("10001_1000002", "10001_1000001"),
        ("10002_1000003", ""),
    ]


def test_of_two_models_labels_those_of_most_studies_are_taken_and_the_others_are_told(tmp_path: Path) -> None:
    image, mask = truth()
    other = np.roll(mask, 1, axis=2)
    for name in ("10001_1000001", "10002_1000003"):
        config = as_picai(tmp_path, image, mask, name=name)
    write_volume(tmp_path / GLAND / "Alone23" / "10001_1000001.nii.gz", other)
    found = layouts.find(config)
    assert len(found.sources) == 2 and any("Alone23" in note and "Bosma22b" in note for note in found.notes)
    same(layouts.read(found.sources[0]), image, mask)
    named = site(tmp_path, "picai", masks=str(tmp_path / GLAND / "Alone23"))
    found = layouts.find(named)
    same(layouts.read(found.sources[0]), image, other)
    assert "no label of the whole gland" in problem(found, "10002_1000003")


def test_a_lesion_is_no_gland(tmp_path: Path) -> None:
    as_picai(tmp_path, *truth())
    for masks in ("labels/csPCa_lesion_delineations", "labels/csPCa_lesion_delineations/human_expert/resampled"):
        config = site(tmp_path, "picai", masks=str(tmp_path / masks))
        assert "no label of the whole gland" in problem(layouts.find(config), "10001_1000001")


def test_an_image_twice_is_told(tmp_path: Path) -> None:
    config = as_picai(tmp_path, *truth())
    write_volume(tmp_path / "images" / "copy" / "10001_1000001_t2w.mha", truth()[0])
    assert "keep one" in problem(layouts.find(config), "10001_1000001")

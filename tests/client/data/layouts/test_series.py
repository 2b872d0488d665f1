"""Which series is the T2 is judged by DICOM's own tags; where they do not decide, the user is offered a name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from client import data_check
from client.data import layouts
from client.inference.predict import find_scan
from client.site_config import SiteConfig
from common.errors import RelayError
from tests.support.layout_files import Array, only, problem, same, site, truth, write_series, write_volume

T2 = {"EchoTime": "104", "RepetitionTime": "5000", "ScanningSequence": "SE", "ImageType": ["ORIGINAL", "PRIMARY", "M"]}
T1 = T2 | {"EchoTime": "11", "RepetitionTime": "600"}
DWI = T2 | {"EchoTime": "80", "ScanningSequence": "EP"}
ADC = T2 | {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "EchoTime": "80"}


def add(folder: Path, name: str, array: Array, description: str, tags: dict[str, Any], **how: Any) -> None:
    """One series of patient P1, with these tags in every file."""
    place = write_series(folder / "images" / "P1" / name, array, description=description, uid=f"1.2.{name}", **how)
    for path in place.iterdir():
        header = pydicom.dcmread(path)
        for key, value in tags.items():
            setattr(header, key, value)
        header.save_as(path)


def labelled(folder: Path, **keys: str) -> SiteConfig:
    write_volume(folder / "labels" / "P1.nrrd", truth()[1])
    return site(folder, "nci-isbi", **keys)


def notes(config: SiteConfig) -> list[str]:
    return [note for note in layouts.find(config).notes if "chosen by its tags" in note]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (("Prostata axial", T2), ("Prostata axial vibe", T1), "no description says T2"),
        (("AX TSE", T2), ("ep2d", DWI), "no description says T2"),
        (("", T2), ("", T1), "echo time"),
        (("t2_tse_tra", T2), ("t2 of the ADC", ADC), "map"),
        (("t2_tse_tra", T2), ("t2_tse_tra", T2 | {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}), "original"),
        (("t2_tse_tra", T2), ("t2_ep2d_diff", DWI | {"DiffusionBValue": 800.0}), "diffusion"),
        (("t2_tse_tra", T2), ("t2_tse_tra", T2 | {"Modality": "SEG"}), ""),
        (("t2_tse_tra", T2), ("t2_tse_tra", T2 | {"Modality": "CT"}), ""),
        (("t2_tse_tra", T2), ("t1 vibe", T1), ""),
        (("t2_tse_tra", {}), ("scout", {}), ""),
    ],
)
def test_the_tags_decide_and_the_check_says_by_what(
    tmp_path: Path, right: tuple[str, dict[str, Any]], wrong: tuple[str, dict[str, Any]], said: str
) -> None:
    image, mask = truth()
    add(tmp_path, "1", image + 5, *wrong)
    add(tmp_path, "2", image, *right)
    config = labelled(tmp_path)
    same(layouts.read(only(layouts.find(config))), image, mask)
    np.testing.assert_array_equal(layouts.read(only(layouts.find(config))).image, image)
    assert all(said in note and "P1" in note for note in notes(config)) and bool(notes(config)) is bool(said)
    assert set(notes(config)) <= set(data_check.check(config, minimum_pixels=5).notes)
    find_scan(tmp_path / "images" / "P1")


@pytest.mark.parametrize(
    ("description", "tags", "told"),
    [
        ("t2_tse_tra", T1, "EchoTime of 11 ms"),
        ("t2 map", ADC, "map"),
        ("t2_ep2d", DWI, "diffusion"),
        ("t2", T2 | {"Modality": "CT"}, "CT"),
        ("vibe", T1, '"vibe", EchoTime 11 ms'),
    ],
)
def test_a_series_whose_tags_say_that_it_is_no_t2_is_told(
    tmp_path: Path, description: str, tags: dict[str, Any], told: str
) -> None:
    image, mask = truth()
    add(tmp_path, "1", image, description, tags)
    assert told in problem(layouts.find(labelled(tmp_path)), "P1")
    if "CT" not in told:  # whoever names the series knows what is meant
        same(layouts.read(only(layouts.find(labelled(tmp_path, series=description)))), image, mask)


@pytest.mark.parametrize("description", ["t2_tse_tra", ""])
@pytest.mark.parametrize(
    "differ",
    [
        {"StudyDate": "20200102"},
        {"StudyDate": "20200102", "SeriesDate": "20200102"},
        {"SeriesNumber": "7"},
        {},
    ],
    ids=["date", "dates", "number", "folder"],
)
def test_two_series_of_one_description_are_told_with_a_pattern_that_means_one(
    tmp_path: Path, description: str, differ: dict[str, str]
) -> None:
    image, _ = truth()
    shared = T2 | {"StudyDate": "20200101", "SeriesNumber": "4"}
    add(tmp_path, "1", image + 5, description, shared)
    add(tmp_path, "2", image, description, shared | differ)
    told = problem(layouts.find(labelled(tmp_path)), "P1")
    assert "number 4" in told and "20200101" in told and "folder 1" in told and "UID 1.2.2" in told
    pattern = re.search(r"such as '(.+)'\.$", told)
    assert pattern is not None
    config = labelled(tmp_path, series=pattern[1])
    np.testing.assert_array_equal(layouts.read(only(layouts.find(config))).image, image)
    with pytest.raises(RelayError, match="could be meant"):
        find_scan(tmp_path / "images" / "P1")
    assert find_scan(tmp_path / "images" / "P1", pattern[1]).files[0].parent.name == "2"


def test_series_of_other_directions_are_no_candidates(tmp_path: Path) -> None:
    image, mask = truth()
    add(tmp_path, "1", image, "t2_tse_tra", T2)
    add(tmp_path, "2", image + 5, "t2_tse_sag", T2, axes=np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]], float))
    same(layouts.read(only(layouts.find(labelled(tmp_path)))), image, mask)


@pytest.mark.parametrize(
    ("patient", "label", "character_set"),
    [
        ("12/345", "12_345", "ISO_IR 100"),
        ("Müller", "Müller", "ISO_IR 100"),
        ("Müller", "müller", "ISO_IR 192"),
        ("Łódź", "Łódź", "ISO_IR 101"),
        ("Петров", "Петров", "ISO_IR 144"),
        ("山田", "山田", "\\ISO 2022 IR 87"),
        ("ab-1", "AB-1", "ISO_IR 6"),
    ],
)
def test_identifiers_in_any_alphabet_find_their_label(
    tmp_path: Path, patient: str, label: str, character_set: str
) -> None:
    image, mask = truth()
    place = write_series(tmp_path / "images" / "one", image)
    for path in place.iterdir():
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet = character_set.split("\\") if "\\" in character_set else character_set
        header.PatientID = patient
        header.save_as(path)
    write_volume(tmp_path / "labels" / f"{label}.nrrd", mask)
    source = only(layouts.find(site(tmp_path, "nci-isbi")))
    assert source.patient in (patient, label)
    same(layouts.read(source), image, mask)

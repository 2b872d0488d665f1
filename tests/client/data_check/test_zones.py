"""The check-up lists the values in masks, and says what they seem to be by place and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import data_check
from client.data_check import Checkup
from client.data_check.findings import Kind
from client.site_config import load_site
from tests.support.hospitals import REAL_DATA, patient, write_pair, write_site

REAL = REAL_DATA / "hospitals"
NAMED = {"PZ": 1, "CG": 2}


def zoned(seed: int, *, back: int = 1, front: int = 2) -> tuple[Any, NDArray[np.uint8]]:
    """A gland whose back third has one value and the rest another."""
    image, mask = patient(seed)
    rows = np.flatnonzero(mask.any(axis=(0, 2)))
    border = rows[0] + 2 * len(rows) // 3
    labels = (mask > 0).astype(np.uint8) * np.uint8(front)
    labels[:, border:][labels[:, border:] > 0] = back
    return image, labels


def checked(folder: Path, pairs: list[tuple[Any, NDArray[np.uint8]]], **keys: Any) -> Checkup:
    for number, (image, labels) in enumerate(pairs):
        write_pair(folder / "images", f"Case{number:02}", image, labels)
    return data_check.check(load_site(write_site(folder, "A", **keys)), minimum_pixels=50)


def zone_note(checkup: Checkup) -> str:
    (note,) = (note for note in checkup.notes if note.startswith("The masks hold the values"))
    return note


def test_the_value_behind_seems_to_be_the_peripheral_zone(tmp_path: Path) -> None:
    pairs = [zoned(seed) for seed in range(5)]
    note = zone_note(checked(tmp_path, pairs))
    ml = np.mean([(labels == 1).sum() * 3 / 1000 for _, labels in pairs])
    assert (
        f"1 (in 5 patients, {ml:.3g} ml in the mean, its middle" in note and "mm behind the mask's) and 2 (in" in note
    )
    assert "in front of the mask's)" in note
    assert "1 lies behind 2 in 5 of 5 patients with both" in note
    assert note.endswith("Studies of the zones need labels = { PZ = 1, CG = 2 } in the site file.")


def test_a_site_file_that_says_the_reverse_is_told(tmp_path: Path) -> None:
    checkup = checked(tmp_path, [zoned(seed) for seed in range(4)], labels={"PZ": 2, "CG": 1})
    assert zone_note(checkup).endswith('The site file says the reverse: look at a patient, and correct "labels".')
    found = [finding for finding in checkup.findings if finding.kind is Kind.MASK_VALUES]
    assert len(found) == 4 and all("may be exchanged" in finding.sentence for finding in found)


def test_one_patient_with_exchanged_zones_and_one_who_lacks_one_are_told(tmp_path: Path) -> None:
    image, labels = zoned(3)
    pairs = [*(zoned(seed) for seed in range(6)), zoned(7, back=2, front=1), (image, (labels > 0) * np.uint8(2))]
    checkup = checked(tmp_path, pairs, labels=NAMED)
    assert zone_note(checkup).endswith("as the site file says.")
    assert [finding.patient for finding in checkup.findings if finding.kind is Kind.MASK_VALUES] == ["Case06"]
    lacking = {one.patient: one.remarks for one in checkup.patients if any("lacks" in text for text in one.remarks)}
    assert lacking.keys() == {"Case07"} and "lacks the peripheral zone (1 in the site file)" in lacking["Case07"][0]


def test_further_values_and_values_that_no_place_tells_apart_are_told(tmp_path: Path) -> None:
    pairs = [zoned(seed) for seed in range(4)]
    pairs[0][1][4, 27:29, 27:29] = 7
    assert "; 7 is smaller, and may be a part of either, or no gland." in zone_note(checked(tmp_path / "more", pairs))
    pairs = [zoned(seed, back=1 + seed % 2, front=2 - seed % 2) for seed in range(4)]
    assert zone_note(checked(tmp_path / "mixed", pairs)).endswith(
        "By place no two of them are the peripheral zone and the central gland."
    )


def test_of_one_value_nothing_is_said(tmp_path: Path) -> None:
    pairs = [(image, (labels > 0).astype(np.uint8)) for image, labels in (patient(seed) for seed in range(4))]
    assert not any("values" in note for note in checked(tmp_path, pairs).notes)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data here: {REAL} absent")
@pytest.mark.parametrize(("folder", "patients"), [("runmc", 29), ("bmc", 30)])
def test_experts_zones_are_recognised(folder: str, patients: int, tmp_path: Path) -> None:
    checkup = data_check.check(load_site(write_site(tmp_path, "A", images=str(REAL / folder), labels=NAMED)))
    note = zone_note(checkup)
    assert f"1 lies behind 2 in {patients} of {patients} patients" in note and "as the site file says" in note
    assert not [finding for finding in checkup.findings if "exchanged" in finding.sentence]

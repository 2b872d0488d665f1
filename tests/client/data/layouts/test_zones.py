"""Zones are read where the site's file says which value is which zone; the gland is read as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data import layouts
from client.data.layouts import Case
from client.preprocessing.inventory import tasks_of
from client.preprocessing.pipeline import load, prepare
from client.site_config import load_site
from common.config.study import PreprocessingConfig
from common.errors import BadPatient, RelayError
from common.target import GLAND, ZONES
from tests.support.dicom_labels import instances, outline, write_rtstruct, write_seg
from tests.support.hospitals import patient, write_labelled_patient, write_pair, write_site
from tests.support.layout_files import truth, write_series

NAMED = {"PZ": 1, "CG": 2}
PLAIN = PreprocessingConfig.model_validate({"pixels": 32, "spacing_mm": 2.0, "n4": {"enabled": False}})


def cases(folder: Path, **keys: Any) -> list[Case]:
    found = layouts.find(load_site(write_site(folder, "A", **keys)))
    assert not found.problems
    return [layouts.read(source) for source in found.sources]


def write(folder: Path, *masks: Any) -> None:
    for number, mask in enumerate(masks):
        write_pair(folder / "images", f"Case{number:02}", patient(number)[0], mask)


def test_the_values_named_are_the_zones_and_together_the_gland(tmp_path: Path) -> None:
    mask = patient(0)[1]
    write(tmp_path, mask)
    (case,) = cases(tmp_path, labels=NAMED)
    assert case.zones is not None
    assert np.array_equal(case.zones, mask) and np.array_equal(case.mask, mask > 0)
    (swapped,) = cases(tmp_path, labels={"PZ": 2, "CG": 1})
    assert swapped.zones is not None
    assert np.array_equal(swapped.zones == 1, mask == 2) and np.array_equal(swapped.mask, mask > 0)
    (unnamed,) = cases(tmp_path)
    assert unnamed.zones is None and np.array_equal(unnamed.mask, mask > 0)


def test_a_zone_may_have_several_values_and_other_values_are_no_gland(tmp_path: Path) -> None:
    mask = patient(0)[1]
    many = mask * 10
    many[4, 28, 20:24], many[4, 30, 20:24] = 21, 77
    write(tmp_path, many)
    (case,) = cases(tmp_path, labels={"PZ": [10], "CG": [20, 21]})
    assert case.zones is not None
    assert np.array_equal(case.zones == 1, many == 10)
    assert np.array_equal(case.zones == 2, (many == 20) | (many == 21))
    assert np.array_equal(case.mask, case.zones > 0)


def test_a_patient_who_lacks_a_zone_has_none(tmp_path: Path) -> None:
    mask = patient(0)[1]
    write(tmp_path, mask, (mask > 0) * np.uint8(2))
    assert [case.zones is not None for case in cases(tmp_path, labels=NAMED)] == [True, False]


def test_what_each_value_is_like_is_measured(tmp_path: Path) -> None:
    mask = patient(0)[1]
    mask[mask > 0] = 2
    mask[:, 34:][mask[:, 34:] > 0] = 1
    write(tmp_path, mask)
    (case,) = cases(tmp_path)
    behind, front = case.parts
    assert (behind.value, front.value) == (1, 2) and behind.behind_mm > 5 > 0 > front.behind_mm
    assert behind.ml == pytest.approx((mask == 1).sum() * 3 / 1000)
    rows = np.argwhere(mask)[:, 1].mean()
    assert behind.behind_mm == pytest.approx(np.argwhere(mask == 1)[:, 1].mean() - rows, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("{ PZ = 1 }", '"labels.CG" is missing; add it'),
        ("{ PZ = 1, CG = 1 }", "a value stands twice; a voxel lies in one zone"),
        ("{ PZ = 1, CG = 0 }", "0 is the background"),
        ("{ PZ = 1, CG = [] }", '"labels.CG"'),
        ("{ PZ = 1, CG = 2, TZ = 3 }", '"labels.TZ" is unknown; known keys here: CG, PZ'),
        ('{ PZ = 1, CG = "two" }', "one zone has a value and another a name; give both values, or both names"),
        ('{ PZ = "a(", CG = "b" }', "this is no regular expression"),
        ("{ PZ = 1, CG = 1.5 }", '"labels.CG'),
        ('["one"]', '"labels.0"'),
    ],
)
def test_what_names_no_zones_is_refused_with_a_sentence(tmp_path: Path, labels: str, sentence: str) -> None:
    path = write_site(tmp_path, "A")
    path.write_text(f"{path.read_text(encoding='utf-8')}labels = {labels}\n", encoding="utf-8")
    with pytest.raises(RelayError) as error:
        load_site(path)
    assert sentence in str(error.value) and "zones]" not in str(error.value), str(error.value)


TWO_ZONES = {"PZ": "Peripheral zone", "CG": ["Transition zone", "Central zone"]}
REGIONS = {"Peripheral zone": 1, "Transition zone": 2, "Central zone": 3}
"""The parts of `parted`, by their names in a file."""


def parted() -> Any:
    """A mask of three parts: peripheral, transition and central zone."""
    mask = truth()[1].astype(np.uint8)
    middle = np.argwhere(mask)[:, 1:].mean(axis=0)
    rows, columns = np.mgrid[: mask.shape[1], : mask.shape[2]]
    found = np.where(rows > middle[0], 1, np.where(columns > middle[1], 2, 3)) * (mask > 0)
    assert set(np.unique(found)) == {0, 1, 2, 3}
    return found.astype(np.uint8)


def named_site(folder: Path, **keys: Any) -> Any:
    return load_site(write_site(folder, "A", layout="dicom", **keys))


def write_zones(folder: Path, kind: str, drawn: dict[str, Any], **how: Any) -> None:
    """A series with a file of regions: a segmentation, a label map, or contours."""
    refers = instances(write_series(folder / "images" / "scan" / "a", truth()[0]))
    path = folder / "images" / "drawn.dcm"
    if kind == "RTSTRUCT":
        write_rtstruct(path, {name: outline(mask) for name, mask in drawn.items()}, refers, **how)
    else:
        write_seg(path, drawn, list(refers.values()), kind=kind, **how)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "RTSTRUCT"])
def test_zones_of_segments_and_contours_are_read_by_their_names(tmp_path: Path, kind: str) -> None:
    parts = parted()
    lesion = np.zeros_like(parts)
    if kind != "LABELMAP":
        k, row, column = np.argwhere(parts == 1)[0]
        lesion[k, row, column] = 1
    drawn = {name: parts == value for name, value in REGIONS.items()}
    write_zones(tmp_path, kind, {**drawn, **({"PZ lesion": lesion > 0} if lesion.any() else {})})
    (source,) = layouts.find(named_site(tmp_path, labels=TWO_ZONES)).sources
    case = layouts.read(source)
    assert case.zones is not None
    assert np.array_equal(case.zones == 1, parts == 1) and np.array_equal(case.zones == 2, parts > 1)
    assert np.array_equal(case.mask, parts > 0)
    (said,) = source.stated.sentences()
    assert said == (
        'The hospital named "Peripheral zone" as peripheral zone and "Transition zone" and "Central zone" as central'
        " gland among its segments and contours."
    )
    # the names are a part of the prepared patient's key, for either target
    fewer = {"PZ": "Peripheral zone", "CG": "Transition zone"}
    (plain,), (other,), (zoned,) = (
        tasks_of(named_site(tmp_path, labels=labels), PLAIN, "", target)[0]
        for labels, target in ((TWO_ZONES, GLAND), (fewer, GLAND), (TWO_ZONES, ZONES))
    )
    assert len({plain.digest, other.digest, zoned.digest}) == 3
    assert (plain.zoned, zoned.zoned) == (False, True)


def test_zones_are_named_by_their_codes_too(tmp_path: Path) -> None:
    parts = parted()
    codes = {"a": ("279706003", "SCT", "Peripheral zone"), "b": ("399384005", "SCT", "Transition zone")}
    write_zones(tmp_path, "BINARY", {"a": parts == 1, "b": parts > 1}, codes=codes)
    for labels in ({"PZ": "279706003", "CG": "399384005"}, {"PZ": "^peripheral", "CG": "^transition"}):
        (source,) = layouts.find(named_site(tmp_path, labels=labels)).sources
        assert np.array_equal(layouts.read(source).zones, np.minimum(parts, 2))


def test_a_patient_with_neither_zone_has_the_whole_gland(tmp_path: Path) -> None:
    parts = parted()
    write_zones(tmp_path, "BINARY", {"Prostate": parts > 0})
    (source,) = layouts.find(named_site(tmp_path, labels=TWO_ZONES)).sources
    case = layouts.read(source)
    assert case.zones is None and np.array_equal(case.mask, parts > 0)
    write_zones(tmp_path, "BINARY", {"A": parts > 0, "B": parts == 1})
    (source,) = layouts.find(named_site(tmp_path, labels=TWO_ZONES, roi="A")).sources
    assert layouts.read(source).zones is None and np.array_equal(layouts.read(source).mask, parts > 0)


def test_zones_that_cannot_be_told_are_refused_with_a_sentence(tmp_path: Path) -> None:
    parts = parted()

    def problem(labels: Any, drawn: dict[str, Any]) -> str:
        write_zones(tmp_path, "BINARY", drawn)
        (found,) = layouts.find(named_site(tmp_path, labels=labels)).problems
        return found.sentence

    both = {"Peripheral zone": parts == 1, "Transition zone": parts > 1}
    told = problem({"PZ": "Peripheral zone", "CG": "Central gland"}, both)
    assert '"Peripheral zone" is one zone, and none is "Central gland", the other; draw it' in told
    assert "Two zones are the same segment" in problem({"PZ": "Peripheral zone", "CG": "peripheral"}, both)
    assert '"zone" means several' in problem({"PZ": "Peripheral zone", "CG": "zone"}, both)
    write_zones(tmp_path, "BINARY", {"Peripheral zone": parts > 0, "Transition zone": parts > 1})
    (source,) = layouts.find(named_site(tmp_path, labels=TWO_ZONES)).sources
    with pytest.raises(BadPatient, match="overlap in [0-9]+ voxels, and a voxel lies in one zone"):
        layouts.read(source)


def test_a_few_voxels_of_both_zones_are_the_central_glands(tmp_path: Path) -> None:
    parts = parted()
    shared = np.argwhere(parts > 1)[0]
    peripheral = parts == 1
    peripheral[tuple(shared)] = True
    write_zones(tmp_path, "BINARY", {"Peripheral zone": peripheral, "Transition zone": parts > 1})
    (source,) = layouts.find(named_site(tmp_path, labels=TWO_ZONES)).sources
    assert np.array_equal(layouts.read(source).zones, np.minimum(parts, 2))


def test_masks_of_values_have_no_names(tmp_path: Path) -> None:
    write(tmp_path, patient(0)[1])
    (source,) = layouts.find(load_site(write_site(tmp_path, "A", labels=TWO_ZONES))).sources
    with pytest.raises(BadPatient, match='holds values, and "labels" in the site file gives the zones names'):
        layouts.read(source)


def test_a_segmentation_whose_segments_have_names_is_not_read_by_values(tmp_path: Path) -> None:
    image, mask = patient(0)
    write_labelled_patient(tmp_path, "P1", image, mask)
    (source,) = layouts.find(load_site(write_site(tmp_path, "A", layout="dicom", labels=NAMED))).sources
    with pytest.raises(BadPatient, match="have names in place of values; name the zones in the site file"):
        layouts.read(source)


def test_zones_are_prepared_for_a_study_of_zones_alone(tmp_path: Path) -> None:
    mask = patient(0)[1]
    write(tmp_path, mask, (mask > 0) * np.uint8(2))
    site = load_site(write_site(tmp_path, "A", labels=NAMED))
    glands = prepare(site, PLAIN).records
    zoned = prepare(site, PLAIN, target=ZONES).records
    assert [record.zoned for record in (*glands, *zoned)] == [False, False, True, False]
    assert all(load(record).zones is None for record in glands)
    first, second = map(load, zoned)
    assert first.zones is not None and first.native_zones is not None and second.zones is None
    assert np.array_equal(first.native_zones, mask)
    assert np.array_equal(first.zones > 0, first.mask) and set(np.unique(first.zones)) == {0, 1, 2}
    assert np.array_equal(first.mask, load(glands[0]).mask)
    inner = (first.zones == 2).sum() / (first.zones > 0).sum()
    assert inner == pytest.approx((mask == 2).sum() / (mask > 0).sum(), abs=0.05)


def test_a_study_of_the_gland_has_the_same_keys_whether_zones_or_values_are_named(tmp_path: Path) -> None:
    write(tmp_path, patient(0)[1])
    digests = [
        prepare(load_site(write_site(tmp_path, "A", labels=labels)), PLAIN, target=target).records[0].digest
        for labels, target in (([1, 2], GLAND), (NAMED, GLAND), ([1, 2], ZONES), (NAMED, ZONES))
    ]
    assert digests[0] == digests[1] == digests[2] != digests[3]

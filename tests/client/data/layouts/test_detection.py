"""A layout is recognised from names, by one sign alone, at no cost, and gives what its name in the file would give."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import data_check
from client.data import layouts
from client.data.layouts import dicom
from client.data.layouts.folder import list_folder
from client.preprocessing.inventory import tasks_of
from client.preprocessing.pipeline import prepare
from client.site_config import SiteConfig, load_site
from common.config.study import N4Config, PreprocessingConfig
from common.errors import RelayError
from tests.support.hospitals import REAL_DATA
from tests.support.layout_files import (
    WRITERS,
    as_decathlon,
    as_i2cvb,
    as_nci_isbi,
    as_nifti_pairs,
    one_sentence,
    site,
    truth,
    write_series,
    write_volume,
)

PLAIN = PreprocessingConfig(pixels=32, spacing_mm=1.0, minimum_mask_pixels=20, n4=N4Config(enabled=False))

APART = ("nci-isbi", "picai")
every_layout = pytest.mark.parametrize("layout", WRITERS)


def not_recognised(images: Path, masks: Path | None = None) -> str:
    with pytest.raises(RelayError) as caught:
        layouts.recognise(images, masks)
    return one_sentence(str(caught.value))


def unnamed(named: SiteConfig, *, auto: bool = False) -> SiteConfig:
    """The same site with "auto" for its layout, or without the key."""
    path = named.images.parent / "site.toml"
    keys = "layout = 'auto'\n" if auto else ""
    keys += f"masks = '{named.masks}'\n" if named.masks else ""
    path.write_text(f"name = 'A'\nimages = '{named.images}'\n{keys}", encoding="utf-8")
    return load_site(path)


@every_layout
@pytest.mark.parametrize("auto", [True, False])
def test_a_layout_that_is_not_named_gives_what_its_name_would_give(tmp_path: Path, layout: str, auto: bool) -> None:
    named = WRITERS[layout](tmp_path, *truth())
    write_volume(tmp_path / "images" / "x" / "unpaired.nii.gz", truth()[0])
    expected = layouts.find(named)
    assert expected.layout == layout
    assert layouts.find(unnamed(named, auto=auto)) == expected
    assert layouts.recognise(named.images, named.masks) == layout
    assert data_check.check(unnamed(named, auto=auto)).layout == layout


@every_layout
def test_naming_the_layout_that_was_recognised_makes_nothing_again(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = WRITERS[layout](tmp_path, *truth())
    text = (tmp_path / "site.toml").read_text("utf-8")
    first = prepare(unnamed(named), PLAIN)
    tasks, _ = tasks_of(unnamed(named), PLAIN, "")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was looked at again")

    for name in ("read", "find"):
        monkeypatch.setattr(layouts, name, never)
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    assert prepare(load_site(tmp_path / "site.toml"), PLAIN) == first
    again, _ = tasks_of(load_site(tmp_path / "site.toml"), PLAIN, "")
    assert [(task.corrected, task.slices) for task in again] == [(task.corrected, task.slices) for task in tasks]


def test_a_layout_that_is_named_no_more_is_recognised_anew(tmp_path: Path) -> None:
    """What was found under a name says nothing of what is recognised."""
    named = as_nifti_pairs(tmp_path, *truth())
    as_i2cvb(tmp_path, *truth())
    (task,), _ = tasks_of(named, PLAIN, "")
    assert task.source.patient == "Case00"
    with pytest.raises(RelayError, match="mixes"):
        tasks_of(unnamed(named), PLAIN, "")
    path = tmp_path / "site.toml"
    path.write_text("name = 'A'\nlayout = 'i2cvb'\nimages = 'images'\n", encoding="utf-8")
    (task,), _ = tasks_of(load_site(path), PLAIN, "")
    assert task.source.patient == "Patient 1036"


@every_layout
def test_no_pixel_is_read_and_no_header_twice(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("P1", "P2", "P3"):
        named = WRITERS[layout](tmp_path, *truth(), name=name)
    headers: list[Path] = []
    header = dicom.header_if_known

    def counted(path: Path) -> Any:
        headers.append(path)
        return header(path)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pixel was read")

    monkeypatch.setattr(dicom, "header_if_known", counted)
    monkeypatch.setattr(sitk, "ReadImage", never)
    layouts.recognise(named.images, named.masks)
    assert headers == []
    layouts.find(unnamed(named))
    assert len(headers) == len(set(headers)) and bool(headers) is (layout in ("dicom", "i2cvb", "nci-isbi"))
    auto = sorted(headers)
    headers.clear()
    layouts.find(named)
    assert sorted(headers) == auto


@every_layout
def test_a_folder_of_one_layout_has_no_other_layouts_sign(tmp_path: Path, layout: str) -> None:
    """Labels apart or beside: a folder without "masks" asks those with masks beside the images alone."""
    WRITERS[layout](tmp_path, *truth())
    apart = layouts.known()[layout].masks_apart
    folder = list_folder(tmp_path / "images")
    claim = {
        name for name, one in layouts.known().items() if one.masks_apart == apart and one.detect(folder) is not None
    }
    assert claim == {layout}


@pytest.mark.parametrize(
    ("one", "other"), itertools.combinations([name for name in WRITERS if name not in (*APART, "dicom")], 2)
)
def test_a_folder_that_mixes_two_layouts_is_a_question_that_the_site_file_answers(
    tmp_path: Path, one: str, other: str
) -> None:
    image, mask = truth()
    configs = {name: WRITERS[name](tmp_path, image, mask) for name in (one, other)}
    told = not_recognised(tmp_path / "images")
    assert f'"{one}" (' in told and f'"{other}" (' in told and '"layout"' in told
    for name, config in configs.items():
        with pytest.raises(RelayError, match="Site A: .* mixes layouts"):
            layouts.find(unnamed(config))
        assert layouts.find(site(tmp_path, name)).layout == name


@pytest.mark.parametrize("layout", ["promise12", "prostate158", "nifti-pairs"])
@pytest.mark.parametrize("other", ["decathlon", "i2cvb", "nifti-pairs"])
def test_a_folder_beside_the_patients_with_another_layout_is_not_passed_over(
    tmp_path: Path, layout: str, other: str
) -> None:
    image, mask = truth()
    WRITERS[layout](tmp_path, image, mask)
    (tmp_path / "elsewhere").mkdir()
    WRITERS[other](tmp_path / "elsewhere", image, mask)
    shutil.move(tmp_path / "elsewhere" / "images", tmp_path / "images" / "more")
    if layout == other:
        assert layouts.recognise(tmp_path / "images") == layout
    else:
        told = not_recognised(tmp_path / "images")
        assert "mixes layouts" in told and f'"{other}" (more' in told and f'"{layout}"' in told


def test_pairs_beside_the_dicom_that_they_were_made_of_are_no_mixture(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_nifti_pairs(tmp_path, image, mask)
    write_series(tmp_path / "images" / "dicom" / "P1", image)
    found = layouts.find(unnamed(config))
    assert (found.layout, [source.patient for source in found.sources]) == ("nifti-pairs", ["Case00"])


def test_dicom_without_the_folder_of_its_labels_is_told_to_name_it(tmp_path: Path) -> None:
    config = as_nci_isbi(tmp_path, *truth())
    assert '"nci-isbi"' in (told := not_recognised(config.images)) and '"masks"' in told
    assert layouts.recognise(config.images, config.masks) == "nci-isbi"


@pytest.mark.parametrize("layout", [name for name in WRITERS if name not in (*APART, "dicom", "i2cvb")])
def test_a_folder_of_labels_for_masks_that_lie_beside_the_images_is_told_to_go(tmp_path: Path, layout: str) -> None:
    config = WRITERS[layout](tmp_path, *truth())
    (tmp_path / "labels").mkdir()
    told = not_recognised(config.images, tmp_path / "labels")
    assert f'"{layout}"' in told and 'remove "masks"' in told


def test_dicom_with_a_folder_of_labels_is_nci_isbi_whatever_its_folders_are_called(tmp_path: Path) -> None:
    image, mask = truth()
    as_i2cvb(tmp_path, image, mask)
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    assert layouts.recognise(tmp_path / "images", tmp_path / "labels") == "nci-isbi"


def test_a_folder_above_the_sites_says_which_folders_are_sites(tmp_path: Path) -> None:
    for name, write in (("BMC", as_nifti_pairs), ("Siemens", as_i2cvb), ("Task05_Prostate", as_decathlon)):
        (tmp_path / name).mkdir()
        shutil.move(write(tmp_path / name, *truth()).images, tmp_path / "all" / name)
    told = not_recognised(tmp_path / "all")
    for shown in ('"BMC" (nifti-pairs)', '"Siemens" (i2cvb)', '"Task05_Prostate" (decathlon)'):
        assert shown in told
    assert layouts.recognise(tmp_path / "all" / "Siemens") == "i2cvb"


def test_a_long_list_of_folders_stays_a_sentence(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"patient {number}").mkdir()
        (tmp_path / f"patient {number}" / "t2_segmentation.nii.gz").touch()
    assert "and 34 more" in not_recognised(tmp_path)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(
    "files", [(), ("holiday.jpg",), ("Case00.nii.gz", "Case01.nii.gz"), ("a.raw",), ("P1/t1.nii",)]
)
def test_a_folder_of_no_known_layout_is_told_what_was_looked_for(
    tmp_path: Path, files: tuple[str, ...], masks: bool
) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for name in files:
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).touch()
    told = not_recognised(images, labels if masks else None)
    for name, one in layouts.known().items():
        assert f"({name})" in told and one.looks_for in told
    assert '"images"' in told and '"layout"' in told and str(images) in told


def test_a_folder_that_is_missing_or_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "no folder" in not_recognised(tmp_path / "nowhere")
    assert "no folder" in not_recognised(tmp_path / "file")


@every_layout
@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_upper_and_lower_case_make_no_difference(tmp_path: Path, layout: str, change: Any) -> None:
    image, mask = truth()
    config = WRITERS[layout](tmp_path, image, mask)
    for path in sorted(config.images.rglob("*"), reverse=True):
        if path.suffix not in (".mhd", ".raw"):  # a MetaImage names the file of its voxels
            path.rename(path.with_name(change(path.name)))
    found = layouts.find(unnamed(config))
    assert found.layout == layout and len(found.sources) == 1
    np.testing.assert_array_equal(layouts.read(found.sources[0]).image, image)


@every_layout
def test_a_copy_of_a_patients_folder_inside_another_changes_no_layout(tmp_path: Path, layout: str) -> None:
    config = WRITERS[layout](tmp_path, *truth())
    shutil.copytree(config.images, tmp_path / "copy")
    shutil.move(tmp_path / "copy", config.images / "old" / "older")
    assert layouts.recognise(config.images, config.masks) == layout


NAMES = st.sampled_from(
    [
        "imagesTr", "labelsTr", "T2W", "GT", "prostate", "Patient 1", "train", "020", "t2.nii.gz", "Case00.nii.gz",
        "t2_anatomy_reader1.nii.gz", "Case00_segmentation.nii.gz", "Case00_segmentation.mhd", "Case00.mhd",
        "Case00.raw", "dataset.json", "000001.dcm", "DICOMDIR", "x",
    ]
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=8), masks=st.booleans())
def test_any_tree_of_names_is_one_layout_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]], masks: bool
) -> None:
    """All files are empty: what is recognised or found must not depend on reading any."""
    folder = tmp_path_factory.mktemp("tree")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for names in paths:
        path = folder.joinpath("images", *names)
        if not any(parent.is_file() for parent in path.parents) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    labels = folder / "labels" if masks else None
    try:
        layout = layouts.recognise(folder / "images", labels)
    except RelayError as error:
        one_sentence(str(error))
        return
    assert layouts.known()[layout].masks_apart == masks
    try:
        found = layouts.find(site(folder, layout))
    except RelayError as error:
        one_sentence(str(error))
        return
    for one in found.problems:
        one_sentence(one.sentence)


@pytest.mark.skipif(
    not (REAL_DATA / "prostate3t").is_dir() or not (REAL_DATA / "nci_isbi_masks").is_dir(),
    reason="the real series and masks of NCI-ISBI 2013 are not on this machine",
)
@pytest.mark.parametrize("labels", ["nci_isbi_masks/Prostate-3T", "nci_isbi_masks", "nci_isbi_predicted/Prostate3T"])
def test_the_real_series_are_recognised(labels: str) -> None:
    assert layouts.recognise(REAL_DATA / "prostate3t", REAL_DATA / labels) == "nci-isbi"
    assert '"nci-isbi"' in not_recognised(REAL_DATA / "prostate3t")
    assert "none of the known layouts" in not_recognised(REAL_DATA / labels)

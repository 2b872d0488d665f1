"""Every layout gives the same patient: right voxels, right millimetres, right mask, or one sentence why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data import layouts
from client.data.layouts import Source
from client.preprocessing.pipeline import prepare
from client.site_config import SiteConfig, load_site
from common.config.study import N4Config, PreprocessingConfig
from common.errors import RelayError
from tests.support.layout_files import WRITERS, as_nifti_pairs, bad, one_sentence, only, problem, same, site, truth

PLAIN = PreprocessingConfig(pixels=32, spacing_mm=1.0, minimum_mask_pixels=20, n4=N4Config(enabled=False))

every_layout = pytest.mark.parametrize("layout", WRITERS)


@every_layout
def test_a_patient_comes_back_as_written(tmp_path: Path, layout: str, capfd: pytest.CaptureFixture[str]) -> None:
    image, mask = truth()
    found = layouts.find(WRITERS[layout](tmp_path, image, mask))
    assert found.layout == layout
    same(layouts.read(only(found)), image, mask)
    assert capfd.readouterr() == ("", "")


@every_layout
def test_a_blob_at_known_millimetres_is_found_there(tmp_path: Path, layout: str) -> None:
    image, mask = truth()
    mask[:] = 0
    mask[5, 20, 9] = 1
    case = layouts.read(only(layouts.find(WRITERS[layout](tmp_path, image, mask))))
    index = np.argwhere(case.mask)[0]
    direction = np.array(case.direction).reshape(3, 3)
    place = np.array(case.origin) + direction @ (index * case.spacing)[::-1]
    # x to the patient's left, y to the back, z to the head.
    np.testing.assert_allclose(place, [-12 + 9 * 0.75, -30 + 20 * 0.5, 40 + 5 * 3.0], atol=1e-4)


@every_layout
@pytest.mark.parametrize("zones", [{1: 1, 2: 2}, {1: 2, 2: 2}, {1: 1, 2: 3}, {1: 255, 2: 255}, {1: 100, 2: 7}])
def test_every_label_above_zero_is_gland(tmp_path: Path, layout: str, zones: dict[int, int]) -> None:
    """Peripheral zone and central gland in either order; 2 alone (Prostate3T-01-0019); 255."""
    image, mask = truth()
    labels = np.zeros_like(mask)
    for zone, label in zones.items():
        labels[mask == zone] = label
    same(layouts.read(only(layouts.find(WRITERS[layout](tmp_path, image, labels)))), image, mask)


@every_layout
def test_a_folder_that_is_missing_or_holds_no_patient_is_told(tmp_path: Path, layout: str) -> None:
    config = site(tmp_path, layout)
    (tmp_path / "images" / "holiday.jpg").write_text("", encoding="utf-8")
    with pytest.raises(
        RelayError, match="Decathlon|holds 0 folders" if layout == "decathlon" else "no patient"
    ) as caught:
        layouts.find(config)
    one_sentence(str(caught.value))
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(RelayError, match='no folder .*"images"'):
        layouts.find(config)


@every_layout
def test_sources_are_sorted_by_patient(tmp_path: Path, layout: str) -> None:
    image, mask = truth()
    names = [f"P{number}" for number in (3, 11, 0, 2, 10, 1)]
    for name in names:
        config = WRITERS[layout](tmp_path, image, mask, name=name)
    found = layouts.find(config)
    assert found.problems == ()
    assert [source.patient for source in found.sources] == sorted(names)


@every_layout
def test_a_source_names_all_files_that_its_voxels_lie_in(tmp_path: Path, layout: str) -> None:
    """Without any one of them the patient cannot be read as it was."""
    image, mask = truth()
    source = only(layouts.find(WRITERS[layout](tmp_path, image, mask)))
    for path in (*source.image, *source.mask):
        content = path.read_bytes()
        path.unlink()
        try:
            case = layouts.read(source)
        except RelayError as error:
            one_sentence(str(error))
        else:
            raise AssertionError(f"{path} is named, and {case} needs it not")
        path.write_bytes(content)
    same(layouts.read(source), image, mask)
    named = {*source.image, *source.mask}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path not in named:
            path.unlink()
    same(layouts.read(source), image, mask)


@every_layout
def test_what_a_macintosh_and_a_zip_leave_behind_is_no_patient(tmp_path: Path, layout: str) -> None:
    image, mask = truth()
    config = WRITERS[layout](tmp_path, image, mask)
    for path in [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "site.toml"]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (tmp_path / "images" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    shutil.move(tmp_path / "copy", tmp_path / "images" / "__MACOSX")
    same(layouts.read(only(layouts.find(config))), image, mask)
    assert layouts.recognise(config.images, config.masks) == layout


def linked(folder: Path, how: str) -> None:
    """Put links in the place of what lies in a folder, which moves elsewhere."""
    elsewhere = folder.with_name(f"{folder.name}-elsewhere")
    folder.rename(elsewhere)
    if how == "the folder itself":
        folder.symlink_to(elsewhere)
    elif how == "what lies in it":
        folder.mkdir()
        for path in elsewhere.iterdir():
            (folder / path.name).symlink_to(path)
    else:
        for path in elsewhere.rglob("*"):
            place = folder / path.relative_to(elsewhere)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                place.symlink_to(path)


@every_layout
@pytest.mark.parametrize("how", ["the folder itself", "what lies in it", "every file"])
def test_links_are_followed(tmp_path: Path, layout: str, how: str) -> None:
    image, mask = truth()
    config = WRITERS[layout](tmp_path, image, mask)
    linked(config.images, how)
    if config.masks:
        linked(config.masks, how)
    same(layouts.read(only(layouts.find(config))), image, mask)
    assert layouts.recognise(config.images, config.masks) == layout


@every_layout
def test_links_in_a_circle_and_to_what_is_listed_already_add_no_patient(tmp_path: Path, layout: str) -> None:
    image, mask = truth()
    config = WRITERS[layout](tmp_path, image, mask)
    for folder in [path for path in (config.images, *config.images.rglob("*")) if path.is_dir()]:
        (folder / "a circle").symlink_to(config.images)
        (folder / "itself").symlink_to(folder / "itself")
    for path in list(config.images.iterdir()):
        if path.is_dir():
            (config.images / f"a link to {path.name}").symlink_to(path)
    same(layouts.read(only(layouts.find(config))), image, mask)


@every_layout
@pytest.mark.parametrize("of", ["image", "mask"])
def test_a_file_whose_link_leads_nowhere_is_told(tmp_path: Path, layout: str, of: str) -> None:
    config = WRITERS[layout](tmp_path, *truth())
    source = only(layouts.find(config))
    path = getattr(source, of)[0]
    path.unlink()
    path.symlink_to(tmp_path / "unplugged" / path.name)
    found = layouts.find(config)
    if found.sources:
        assert str(path) in bad(found.sources[0])
    else:
        assert str(path) in problem(found, source.patient)


@every_layout
def test_a_name_with_codes_that_a_terminal_would_obey_is_not_printed_as_it_is(tmp_path: Path, layout: str) -> None:
    for name in ("P1", "P\x1b[2J"):
        config = WRITERS[layout](tmp_path, *truth(), name=name)
    found = layouts.find(config)
    assert [source.patient for source in found.sources] == ["P1", "P?[2J"]
    found.sources[1].mask[0].unlink()
    assert bad(found.sources[1]).isprintable()


@every_layout
def test_a_name_that_is_no_utf_8_is_told(tmp_path: Path, layout: str) -> None:
    """ITK ends the whole process at such a path."""
    image, mask = truth()
    config = WRITERS[layout](tmp_path, image, mask)
    odd = os.fsdecode(b"P\xff")
    for folder in [path for path in config.images.rglob("*") if path.is_dir()] + [config.images]:
        shutil.copytree(folder, tmp_path / "copy")
        shutil.move(tmp_path / "copy", folder / odd)
    for path in [path for path in config.images.rglob("*") if path.is_file() and odd not in path.parts]:
        shutil.copy(path, path.with_name(odd + path.name))
    found = layouts.find(config)
    same(layouts.read(found.sources[0]), image, mask)
    assert len(found.sources) == 1
    assert "P? is no UTF-8; rename it" in problem(found, "P?")
    for one in found.problems:
        assert one_sentence(one.sentence).isprintable()
    assert layouts.recognise(config.images, config.masks) == layout
    config.images.rename(tmp_path / odd)
    with pytest.raises(RelayError, match="UTF-8") as caught:
        layouts.recognise(tmp_path / odd, config.masks)
    assert one_sentence(str(caught.value)).isprintable()


def closed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As for a user who may not read it; tests may run as root, who may."""
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


@every_layout
def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = truth()
    config = WRITERS[layout](tmp_path, image, mask)
    (tmp_path / "images" / "ward 7").mkdir()
    closed(monkeypatch, tmp_path / "images" / "ward 7")
    found = layouts.find(config)
    assert len(found.sources) == 1
    assert "ward 7 cannot be read (Permission denied)" in problem(found, "ward 7")
    closed(monkeypatch, tmp_path / "images")
    for ask in (lambda: layouts.find(config), lambda: layouts.recognise(config.images, config.masks)):
        with pytest.raises(RelayError, match="images cannot be read .Permission denied") as caught:
            ask()
        one_sentence(str(caught.value))


def test_the_same_image_has_the_same_voxels_in_every_layout(tmp_path: Path) -> None:
    """By which a patient who lies in two sets is found: UCL, BIDMC and HK overlap with PROMISE12."""
    image, mask = truth()
    digests = set()
    for name, write in WRITERS.items():
        (tmp_path / name).mkdir()
        (record,) = prepare(write(tmp_path / name, image, mask), PLAIN).records
        digests.add(record.image_digest)
    assert len(digests) == 1
    image[3, 4, 5] += 1
    (tmp_path / "other").mkdir()
    (record,) = prepare(as_nifti_pairs(tmp_path / "other", image, mask), PLAIN).records
    assert record.image_digest not in digests


@pytest.mark.parametrize(("one", "other"), [("promise12", "nifti-pairs"), ("nci-isbi", "decathlon")])
def test_a_patient_of_two_sets_does_not_stand_on_two_sides_of_the_pooled_site(
    tmp_path: Path, one: str, other: str
) -> None:
    image, mask = truth()
    for number, name in enumerate((one, other)):
        folder = tmp_path / name
        folder.mkdir()
        WRITERS[name](folder, image, mask, name="Shared")
        WRITERS[name](folder, image + 1 + number, mask, name=f"Own{number}")
        text = (folder / "site.toml").read_text("utf-8").replace("name = 'A'", f"name = 'S{number}'")
        (folder / "site.toml").write_text(text, encoding="utf-8")
    path = tmp_path / "pooled.toml"
    path.write_text(f'name = "pooled"\nmembers = ["{one}/site.toml", "{other}/site.toml"]\n', encoding="utf-8")
    with pytest.raises(RelayError, match="S0 and S1 hold the same patient"):
        prepare(load_site(path), PLAIN)


def test_the_layouts_are_those_that_the_site_file_offers() -> None:
    assert list(layouts.known()) == sorted(WRITERS)


def test_the_pooled_site_has_no_patients_of_its_own(tmp_path: Path) -> None:
    as_nifti_pairs(tmp_path, *truth())
    path = tmp_path / "pooled.toml"
    path.write_text('name = "pooled"\nmembers = ["site.toml"]\n', encoding="utf-8")
    with pytest.raises(RelayError, match="members"):
        layouts.find(load_site(path))


def test_a_source_without_files_is_told() -> None:
    assert "empty" in bad(Source("P1", (), ()))


@pytest.mark.parametrize("missing", ["image", "mask"])
@pytest.mark.parametrize(
    ("layout", "image", "mask"),
    [
        ("decathlon", "imagesTr/prostate_00.nii.gz", "labelsTr/prostate_00.nii.gz"),
        ("i2cvb", "Patient 1036/T2W", "Patient 1036/GT/prostate"),
        ("nci-isbi", "P1", "../labels/P1_truth.nrrd"),
        ("nifti-pairs", "Case00.nii.gz", "Case00_segmentation.nii.gz"),
        ("promise12", "Case00.mhd", "Case00_segmentation.mhd"),
        ("prostate158", "train/020/t2.nii.gz", "train/020/t2_anatomy_reader1.nii.gz"),
    ],
)
def test_an_image_without_mask_and_a_mask_without_image_are_told(
    tmp_path: Path, layout: str, image: str, mask: str, missing: str
) -> None:
    config = WRITERS[layout](tmp_path, *truth())
    (patient,) = (source.patient for source in layouts.find(config).sources)
    WRITERS[layout](tmp_path, *truth(), name="P2")
    path = config.images / (image if missing == "image" else mask)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = layouts.find(config)
    assert [source.patient for source in found.sources] == ["P2"]
    told = problem(found, patient)
    assert {"image": r"no image", "mask": "no mask"}[missing] in told.replace("no T2 in", "no image in").replace(
        "no label", "no mask"
    ).replace("no outline", "no mask")


def written(folder: Path, write: Callable[..., SiteConfig], *names: str) -> SiteConfig:
    image, mask = truth()
    for name in names:
        config = write(folder, image, mask, name=name)
    return config


@every_layout
def test_many_patients_with_odd_names_are_each_found_once(tmp_path: Path, layout: str) -> None:
    names = [
        "Patient 1",
        "Patient 10",
        "patient_2",
        "Ärztin",
        "x" * 60,
        "a.b",
        "c_segmentation_d",
        "(7)",
        "[8]",
        "100%",
    ]
    if layout == "promise12":
        names.remove("100%")  # MetaImage takes it for a pattern; told, in its own test
    found = layouts.find(written(tmp_path, WRITERS[layout], *names))
    assert found.problems == ()
    assert [source.patient for source in found.sources] == sorted(names)

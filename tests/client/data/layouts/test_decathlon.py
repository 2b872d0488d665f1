"""The Decathlon's Task05, and what nnU-Net makes of it: the T2 is taken among the modalities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import data_check
from client.data import layouts
from client.data.layouts import decathlon
from client.preprocessing.inventory import tasks_of
from client.preprocessing.pipeline import prepare
from common.config.study import N4Config, PreprocessingConfig
from common.errors import RelayError
from deploy.site.check import site_check
from tests.client.data.layouts.test_geometry import stating
from tests.support.layout_files import (
    CONTENTS,
    as_decathlon,
    bad,
    one_sentence,
    only,
    problem,
    same,
    site,
    truth,
    write_channels,
    write_volume,
)

PLAIN = PreprocessingConfig(pixels=32, spacing_mm=1.0, minimum_mask_pixels=20, n4=N4Config(enabled=False))


def contents(folder: Path, **changes: Any) -> None:
    (folder / "images" / "dataset.json").write_text(json.dumps(CONTENTS | changes), encoding="utf-8")


@pytest.mark.parametrize("key", ["modality", "channel_names"])
@pytest.mark.parametrize("name", ["T2", "t2w", "MRI-T2"])
@pytest.mark.parametrize("order", [("T2", "ADC"), ("ADC", "T2"), ("ADC", "DWI", "T2")])
def test_the_t2_is_taken_wherever_dataset_json_says_that_it_stands(
    tmp_path: Path, key: str, name: str, order: tuple[str, ...]
) -> None:
    image, mask = truth()
    arrays = [image if one == "T2" else image[::-1] + number for number, one in enumerate(order)]
    write_channels(tmp_path / "images" / "imagesTr" / "prostate_00.nii.gz", arrays)
    write_volume(tmp_path / "images" / "labelsTr" / "prostate_00.nii.gz", mask)
    names = {str(number): name if one == "T2" else one for number, one in enumerate(order)}
    (tmp_path / "images" / "dataset.json").write_text(json.dumps({key: names}), encoding="utf-8")
    source = only(layouts.find(site(tmp_path, "decathlon")))
    assert source.channel == order.index("T2")
    same(layouts.read(source), image, mask)


def test_nnu_nets_files_of_single_modalities_are_read(tmp_path: Path) -> None:
    image, mask = truth()
    for patient in ("prostate_00", "prostate_0001", "c"):
        for number, array in enumerate([image[::-1], image]):
            write_volume(tmp_path / "images" / "imagesTr" / f"{patient}_{number:04}.nii.gz", array)
        write_volume(tmp_path / "images" / "labelsTr" / f"{patient}.nii.gz", mask)
    contents(tmp_path, modality={"0": "ADC", "1": "T2"})
    found = layouts.find(site(tmp_path, "decathlon"))
    assert found.problems == ()
    assert [source.patient for source in found.sources] == ["c", "prostate_00", "prostate_0001"]
    for source in found.sources:
        same(layouts.read(source), image, mask)
    (tmp_path / "images" / "imagesTr" / "c_0001.nii.gz").unlink()
    assert "no T2" in problem(layouts.find(site(tmp_path, "decathlon")), "c")


def test_a_set_of_one_modality_has_images_of_three_axes(tmp_path: Path) -> None:
    image, mask = truth()
    write_volume(tmp_path / "images" / "imagesTr" / "P1.nii.gz", image)
    write_volume(tmp_path / "images" / "labelsTr" / "P1.nii.gz", mask)
    contents(tmp_path, modality={"0": "T2"})
    same(layouts.read(only(layouts.find(site(tmp_path, "decathlon")))), image, mask)


@pytest.mark.parametrize(
    ("modality", "told"),
    [
        ({"0": "MRI"}, r'does not say .*"MRI"'),
        ({"0": "FLAIR", "1": "T1w"}, "does not say"),
        ({"0": "T2", "1": "T2 fat saturated"}, "does not say"),
        ({}, "none"),
        (["T2", "ADC"], "cannot be read"),
        ({"first": "T2"}, "cannot be read"),
    ],
)
def test_a_t2_that_nobody_names_is_told(tmp_path: Path, modality: Any, told: str) -> None:
    config = as_decathlon(tmp_path, *truth(), modality=modality)
    with pytest.raises(RelayError, match=told) as caught:
        layouts.find(config)
    one_sentence(str(caught.value))


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b'"T2"', b"\xff\xfe", b'{"modality": 3}'])
def test_a_dataset_json_that_is_missing_or_damaged_is_told(tmp_path: Path, content: bytes | None) -> None:
    config = as_decathlon(tmp_path, *truth())
    path = tmp_path / "images" / "dataset.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(RelayError, match="dataset.json") as caught:
        layouts.find(config)
    one_sentence(str(caught.value))


@pytest.mark.parametrize("arrays", [1, 3])
def test_an_image_without_the_volume_that_is_meant_is_told(tmp_path: Path, arrays: int) -> None:
    image, mask = truth()
    config = as_decathlon(tmp_path, image, mask, modality={"0": "a", "1": "b", "2": "c", "3": "T2"})
    path = tmp_path / "images" / "imagesTr" / "prostate_00.nii.gz"
    write_volume(path, image) if arrays == 1 else write_channels(path, [image] * arrays)
    assert f"number 4 is the T2, and holds {arrays}" in bad(only(layouts.find(config)))


def test_an_image_of_three_axes_is_not_taken_for_the_first_modality_of_two(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_decathlon(tmp_path, image, mask)
    write_volume(tmp_path / "images" / "imagesTr" / "prostate_00.nii.gz", image)
    assert "number 1 is the T2" in bad(only(layouts.find(config)))


@pytest.mark.parametrize("number", [0, 1])
def test_values_that_are_no_numbers_matter_in_the_t2_alone(tmp_path: Path, number: int) -> None:
    """ADC maps hold such where nothing was measured."""
    image, mask = truth()
    arrays = [image.astype(np.float32), image[::-1].astype(np.float32)]
    arrays[number][2, 3, 4:6] = np.nan
    config = as_decathlon(tmp_path, image, mask)
    write_channels(tmp_path / "images" / "imagesTr" / "prostate_00.nii.gz", arrays)
    source = only(layouts.find(config))
    if number == 0:
        assert "holds 2 values that are no numbers" in bad(source)
    else:
        same(layouts.read(source), image, mask)


def test_images_for_testing_are_no_patients(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_decathlon(tmp_path, image, mask)
    write_channels(tmp_path / "images" / "imagesTs" / "prostate_03.nii.gz", [image, image])
    same(layouts.read(only(layouts.find(config))), image, mask)


def test_several_files_of_a_patient_and_an_image_without_a_label_are_told(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_decathlon(tmp_path, image, mask)
    write_volume(tmp_path / "images" / "imagesTr" / "prostate_00_0000.nii.gz", image)
    write_channels(tmp_path / "images" / "imagesTr" / "prostate_05.nii.gz", [image, image])
    write_volume(tmp_path / "images" / "labelsTr" / "prostate_07.nii", mask)
    found = layouts.find(config)
    assert "keep a pair" in problem(found, "prostate_00")
    assert "no label" in problem(found, "prostate_05")
    assert "no T2" in problem(found, "prostate_07")


def test_it_is_said_that_its_patients_are_also_those_of_prostate_3t(tmp_path: Path) -> None:
    (note,) = layouts.find(as_decathlon(tmp_path, *truth())).notes
    assert "Prostate-3T" in note and "independent" in note
    one_sentence(note)


def test_another_order_of_modalities_makes_another_image(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_decathlon(tmp_path, image, mask)
    ((task,), _) = tasks_of(config, PLAIN, "")
    (first,) = prepare(config, PLAIN).records
    contents(tmp_path, modality={"0": "ADC", "1": "T2"})
    ((changed,), _) = tasks_of(config, PLAIN, "")
    assert changed.corrected != task.corrected and changed.slices != task.slices
    (second,) = prepare(config, PLAIN).records
    assert second.image_digest != first.image_digest
    assert second == prepare(config, PLAIN).records[0]
    contents(tmp_path)
    assert prepare(config, PLAIN).records == (first,)


def test_the_check_up_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = data_check.check(as_decathlon(tmp_path, *truth()), minimum_pixels=10)
    assert found.layout == "decathlon" and found.notes[0] == decathlon.NOTE
    with pytest.raises(RelayError, match="no patient that can be used"):
        site_check(tmp_path / "site.toml", as_json=False)  # its slices are too small
    told = capsys.readouterr().out
    assert told.startswith("Site A, layout decathlon: ") and f"Site A, to know: {decathlon.NOTE}" in told


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nii", ".nii.gz"])
def test_a_set_in_any_format_of_nnu_nets_is_read(tmp_path: Path, ending: str) -> None:
    image, mask = truth()
    for name in ("10000_1000000", "10001_1000001"):
        write_volume(tmp_path / "images" / "imagesTr" / f"{name}_0000{ending}", image)
        write_volume(tmp_path / "images" / "imagesTr" / f"{name}_0001{ending}", image[::-1])
        write_volume(tmp_path / "images" / "labelsTr" / f"{name}{ending}", mask)
    (tmp_path / "images" / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T2W", "1": "ADC"}, "labels": {"background": 0, "prostate": 1}}), "utf-8"
    )
    found = layouts.find(site(tmp_path, "decathlon"))
    assert found.problems == () and [source.patient for source in found.sources] == ["10000_1000000", "10001_1000001"]
    for source in found.sources:
        same(layouts.read(source), image, mask)
    if ending == ".mhd":
        next((tmp_path / "images" / "labelsTr").glob("10000_*raw")).unlink()
        assert "are missing" in problem(layouts.find(site(tmp_path, "decathlon")), "10000_1000000")


@pytest.mark.parametrize(("name", "known"), [("zscore", True), ("noNorm", True), ("ADC", False), ("CT", False)])
def test_an_only_modality_named_by_its_normalisation_is_the_t2_and_that_is_said(
    tmp_path: Path, name: str, known: bool
) -> None:
    image, mask = truth()
    as_decathlon(tmp_path, image, mask, channel_names={"0": name}, modality={})
    write_volume(tmp_path / "images" / "imagesTr" / "prostate_00.nii.gz", image)
    if not known:
        with pytest.raises(RelayError, match="does not say"):
            layouts.find(site(tmp_path, "decathlon"))
        return
    found = layouts.find(site(tmp_path, "decathlon"))
    same(layouts.read(only(found)), image, mask)
    assert any(f'"{name}"' in note and "taken for the T2" in note for note in found.notes)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"background": 0, "prostate": 1}, ""),
        ({"0": "background", "1": "PZ", "2": "TZ"}, ""),
        ({"background": 0, "whole_prostate": [1, 2], "lesion": 2}, '"lesion" (2)'),
        ({"0": "background", "1": "prostate", "2": "bladder"}, '"bladder" (2)'),
        ({"background": 0, "csPCa": 1}, '"csPCa" (1)'),
        (["background"], ""),
        (7, ""),
    ],
)
def test_values_that_are_no_gland_by_their_names_are_told(tmp_path: Path, labels: Any, told: str) -> None:
    config = as_decathlon(tmp_path, *truth(), labels=labels)
    notes = [note for note in layouts.find(config).notes if "By dataset.json" in note]
    assert [told in note for note in notes] == [True] * bool(told)
    if told:
        assert not any("By dataset.json" in note for note in layouts.find(stating(tmp_path, "labels = [1]\n")).notes)

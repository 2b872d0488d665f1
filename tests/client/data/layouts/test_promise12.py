"""PROMISE12: pairs of MetaImages, whose voxels lie in files of their own, in the folders of its releases."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data import layouts
from client.data.layouts import Case, Source
from client.preprocessing.inventory import tasks_of
from client.preprocessing.pipeline import prepare
from common.config.study import N4Config, PreprocessingConfig
from common.errors import RelayError
from tests.support.layout_files import (
    as_promise12,
    bad,
    one_sentence,
    only,
    problem,
    same,
    site,
    truth,
    write_volume,
)

PLAIN = PreprocessingConfig(pixels=32, spacing_mm=1.0, minimum_mask_pixels=20, n4=N4Config(enabled=False))


def told_or_read(source: Source) -> Case | None:
    try:
        return layouts.read(source)
    except RelayError as error:
        one_sentence(str(error))
        return None


@pytest.mark.parametrize("ending", [".mhd", ".MHD", ".mha", ".MHA"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", ["_segmentation", "_Segmentation"])
def test_a_metaimage_of_any_kind_is_read(tmp_path: Path, ending: str, compressed: bool, suffix: str) -> None:
    image, mask = truth()
    for name, array in (("Case00", image), (f"Case00{suffix}", mask)):
        path = write_volume(tmp_path / "images" / f"{name}{ending.lower()}", array, compressed=compressed)
        path.rename(path.with_suffix(ending))
    source = only(layouts.find(site(tmp_path, "promise12")))
    assert source.patient == "Case00"
    assert len(source.image) == (1 if ending.lower() == ".mha" else 2)
    same(layouts.read(source), image, mask)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".mhd", ".mha"])
def test_any_number_type_is_read_and_its_size_known(tmp_path: Path, kind: type, ending: str) -> None:
    image, mask = truth()
    image = image % 100
    write_volume(tmp_path / "images" / f"c{ending}", image.astype(kind), compressed=False)
    write_volume(tmp_path / "images" / f"c_segmentation{ending}", mask.astype(kind), compressed=False)
    same(layouts.read(only(layouts.find(site(tmp_path, "promise12")))), image, mask)


@pytest.mark.parametrize("of", ["Case00", "Case00_segmentation"])
@pytest.mark.parametrize(("compressed", "ending"), [(False, ".raw"), (True, ".zraw")])
def test_voxels_that_are_missing_are_told_before_anything_is_read(
    tmp_path: Path, of: str, compressed: bool, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = as_promise12(tmp_path, *truth(), compressed=compressed)
    (tmp_path / "images" / f"{of}{ending}").unlink()
    told = problem(layouts.find(config), "Case00")
    assert f"{of}.mhd are missing; add the file {of}{ending}" in told
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("of", ["Case00", "Case00_segmentation"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [".mhd", ".mha"])
@pytest.mark.parametrize("left", [0, 20, 0.5, 0.999])
def test_voxels_that_are_cut_short_are_told(
    tmp_path: Path, of: str, compressed: bool, kind: str, left: float, capfd: pytest.CaptureFixture[str]
) -> None:
    image, mask = truth()
    for name, array in (("Case00", image), ("Case00_segmentation", mask)):
        write_volume(tmp_path / "images" / f"{name}{kind}", array, compressed=compressed)
    path = tmp_path / "images" / f"{of}{kind if kind == '.mha' else '.zraw' if compressed else '.raw'}"
    os.truncate(path, int(left if left > 1 else left * path.stat().st_size))
    told = problem(layouts.find(site(tmp_path, "promise12")), "Case00")
    assert str(path) in told and "copy it again" in told
    assert capfd.readouterr() == ("", "")


def test_another_images_voxels_are_told_by_their_number(tmp_path: Path) -> None:
    config = as_promise12(tmp_path, *truth())
    as_promise12(tmp_path, *truth(slices=9), name="Case01")
    shutil.copy(tmp_path / "images" / "Case01.raw", tmp_path / "images" / "Case00.raw")
    assert "16128 bytes of voxels where its header asks for 14336" in problem(layouts.find(config), "Case00")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), kind=st.sampled_from([".mhd", ".mha"]))
def test_a_byte_gone_wrong_in_compressed_voxels_is_told_and_never_read(
    tmp_path: Path, place: float, flip: int, kind: str
) -> None:
    """ITK fills what it cannot unpack with what stood in memory, and says so nowhere."""
    shutil.rmtree(tmp_path / "images", ignore_errors=True)
    image, mask = truth()
    write_volume(tmp_path / "images" / f"c{kind}", image)
    write_volume(tmp_path / "images" / f"c_segmentation{kind}", mask)
    source = only(layouts.find(site(tmp_path, "promise12")))
    path = source.image[-1]
    content = bytearray(path.read_bytes())
    start = content.index(b"LOCAL\n") + 6 if kind == ".mha" else 0
    content[start + int(place * (len(content) - start))] ^= flip
    path.write_bytes(content)
    case = told_or_read(source)
    if case is not None:
        same(case, image, mask)  # a bit of the header that means nothing


def test_compressed_voxels_that_are_too_few_are_told(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_promise12(tmp_path, image, mask, compressed=True)
    source = only(layouts.find(config))
    source.image[1].write_bytes(zlib.compress(image[:-1].tobytes()) + bytes(20000))
    assert "damaged" in bad(source)


@pytest.mark.parametrize("header", ["LIST", "LIST 2", "slice%03d.raw 1 8 1"])
def test_voxels_in_several_files_are_told(tmp_path: Path, header: str) -> None:
    config = as_promise12(tmp_path, *truth())
    path = tmp_path / "images" / "Case00.mhd"
    path.write_text(path.read_text("utf-8").replace("Case00.raw", header), encoding="utf-8")
    assert "several files" in problem(layouts.find(config), "Case00")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_for_a_header_are_one_sentence(tmp_path: Path, header: bytes) -> None:
    config = as_promise12(tmp_path, *truth())
    (tmp_path / "images" / "Case00.mhd").write_bytes(header)
    problem(layouts.find(config), "Case00")


KEYS = st.sampled_from(
    ["DimSize", "ElementType", "HeaderSize", "CompressedData", "CompressedDataSize", "ElementDataFile", "NDims"]
)
VALUES = st.sampled_from(
    ["", "-1", "0", "1", "28 32 8", "28 32 -8", "1e3", "True", "MET_SHORT", "MET_SHORT_ARRAY", "nan"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(KEYS, VALUES, max_size=4))
def test_a_header_with_wrong_values_is_told_or_read_right(tmp_path: Path, changes: dict[str, str]) -> None:
    image, mask = truth()
    config = as_promise12(tmp_path, image, mask)
    path = tmp_path / "images" / "Case00.mhd"
    keys = dict(line.split(" = ") for line in path.read_text("utf-8").splitlines()) | changes
    keys["ElementDataFile"] = keys.pop("ElementDataFile")
    path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()), encoding="utf-8")
    found = layouts.find(config)
    for one in found.problems:
        one_sentence(one.sentence)
    for source in found.sources:
        case = told_or_read(source)
        if case is not None:
            np.testing.assert_array_equal(case.image, image)


def test_names_start_anew_in_each_folder_of_a_release(tmp_path: Path) -> None:
    image, mask = truth()
    for number, folder in enumerate(["TrainingData_Part1", "TrainingData_Part2", "deep/er", "."]):
        write_volume(tmp_path / "images" / folder / "Case00.mhd", image + number, compressed=False)
        write_volume(tmp_path / "images" / folder / "Case00_segmentation.mhd", mask, compressed=False)
    found = layouts.find(site(tmp_path, "promise12"))
    assert found.problems == ()
    assert [source.patient for source in found.sources] == [
        "Case00",
        "TrainingData_Part1/Case00",
        "TrainingData_Part2/Case00",
        "deep/er/Case00",
    ]
    for number, source in zip([3, 0, 1, 2], found.sources, strict=True):
        same(layouts.read(source), image + number, mask)


def test_test_images_without_masks_are_no_patients_and_lend_their_names_to_nobody(tmp_path: Path) -> None:
    image, mask = truth()
    training, test = (tmp_path / "images" / name for name in ("training_data", "test_data"))
    write_volume(training / "Case00.mhd", image)
    write_volume(training / "Case00_segmentation.mhd", mask)
    write_volume(training / "Case01_segmentation.mhd", mask)
    for name in ("Case00", "Case01"):
        write_volume(test / f"{name}.mhd", image + 1)
    found = layouts.find(site(tmp_path, "promise12"))
    assert [source.patient for source in found.sources] == ["training_data/Case00"]
    same(layouts.read(found.sources[0]), image, mask)
    assert "no image" in problem(found, "training_data/Case01")
    assert len(found.problems) == 1
    assert any("2 images" in note and "test_data" in note for note in found.notes)
    assert any("UCL, BIDMC and HK" in note for note in found.notes)
    for note in found.notes:
        one_sentence(note)


def test_a_release_unpacked_twice_holds_each_patient_once(tmp_path: Path) -> None:
    image, mask = truth()
    for number in range(3):
        config = as_promise12(tmp_path, image + number, mask, name=f"training_data/Case0{number}")
    shutil.copytree(tmp_path / "images" / "training_data", tmp_path / "images" / "training_data (1)")
    prepared = prepare(config, PLAIN)
    assert (prepared.total, len(prepared.records), prepared.left_out) == (6, 3, 3)


def test_changed_voxels_change_the_key_though_the_header_stays(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_promise12(tmp_path, image, mask)
    ((task,), _) = tasks_of(config, PLAIN, "")
    as_promise12(tmp_path, image + 1, mask)
    ((changed,), _) = tasks_of(config, PLAIN, "")
    assert changed.corrected != task.corrected
    as_promise12(tmp_path, image + 1, np.roll(mask, 1, axis=2))
    ((drawn_anew,), _) = tasks_of(config, PLAIN, "")
    assert drawn_anew.corrected == changed.corrected and drawn_anew.slices != changed.slices

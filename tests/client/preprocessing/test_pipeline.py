"""From files to slices on the study's grid: in the right place, once, and never again without need."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data import layouts
from client.data.layouts import size
from client.data.site_key import site_key
from client.preprocessing import cache, inventory, pipeline
from client.preprocessing.bias_field import correct_bias_field
from client.preprocessing.inventory import tasks_of
from client.preprocessing.pipeline import fingerprint, load, prepare, to_native
from client.site_config import SiteConfig, load_site
from common.config.study import N4Config, PreprocessingConfig
from common.errors import RelayError

REPO = Path(__file__).parents[3]
REAL = Path(os.environ.get("RELAY_SHARED", REPO.parent / "shared")) / "data"
SPACING = (3.0, 0.5, 0.75)  # slice, row, column
QUICK = PreprocessingConfig(pixels=32, spacing_mm=1.0, minimum_mask_pixels=20, n4=N4Config(iterations=(2,)))
NO_N4 = QUICK.model_copy(update={"n4": N4Config(enabled=False)})

Array = NDArray[Any]


def write(path: Path, array: Array, spacing: tuple[float, float, float] = SPACING) -> None:
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing(spacing[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume, str(path))


def write_patient(
    folder: Path, name: str, *, seed: int, sides: tuple[int, ...] = (0, 4, 5, 10, 10), value: float = 300.0
) -> None:
    """A body that fills most of 40 x 40 pixels, and a square gland with so many pixels a side, slice by slice."""
    rng = np.random.default_rng(seed)
    image = np.zeros((len(sides), 40, 40))
    image[:, 4:36, 4:36] = value
    image = np.abs(image + rng.normal(0, 10, image.shape)).astype(np.int16)
    write(folder / f"{name}.nii.gz", image)
    write_mask(folder, name, sides)


def write_mask(folder: Path, name: str, sides: tuple[int, ...]) -> None:
    mask = np.zeros((len(sides), 40, 40), np.uint8)
    for k, side in enumerate(sides):
        mask[k, 12 : 12 + side, 15 : 15 + side] = 1 + k % 2
    write(folder / f"{name}_segmentation.nii.gz", mask)


def make_site(folder: Path, patients: int = 3, *, name: str = "A", seed: int = 0, **keys: Any) -> SiteConfig:
    images = folder / f"images-{name}"
    images.mkdir(parents=True)
    for k in range(patients):
        write_patient(images, f"Case{k:02}", seed=seed + k)
    return SiteConfig(name=name, layout="nifti-pairs", images=images, folder=folder / f"private-{name}", **keys)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many times N4 ran since the last call."""
    runs: list[int] = []

    def counted(*args: Any) -> Any:
        runs.append(1)
        return correct_bias_field(*args)

    monkeypatch.setattr(pipeline, "correct_bias_field", counted)

    def taken() -> int:
        number = len(runs)
        runs.clear()
        return number

    return taken


def log_of(site: SiteConfig) -> list[str]:
    path = site.folder / "site.log"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


# The bias field ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, -50.0])
@pytest.mark.parametrize("shape", [(5, 40, 40), (3, 40, 40), (12, 64, 48)])
def test_n4_takes_out_a_bias_field(shape: tuple[int, int, int], offset: float) -> None:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    tissue = np.where(x**2 + y**2 < 0.8, 100.0, 0.0) + np.where(x**2 + y**2 < 0.1, 60.0, 0.0)
    noise = np.random.default_rng(0).normal(0, 2, shape)
    image = np.abs(tissue * np.exp(0.6 * x + 0.4 * y - 0.3 * x * y + 0.2 * z) + noise)
    stored = (image + offset).astype(np.float32)
    corrected = correct_bias_field(stored, N4Config())
    ring = (x**2 + y**2 < 0.7) & (x**2 + y**2 > 0.2)
    assert corrected.dtype == np.float32 and np.isfinite(corrected).all() and (corrected >= 0).all()
    variation = corrected[ring].std() / corrected[ring].mean()
    assert variation < 0.3 * image[ring].std() / image[ring].mean()


def test_n4_leaves_a_volume_alone_that_has_no_air() -> None:
    image = np.random.default_rng(0).normal(500, 5, (6, 40, 40)).astype(np.float32)
    corrected = correct_bias_field(image, N4Config(iterations=(5,)))
    assert corrected.mean() == pytest.approx(500, rel=0.05)


# Where things are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(3.0, 0.5, 0.5), (3.0, 0.4, 0.7), (1.25, 1.3, 0.9)])
@pytest.mark.parametrize("shape", [(3, 96, 96), (3, 97, 80), (4, 60, 111)])
def test_a_landmark_is_at_the_same_millimetres_from_the_centre(
    tmp_path: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    down, right = 6.3, -9.1  # mm from the image's centre
    slices, rows, columns = shape
    y = (np.arange(rows) - (rows - 1) / 2) * spacing[1]
    x = (np.arange(columns) - (columns - 1) / 2) * spacing[2]
    blob = 1000 * np.exp(-((y[:, None] - down) ** 2 + (x[None, :] - right) ** 2) / (2 * 2.0**2))
    site = SiteConfig(name="A", layout="nifti-pairs", images=tmp_path / "images", folder=tmp_path / "private")
    write(site.images / "P.nii.gz", np.repeat(blob[None], slices, 0).astype(np.float32), spacing)
    write(site.images / "P_segmentation.nii.gz", np.repeat((blob > 500)[None], slices, 0).astype(np.uint8), spacing)
    study = NO_N4.model_copy(update={"pixels": 64, "spacing_mm": 0.8, "minimum_mask_pixels": 1})
    (record,) = prepare(site, study).records
    prepared = load(record)
    positions = (np.arange(64) - 31.5) * 0.8
    for axis, expected in ((1, down), (0, right)):
        image, mask = prepared.image[1], prepared.mask[1]
        assert image.sum(axis) @ positions / image.sum() == pytest.approx(expected, abs=0.05)
        # An outline is rounded to pixels twice, on the native grid and on this one.
        assert mask.sum(axis) @ positions / mask.sum() == pytest.approx(expected, abs=0.6)
    assert prepared.native_spacing == pytest.approx(spacing)


@pytest.mark.parametrize("spacing", [(3.0, 0.5, 0.5), (3.0, 0.4, 0.7), (1.25, 1.3, 0.9)])
@pytest.mark.parametrize("rows", [90, 91])
def test_a_disc_comes_back_to_the_native_grid_where_it_was(
    tmp_path: Path, rows: int, spacing: tuple[float, float, float]
) -> None:
    y = (np.arange(rows) - (rows - 1) / 2) * spacing[1] - 3.0
    x = (np.arange(84) - 83 / 2) * spacing[2] + 2.0
    radius = 11.0
    distance = np.hypot(y[:, None], x[None, :])
    disc = np.repeat((distance <= radius)[None], 3, 0)
    site = SiteConfig(name="A", layout="nifti-pairs", images=tmp_path / "images", folder=tmp_path / "private")
    write(site.images / "P.nii.gz", (disc * 100 + np.arange(3)[:, None, None]).astype(np.float32), spacing)
    write(site.images / "P_segmentation.nii.gz", disc.astype(np.uint8), spacing)
    (record,) = prepare(site, NO_N4.model_copy(update={"pixels": 64})).records
    prepared = load(record)
    back = to_native(prepared.mask.astype(np.float32), prepared)
    assert back.shape == disc.shape and back.dtype == np.float32
    wrong = (back > 0.5) != disc
    # Two roundings of half a pixel, one on either grid, may move the outline by so much and no more.
    leeway = 0.5 * np.hypot(1.0, 1.0) + 0.5 * np.hypot(*spacing[1:])
    assert np.abs(distance[np.nonzero(wrong[1])] - radius).max(initial=0.0) < leeway
    areas = np.count_nonzero(back[1] > 0.5), np.count_nonzero(disc[1])
    assert areas[0] == pytest.approx(areas[1], rel=0.04)


def test_beyond_the_image_and_beyond_the_grid_there_is_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path, 1)  # 20 mm x 30 mm
    (record,) = prepare(site, NO_N4).records
    prepared = load(record)  # 32 mm x 32 mm
    assert not prepared.image[:, :6].any() and not prepared.image[:, -6:].any()
    assert prepared.image[:, 10:22, 10:22].min() > 200
    (record,) = prepare(site, NO_N4.model_copy(update={"spacing_mm": 0.5})).records  # 16 mm x 16 mm
    back = to_native(np.ones((5, 32, 32), np.float32), load(record))
    assert back[:, 20, 20].min() == pytest.approx(1.0)
    assert not back[:, :4].any() and not back[:, -4:].any() and not back[:, :, :9].any()


def test_detail_finer_than_the_grid_is_averaged_and_not_aliased(tmp_path: Path) -> None:
    stripes = np.zeros((3, 128, 128), np.float32)
    stripes[:, :, ::2] = 100.0
    mask = np.zeros(stripes.shape, np.uint8)
    mask[:, 40:80, 40:80] = 1
    site = SiteConfig(name="A", layout="nifti-pairs", images=tmp_path / "images", folder=tmp_path / "private")
    write(site.images / "P.nii.gz", stripes, (3.0, 0.3, 0.3))
    write(site.images / "P_segmentation.nii.gz", mask, (3.0, 0.3, 0.3))
    (record,) = prepare(site, NO_N4).records
    inner = load(record).image[:, 2:-2, 2:-2]
    assert inner.min() > 40 and inner.max() < 60


def test_slices_are_selected_by_more_than_the_threshold_on_the_native_grid(tmp_path: Path) -> None:
    site = make_site(tmp_path, 1)  # masks of 0, 16, 25, 100, 100 pixels
    for threshold, selected, below in ((24, [2, 3, 4], 1), (25, [3, 4], 2), (15, [1, 2, 3, 4], 0)):
        (record,) = prepare(site, NO_N4.model_copy(update={"minimum_mask_pixels": threshold})).records
        prepared = load(record)
        assert np.flatnonzero(prepared.selected).tolist() == selected
        assert (record.slices, record.selected, record.below) == (5, len(selected), below)
        assert np.count_nonzero(prepared.native_mask, axis=(1, 2)).tolist() == [0, 16, 25, 100, 100]


# Nothing twice -------------------------------------------------------------------------------------------------


def test_a_second_run_does_no_n4_and_reads_no_patient(
    tmp_path: Path, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path)
    first = prepare(site, QUICK)
    assert (count(), first.total, first.done, first.left_out) == (3, 3, 3, 0)

    def never(*_: Any) -> Any:
        raise AssertionError("files were looked into again")

    monkeypatch.setattr(layouts, "read", never)
    monkeypatch.setattr(layouts, "find", never)
    monkeypatch.setattr(hashlib, "file_digest", never)
    assert prepare(site, QUICK) == first
    assert count() == 0


def test_a_changed_mask_or_grid_does_no_n4(tmp_path: Path, count: Callable[[], int]) -> None:
    site = make_site(tmp_path)
    first = prepare(site, QUICK)
    count()
    write_mask(site.images, "Case01", (10, 10, 10, 10, 10))
    second = prepare(site, QUICK)
    assert count() == 0
    assert [record.selected for record in second.records] == [3, 5, 3]
    assert second.records[0] == first.records[0] and second.records[1].digest != first.records[1].digest
    assert second.records[1].image_digest == first.records[1].image_digest
    assert prepare(site, QUICK.model_copy(update={"standardise": "volume"})) == second
    wider = prepare(site, QUICK.model_copy(update={"pixels": 64}))
    assert count() == 0
    assert load(wider.records[0]).image.shape == (5, 64, 64)


def test_a_changed_image_makes_that_patient_again_and_no_other(tmp_path: Path, count: Callable[[], int]) -> None:
    site = make_site(tmp_path)
    first = prepare(site, QUICK)
    count()
    write_patient(site.images, "Case01", seed=77)
    second = prepare(site, QUICK)
    assert count() == 1
    assert [old == new for old, new in zip(first.records, second.records, strict=True)] == [True, False, True]
    assert second.records[1].image_digest != first.records[1].image_digest


def test_a_changed_parameter_of_n4_makes_all_again_unless_n4_is_off(tmp_path: Path, count: Callable[[], int]) -> None:
    site = make_site(tmp_path)
    prepare(site, QUICK)
    count()
    first = prepare(site, QUICK.model_copy(update={"n4": N4Config(iterations=(3,))}))
    assert count() == 3
    off = prepare(site, NO_N4)
    assert off.records[0].digest != first.records[0].digest
    assert prepare(site, NO_N4.model_copy(update={"n4": N4Config(enabled=False, shrink=2)})) == off
    assert count() == 0


def test_a_patient_added_or_renamed_costs_just_that(tmp_path: Path, count: Callable[[], int]) -> None:
    site = make_site(tmp_path)
    prepare(site, QUICK)
    count()
    write_patient(site.images, "Case09", seed=9)
    assert [record.patient for record in prepare(site, QUICK).records] == ["Case00", "Case01", "Case02", "Case09"]
    assert count() == 1
    for end in (".nii.gz", "_segmentation.nii.gz"):
        (site.images / f"Case00{end}").rename(site.images / f"Zoe{end}")
    assert [record.patient for record in prepare(site, QUICK).records] == ["Case01", "Case02", "Case09", "Zoe"]
    assert count() == 0


@pytest.mark.parametrize("damage", ["cut short", "emptied", "removed"])
def test_a_damaged_file_of_the_cache_is_made_again(tmp_path: Path, count: Callable[[], int], damage: str) -> None:
    site = make_site(tmp_path)
    first = prepare(site, QUICK)
    before = load(first.records[1])
    count()

    def spoil(path: Path) -> None:
        content = path.read_bytes()
        path.unlink()
        if damage != "removed":
            path.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"")

    spoil(first.records[1].path)
    assert prepare(site, QUICK) == first
    assert count() == 0
    np.testing.assert_array_equal(load(first.records[1]).image, before.image)
    for path in [first.records[1].path, *(site.folder / "cache" / "corrected").iterdir()]:
        spoil(path)
    assert prepare(site, QUICK) == first
    assert count() == 1
    np.testing.assert_array_equal(load(first.records[1]).image, before.image)
    (site.folder / "cache" / "index.json").write_text("{", encoding="utf-8")
    assert prepare(site, QUICK) == first


def test_a_byte_gone_wrong_is_noticed_when_a_patient_is_read(tmp_path: Path) -> None:
    site = make_site(tmp_path, 1)
    (record,) = prepare(site, NO_N4).records
    content = bytearray(record.path.read_bytes())
    content[-5000] ^= 1
    record.path.write_bytes(content)
    with pytest.raises(RelayError, match="damaged"):
        load(record)
    assert prepare(site, NO_N4).records == (record,)
    assert load(record).selected.sum() == 3


def test_how_many_volumes_run_side_by_side_changes_no_bit(tmp_path: Path) -> None:
    one, two = (make_site(tmp_path, name=name) for name in "AB")
    first, second = prepare(one, QUICK, cores=1), prepare(two, QUICK, cores=3)
    for a, b in zip(first.records, second.records, strict=True):
        assert a.path != b.path
        np.testing.assert_array_equal(load(a).image, load(b).image)
        assert a.digest == b.digest


def test_two_runs_at_once_share_the_work(tmp_path: Path, count: Callable[[], int]) -> None:
    site = make_site(tmp_path, 4)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda cores: prepare(site, QUICK, cores=cores), (1, 2))
    assert first == second
    assert count() == 4


def test_problems_are_looked_into_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path)
    (site.images / "Case00_segmentation.nii.gz").unlink()
    looks: list[int] = []
    find = layouts.find

    def counted(home: SiteConfig) -> layouts.Found:
        looks.append(1)
        return find(home)

    monkeypatch.setattr(layouts, "find", counted)
    prepare(site, NO_N4)
    prepare(site, NO_N4)
    assert len(looks) == 1
    monkeypatch.setattr(inventory, "PROBLEMS_HOLD", 0.0)
    assert prepare(site, NO_N4).left_out == 1
    assert len(looks) == 2


def test_thirty_patients_that_are_ready_take_next_to_no_time(tmp_path: Path) -> None:
    site = make_site(tmp_path, 30)
    first = prepare(site, NO_N4)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert prepare(site, NO_N4) == first
        took.append(time.perf_counter() - began)
    assert min(took) < 0.3


# A little at a time --------------------------------------------------------------------------------------------


def test_a_call_without_time_still_does_one_batch_and_the_next_goes_on(tmp_path: Path) -> None:
    site = make_site(tmp_path, 5)
    whole = prepare(make_site(tmp_path, 5, name="B"), NO_N4)
    seen: list[tuple[int, int]] = []
    steps = [prepare(site, NO_N4, seconds=0, cores=2, progress=lambda *at: seen.append(at)) for _ in range(4)]
    assert [(step.done, step.total) for step in steps] == [(2, 5), (4, 5), (5, 5), (5, 5)]
    assert seen == [(0, 5), (1, 5), (2, 5), (2, 5), (3, 5), (4, 5), (4, 5), (5, 5), (5, 5)]
    assert [record.digest for record in steps[-1].records] == [record.digest for record in whole.records]


# Bad patients --------------------------------------------------------------------------------------------------


def spoiled_site(folder: Path, **keys: Any) -> SiteConfig:
    site = make_site(folder, 7, **keys)
    (site.images / "Case00_segmentation.nii.gz").unlink()
    write(site.images / "Case01.nii.gz", np.zeros((5, 40, 40), np.int16))
    write_mask(site.images, "Case02", (2, 2, 2, 2, 2))
    shutil.copy(site.images / "Case03.nii.gz", site.images / "Case04.nii.gz")
    (site.images / "Case05.nii.gz").write_bytes(b"this is no volume")
    return site


def test_bad_patients_are_left_out_counted_and_named_in_the_sites_own_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site = spoiled_site(tmp_path)
    for _ in range(2):  # the second time from the cache
        made = prepare(site, NO_N4)
        assert [record.patient for record in made.records] == ["Case03", "Case06"]
        assert (made.total, made.done, made.left_out) == (7, 7, 5)
        lines = log_of(site)
        assert len(lines) == 5
        for name, words in zip(
            ("Case00", "Case01", "Case02", "Case04", "Case05"),
            ("no mask", "same value", "more than 20 pixels", "same image as Case03", "cannot be read"),
            strict=True,
        ):
            assert any(name in line and words in line for line in lines), name
    assert stat.S_IMODE((site.folder / "site.log").stat().st_mode) == 0o600
    shown = capfd.readouterr()
    assert shown.out == "" and "Case" not in shown.err


def test_a_patient_put_right_is_taken_in_again(tmp_path: Path) -> None:
    site = spoiled_site(tmp_path)
    prepare(site, NO_N4)
    write_patient(site.images, "Case01", seed=50)
    write_mask(site.images, "Case00", (9, 9, 9, 9, 9))
    made = prepare(site, NO_N4)
    assert [record.patient for record in made.records] == ["Case00", "Case01", "Case03", "Case06"]
    assert made.left_out == 3
    assert len(log_of(site)) == 5


def test_a_site_may_ask_to_stop_at_a_bad_patient(tmp_path: Path) -> None:
    site = make_site(tmp_path, 3, bad_patients="stop")
    write(site.images / "Case01.nii.gz", np.zeros((5, 40, 40), np.int16))
    with pytest.raises(RelayError, match="Case01.*same value"):
        prepare(site, NO_N4)
    write_patient(site.images, "Case01", seed=1, sides=(1, 1, 1, 1))
    with pytest.raises(RelayError, match="Case01.*more than 20 pixels"):
        prepare(site, NO_N4)
    write_patient(site.images, "Case01", seed=1)
    assert len(prepare(site, NO_N4).records) == 3


def test_a_site_without_a_usable_patient_is_an_error(tmp_path: Path) -> None:
    site = make_site(tmp_path, 2)
    with pytest.raises(RelayError, match="Site A has no usable patient: all 2 .*site.log"):
        prepare(site, NO_N4.model_copy(update={"minimum_mask_pixels": 5000}))


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the system then refuses to write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_sentence_and_nothing_half_written(tmp_path: Path, count: Callable[[], int]) -> None:
    site = make_site(tmp_path, 3)
    prepare(site, QUICK, seconds=0, cores=1)
    assert count() == 1
    with small_disk(20_000), pytest.raises(RelayError) as caught:
        prepare(site, QUICK, cores=1)
    assert str(site.folder) in str(caught.value) and "full" in str(caught.value)
    left = [path for path in (site.folder / "cache").rglob("*") if path.name.startswith(".part")]
    assert left == []
    count()
    assert len(prepare(site, QUICK).records) == 3
    assert count() == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_at_the_last_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    site = make_site(tmp_path, 1)

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(RelayError, match="full"):
            prepare(site, NO_N4)
    assert [path for path in site.folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert len(prepare(site, NO_N4).records) == 1


# Pooled --------------------------------------------------------------------------------------------------------


def write_site_file(site: SiteConfig, folder: Path) -> Path:
    path = folder / f"{site.name}.toml"
    path.write_text(
        f'name = "{site.name}"\nlayout = "nifti-pairs"\nimages = "{site.images.name}"\nfolder = "{site.folder.name}"\n',
        encoding="utf-8",
    )
    return path


def pooled_site(folder: Path, *members: SiteConfig) -> SiteConfig:
    files = [write_site_file(site, folder).name for site in members]
    path = folder / "pooled.toml"
    path.write_text(
        f'name = "pooled"\nmembers = {files}\nfolder = "private-pooled"\n'.replace("'", '"'), encoding="utf-8"
    )
    return load_site(path)


def test_pooled_patients_are_their_members_own_and_nothing_is_done_twice(
    tmp_path: Path, count: Callable[[], int]
) -> None:
    a, b = make_site(tmp_path, 2, name="A"), make_site(tmp_path, 3, name="B", seed=10)
    (b.images / "Case02_segmentation.nii.gz").unlink()
    own = {site.name: prepare(site, QUICK) for site in (a, b)}
    assert count() == 4
    pooled = prepare(pooled_site(tmp_path, a, b), QUICK)
    assert count() == 0
    assert [record.patient for record in pooled.records] == ["A/Case00", "A/Case01", "B/Case00", "B/Case01"]
    assert [record.site for record in pooled.records] == ["A", "A", "B", "B"]
    assert [record.path for record in pooled.records] == [r.path for name in "AB" for r in own[name].records]
    assert (pooled.total, pooled.done, pooled.left_out) == (5, 5, 1)


def test_one_patient_at_two_members_is_refused_whatever_its_file_is(tmp_path: Path) -> None:
    a, b = make_site(tmp_path, 2, name="A"), make_site(tmp_path, 2, name="B", seed=10)
    # Written anew, with another mask and another header: the same voxels all the same.
    image = sitk.ReadImage(str(a.images / "Case01.nii.gz"))
    image.SetOrigin((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(b.images / "Case00.nii"))
    (b.images / "Case00.nii.gz").unlink()
    mask = sitk.ReadImage(str(b.images / "Case00_segmentation.nii.gz"))
    mask.SetOrigin((1.0, 2.0, 3.0))
    sitk.WriteImage(mask, str(b.images / "Case00_segmentation.nii.gz"))
    with pytest.raises(RelayError, match="A and B hold the same patient") as caught:
        prepare(pooled_site(tmp_path, a, b), NO_N4)
    assert "Case" not in str(caught.value)
    assert any("left out: Case00: " in line and "A/Case01" in line for line in log_of(b))


# What may be told of the data ----------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_patients_data_and_key_alone(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    records = prepare(site, NO_N4).records
    key = site_key(site)
    print_ = fingerprint(records, key)
    assert len(print_) == 64 and int(print_, 16) >= 0
    assert fingerprint(tuple(reversed(records)), key) == print_
    assert fingerprint(records[:2], key) != print_
    assert fingerprint(records, bytes(32)) != print_
    write_mask(site.images, "Case01", (10, 10, 10, 10, 10))
    assert fingerprint(prepare(site, NO_N4).records, key) != print_


def test_the_sites_key_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    site, other = make_site(tmp_path, 1), make_site(tmp_path, 1, name="B")
    key = site_key(site)
    assert len(key) == 32 and site_key(site) == key and site_key(other) != key
    assert stat.S_IMODE((site.folder / "site.key").stat().st_mode) == 0o600
    assert [path.name for path in site.folder.iterdir()] == ["site.key"]
    (site.folder / "site.key").write_bytes(key[:10])
    with pytest.raises(RelayError, match="damaged"):
        site_key(site)


# Real data -----------------------------------------------------------------------------------------------------


def test_a_real_series_is_prepared(tmp_path: Path) -> None:
    if not (REAL / "prostate3t").is_dir():
        pytest.skip(f"no real series in {REAL}")
    images, masks = REAL / "prostate3t" / "Prostate3T-03-0002", tmp_path / "masks"
    masks.mkdir()
    name = "Prostate3T-03-0002_truth_pred.nrrd"
    (masks / name).symlink_to(REAL / "nci_isbi_predicted" / "Prostate3T" / name)
    site = SiteConfig(name="A", layout="nci-isbi", images=images, masks=masks, folder=tmp_path / "private")
    study = PreprocessingConfig(n4=N4Config(iterations=(4, 2)))
    began = time.perf_counter()
    (record,) = prepare(site, study, cores=1).records
    print(f"one series prepared in {time.perf_counter() - began:.1f} s")
    prepared = load(record)
    assert prepared.image.shape == (21, 256, 256) and prepared.native_mask.shape == (21, 384, 384)
    assert prepared.native_spacing == pytest.approx((3.0, 0.5, 0.5))
    assert record.selected == 16
    native = np.count_nonzero(prepared.native_mask) * 0.5**2
    assert np.count_nonzero(prepared.mask) * 0.625**2 == pytest.approx(native, rel=0.01)
    back = to_native(prepared.mask.astype(np.float32), prepared) > 0.5
    both = np.count_nonzero(back & prepared.native_mask)
    assert 2 * both / (np.count_nonzero(back) + np.count_nonzero(prepared.native_mask)) > 0.99
    # The field of view is 192 mm, the grid's 160: there is image everywhere.
    assert np.isfinite(prepared.image).all() and (prepared.image.mean(axis=(1, 2)) > 20).all()


def test_a_bad_patient_is_not_read_again_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = spoiled_site(tmp_path)
    first = prepare(site, NO_N4)
    assert first.left_out > 0
    monkeypatch.setattr(layouts, "read", lambda source: pytest.fail(f"{source.patient} was read again"))
    assert prepare(site, NO_N4) == first


@pytest.mark.parametrize("damage", ["files", "found", "sources"])
def test_an_index_of_a_wrong_shape_is_as_none(tmp_path: Path, damage: str) -> None:
    site = make_site(tmp_path, 2)
    made = prepare(site, NO_N4)
    index = site.folder / "cache" / "index.json"
    content = json.loads(index.read_bytes())
    (content["found"] if damage == "sources" else content)[damage] = [3]
    index.write_text(json.dumps(content), encoding="utf-8")
    assert prepare(site, NO_N4) == made


# Too little memory ---------------------------------------------------------------------------------------------

SHORT = "itkImportImageContainer.hxx:179:\nFailed to allocate memory for image."


def short_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, said: str) -> None:
    """The next call fails as ITK does, and those after it do not."""
    whole, fails = getattr(owner, name), [RuntimeError(said)]

    def call(*args: Any, **more: Any) -> Any:
        if fails:
            raise fails.pop()
        return whole(*args, **more)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        (pipeline, "correct_bias_field", SHORT),
        (sitk.ImageFileReader, "Execute", SHORT),
        (sitk.ImageFileReader, "Execute", "std::bad_alloc"),
        (sitk, "DICOMOrient", SHORT),
        (sitk, "Resample", SHORT),
    ],
)
def test_a_shortage_of_memory_leaves_no_patient_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, said: str
) -> None:
    site = make_site(tmp_path, 2)
    short_once(monkeypatch, owner, name, said)
    with pytest.raises(MemoryError):
        prepare(site, QUICK, cores=1)
    made = prepare(site, QUICK, cores=1)
    assert len(made.records) == 2 and made.left_out == 0 and log_of(site) == []


def test_a_reader_that_does_not_say_that_memory_was_short_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path, 2)
    short_once(monkeypatch, sitk.ImageFileReader, "Execute", "nifti_image_load failed for file")
    monkeypatch.setattr(size.np, "empty", lambda *_: bytearray(1 << 62))
    with pytest.raises(MemoryError):
        prepare(site, NO_N4, cores=1)
    monkeypatch.undo()
    assert prepare(site, NO_N4, cores=1).left_out == 0


def of_an_earlier_reader(path: Path, *, spoil: bool = False) -> None:
    """Leave out what earlier versions did not write; with `spoil`, voxels that were read otherwise."""
    arrays, metadata = cache.read_tensors(path) or ({}, {})
    left = {name: value for name, value in metadata.items() if name not in ("reader", "crc32")}
    if path.parent.name == "corrected":
        left.pop("voxels")
    if spoil:
        arrays["image"] = arrays["image"] + 1
        left |= {"voxels": "0" * 64} if "voxels" in left else {}
    cache.write_tensors(path, arrays, left)


@pytest.mark.parametrize("spoil", [False, True])
def test_what_an_earlier_reader_prepared_is_read_once_more_and_corrected_again_where_it_differed(
    tmp_path: Path, count: Callable[[], int], spoil: bool
) -> None:
    site = make_site(tmp_path)
    first = prepare(site, QUICK)
    images = [load(record).image for record in first.records]
    count()
    for path in (site.folder / "cache" / "slices").glob("*.safetensors"):
        of_an_earlier_reader(path, spoil=spoil and path == first.records[1].path)
    for path in (site.folder / "cache" / "corrected").glob("*.safetensors"):
        of_an_earlier_reader(path)
    again = prepare(site, QUICK)
    assert count() == int(spoil)
    assert again == first
    for record, image in zip(again.records, images, strict=True):
        np.testing.assert_array_equal(load(record).image, image)
    assert prepare(site, QUICK) == first and count() == 0


def test_a_mask_that_an_earlier_reader_took_is_refused_though_it_was_prepared(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    first = prepare(site, QUICK)
    soft = sitk.ReadImage(str(site.images / "Case01_segmentation.nii.gz"), sitk.sitkFloat32) * 0.4
    sitk.WriteImage(soft, str(site.images / "Case01_segmentation.nii.gz"))
    (task,) = [task for task in tasks_of(site, QUICK, "")[0] if task.name == "Case01"]
    task.slices.write_bytes(first.records[1].path.read_bytes())  # as an earlier version made it from this mask
    of_an_earlier_reader(task.slices)
    assert [record.patient for record in prepare(site, QUICK).records] == ["Case00", "Case02"]
    assert any("between whole numbers" in line for line in log_of(site))

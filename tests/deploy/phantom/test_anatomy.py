"""Promises of synthetic hospitals with real anatomy, checked on their files with plain SimpleITK and numpy."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.data import layouts
from client.data_check import check
from client.site_config import load_site
from common.errors import RelayError
from deploy.phantom import REAL_SHAPES, write_hospitals
from tests.support.hospitals import REAL_DATA

Labels = NDArray[np.uint8]

REAL = REAL_DATA / "nci_isbi_masks"
needs_masks = pytest.mark.skipif(not REAL.is_dir(), reason="the expert masks of NCI-ISBI 2013 are not on this machine")
STRAIGHT = np.eye(3)
FORMATS = (".nrrd", ".nii.gz", ".mha", ".mhd")


def ball(
    *, slices: int = 9, side: int = 64, centre: Sequence[float] | None = None, radius: Sequence[float] = (3.2, 13, 17)
) -> Labels:
    """An egg with a central gland (2) inside its peripheral zone (1): (slices, side, side)."""
    middle = centre or (slices // 2, side / 2, side / 2)
    away = [(axis - m) / r for axis, m, r in zip(np.ogrid[:slices, :side, :side], middle, radius, strict=True)]
    whole = sum(part**2 for part in away) < 1
    inner = away[0] ** 2 + ((away[1] + 0.25) ** 2 + away[2] ** 2) / 0.4 < 1
    return np.where(whole & inner, 2, np.where(whole, 1, 0)).astype(np.uint8)


def write_mask(
    path: Path,
    labels: NDArray[np.generic],
    *,
    spacing: Sequence[float] = (3.0, 1.25, 1.25),
    turn: NDArray[np.float64] = STRAIGHT,
    axes: Sequence[int] = (0, 1, 2),
    signs: Sequence[int] = (1, 1, 1),
) -> None:
    """Write labels (z, y, x in LPS order, of spacing z, y, x) so that stored axis k is LPS axis axes[k], mirrored
    where signs[k] is -1."""
    step, origin = np.array(spacing[::-1]), np.array([-31.5, 12.25, -60.0])
    size = np.array(labels.shape[::-1])
    stored = np.asarray(labels).transpose(2, 1, 0).transpose(axes)  # x, y, z; then as they are stored
    direction = np.zeros((3, 3))
    for k, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        direction[:, k] = sign * turn[:, axis]
        if sign < 0:
            stored = np.flip(stored, k)
            origin = origin + turn[:, axis] * step[axis] * (size[axis] - 1)
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.transpose(2, 1, 0)))
    image.SetSpacing([float(step[axis]) for axis in axes])
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def read_series(folder: Path) -> sitk.Image:
    (series,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series))


def written(hospitals: Path, site: str) -> list[tuple[sitk.Image, sitk.Image]]:
    """T2 volume and label volume of a site's patients, in the order of their numbers."""
    if site == "C":
        order = {f"Patient {number}": k for k, number in enumerate((1036, 1041, 387, 410, 416, 430, 513, 634))}
        folders = sorted((hospitals / "C").iterdir(), key=lambda folder: order[folder.name])
        return [(read_series(folder / "T2W"), read_series(folder / "GT" / "prostate")) for folder in folders]
    pairs = []
    for folder in sorted((hospitals / site / ("Prostate-3T" if site == "A" else "PROSTATE-DIAGNOSIS")).iterdir()):
        (label,) = (hospitals / site / "labels").glob(f"{folder.name}*.nrrd")
        volumes = [read_series(series) for study in folder.iterdir() for series in study.iterdir()]
        (axial,) = [volume for volume in volumes if abs(volume.GetDirection()[8]) > 0.7]
        pairs.append((axial, sitk.ReadImage(str(label))))
    return pairs


def array(image: sitk.Image) -> NDArray[np.generic]:
    return np.asarray(sitk.GetArrayFromImage(image))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def usable(hospitals: Path, site: str) -> list[tuple[NDArray[np.bool_], tuple[float, float, float]]]:
    """Mask and spacing of every patient, as the reader chain gives them; none may be left out."""
    found = layouts.find(load_site(hospitals / f"site-{site.lower()}.toml"))
    assert not found.problems
    cases = [layouts.read(source) for source in found.sources]
    return [(case.mask, case.spacing) for case in cases]


# -- the expert masks ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "hospitals"
    write_hospitals(
        folder,
        patients={"A": 30, "B": 30},
        anatomy={"A": REAL / "Prostate-3T", "B": REAL / "PROSTATE-DIAGNOSIS"},
    )
    return folder


@pytest.mark.slow
@needs_masks
@pytest.mark.parametrize(("site", "masks"), [("A", "Prostate-3T"), ("B", "PROSTATE-DIAGNOSIS")])
def test_a_real_gland_keeps_its_grid_and_its_label_voxel_by_voxel(real: Path, site: str, masks: str) -> None:
    experts = [sitk.ReadImage(str(path)) for path in sorted((REAL / masks).glob("*.nrrd"))]
    patients = written(real, site)
    assert len(experts) == len(patients) == 30
    for expert, (image, label) in zip(experts, patients, strict=True):
        np.testing.assert_array_equal(array(label), array(expert))
        for volume in (image, label):
            assert volume.GetSize() == expert.GetSize()
            assert volume.GetSpacing() == pytest.approx(expert.GetSpacing(), rel=1e-6)
            assert volume.GetOrigin() == pytest.approx(expert.GetOrigin(), abs=1e-4)
            assert volume.GetDirection() == pytest.approx(expert.GetDirection(), abs=1e-6)


@pytest.mark.slow
@needs_masks
@pytest.mark.parametrize(("site", "slices"), [("A", 421), ("B", 384)])
def test_the_readers_find_as_many_slices_over_200_pixels_as_in_the_expert_masks(
    real: Path, site: str, slices: int
) -> None:
    checkup = check(load_site(real / f"site-{site.lower()}.toml"))
    assert len(checkup.patients) == 30 and not checkup.problems and not checkup.duplicates
    assert sum(patient.slices for patient in checkup.patients) == slices


@pytest.mark.slow
@needs_masks
def test_the_rectum_lies_right_behind_every_real_gland(real: Path) -> None:
    """Gas, stool, the balloon or the rectum's wall are dark: within 9 mm behind the gland's middle it gets so."""
    for site in "AB":
        for image, label in written(real, site):
            pixels, gland = array(image).astype(float), array(label) > 0
            index = int(np.argmax(gland.sum(axis=(1, 2))))
            columns = np.flatnonzero(gland[index].any(axis=0))
            middle = int(columns[0] + columns[-1]) // 2
            back = int(np.flatnonzero(gland[index][:, middle])[-1])
            reach = round(9 / image.GetSpacing()[1])
            behind = pixels[index, back + 2 : back + 2 + reach, middle - 3 : middle + 4].mean(axis=1)
            assert behind.min() < 0.75 * np.median(pixels[index][gland[index]])


# -- masks made here -------------------------------------------------------------------------------


TILT = np.array([[1, 0, 0], [0, np.cos(0.3), np.sin(0.3)], [0, -np.sin(0.3), np.cos(0.3)]])
ODD: dict[str, Labels] = {
    "at the border": ball(centre=(0, 2, 60)),
    "everywhere": np.ones((4, 40, 40), np.uint8),
    "no central gland": np.minimum(ball(), 1),
    "no peripheral zone": np.where(ball() > 0, 2, 0).astype(np.uint8),
    "one slice": np.where(np.arange(9)[:, None, None] == 4, ball(), 0).astype(np.uint8),
    "one voxel": np.pad(np.full((1, 1, 1), 2, np.uint8), ((2, 2), (20, 20), (20, 20))),
    "two parts": np.maximum(ball(centre=(4, 20, 14), radius=(3, 7, 8)), ball(centre=(4, 40, 48), radius=(3, 8, 9))),
    "with a gap": np.where(np.arange(9)[:, None, None] == 4, 0, ball()).astype(np.uint8),
}


@pytest.mark.parametrize("site", ["A", "B", "C"])
def test_odd_glands_are_written_and_read_like_any_other(site: str, tmp_path: Path) -> None:
    for name, labels in ODD.items():
        write_mask(tmp_path / "masks" / f"{name}.nrrd", labels, turn=TILT)
    write_hospitals(tmp_path / "out", patients={site: len(ODD)}, anatomy={site: tmp_path / "masks"})
    for (name, labels), (image, label) in zip(sorted(ODD.items()), written(tmp_path / "out", site), strict=True):
        found = array(label)
        np.testing.assert_array_equal(found > 0 if site == "C" else found, labels > 0 if site == "C" else labels, name)
        assert image.GetSize() == labels.shape[::-1], name
        assert image.GetSpacing() == pytest.approx((1.25, 1.25, 3.0), rel=1e-6), name
        assert np.array(image.GetDirection()).reshape(3, 3) == pytest.approx(TILT, abs=1e-6), name
    read = usable(tmp_path / "out", site)
    assert sorted(mask.sum() for mask, _ in read) == sorted((labels > 0).sum() for labels in ODD.values())
    assert all(spacing == pytest.approx((3.0, 1.25, 1.25), rel=1e-4) for _, spacing in read)


@settings(max_examples=20, deadline=None)
@given(
    axes=st.sampled_from(list(itertools.permutations(range(3)))),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
    ending=st.sampled_from(FORMATS),
    number=st.sampled_from([np.uint8, np.int16, np.float32]),
    spacing=st.tuples(st.floats(2.0, 5.0), st.floats(0.3, 1.2), st.floats(0.3, 1.2)),
    seed=st.integers(0, 2**31),
)
def test_a_mask_is_the_same_however_its_file_keeps_it(
    axes: tuple[int, ...],
    signs: tuple[int, ...],
    ending: str,
    number: type[np.generic],
    spacing: tuple[float, float, float],
    seed: int,
) -> None:
    """Any order and direction of axes, any format and number type, voxels strewn at random."""
    random = np.random.default_rng(seed)
    labels = np.where(random.random((4, 33, 37)) < random.choice([0.001, 0.3, 0.9]), random.integers(1, 3), 0)
    labels[1, 20, 30] = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "masks" / f"one{ending}"
        write_mask(path, labels.astype(number), spacing=spacing, axes=axes, signs=signs)
        write_hospitals(folder / "out", patients={"B": 1}, anatomy={"B": folder / "masks"})
        ((image, label),) = written(folder / "out", "B")
    np.testing.assert_array_equal(array(label), labels)
    assert image.GetSize() == (37, 33, 4)
    assert image.GetSpacing() == pytest.approx(spacing[::-1], rel=1e-5)
    assert image.GetOrigin() == pytest.approx((-31.5, 12.25, -60.0), abs=1e-3)


def one(folder: Path, labels: Labels, site: str = "A") -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Image and label of one patient with these labels."""
    write_mask(folder / "masks" / "one.nrrd", labels)
    write_hospitals(folder / "out", patients={site: 1}, anatomy={site: folder / "masks"})
    ((image, label),) = written(folder / "out", site)
    return array(image), array(label)


def test_a_slip_of_the_brush_stands_in_the_label_and_not_in_the_image(tmp_path: Path) -> None:
    clean = ball()
    slipped = clean.copy()
    slipped[4, 27:30, 30:33] = 0  # a hole in the central gland
    slipped[2, 5, 60] = 1  # a stray voxel
    image, label = one(tmp_path / "clean", clean)
    other_image, other_label = one(tmp_path / "slipped", slipped)
    np.testing.assert_array_equal(label, clean)
    np.testing.assert_array_equal(other_label, slipped)
    np.testing.assert_array_equal(other_image, image)


def test_a_gland_without_zones_is_shown_with_zones(tmp_path: Path) -> None:
    """In T2 the central gland is darker than what lies behind it; the label stays as it was."""
    labels = np.where(ball() > 0, 2, 0).astype(np.uint8)
    image, label = one(tmp_path, labels)
    np.testing.assert_array_equal(label, labels)
    rows = np.flatnonzero(labels[5, :, 32])
    front, back = image[5, rows[8] : rows[16], 24:40], image[5, rows[-4] : rows[-1], 24:40]
    assert np.median(front) < 0.75 * np.median(back)


def test_the_balloon_lies_in_the_hollow_of_a_gland_that_it_dents(tmp_path: Path) -> None:
    side, spacing = 128, 1.25
    gland = ball(side=side, radius=(3.2, 16, 24))
    y, x = np.mgrid[:side, :side]
    gland[:, np.hypot(y - side / 2 - 20, x - side / 2) < 15] = 0
    image, _ = one(tmp_path, gland, "B")
    back, horns = (int(np.flatnonzero(plane)[-1]) for plane in (gland[4, :, side // 2], gland[4].any(axis=1)))
    assert (horns - back) * spacing > 8
    behind = [back + round(mm / spacing) for mm in (6, 14)]
    column = image[4, behind[0] : behind[1], side // 2 - 2 : side // 2 + 3]
    assert column.max() < 0.5 * np.median(image[4][gland[4] > 0])


@pytest.mark.slow
def test_same_masks_same_bytes_whatever_they_are_called(tmp_path: Path) -> None:
    for name, ending in (("first", ".nrrd"), ("other", ".nii.gz")):
        write_mask(tmp_path / name / f"{name}1{ending}", ball())
        write_mask(tmp_path / name / f"{name}2{ending}", ball(radius=(2.5, 15, 15)))
        write_hospitals(tmp_path / f"{name}-out", patients={"A": 2, "B": 1}, anatomy={"A": tmp_path / name}, seed=2)
    assert digests(tmp_path / "first-out") == digests(tmp_path / "other-out")
    write_hospitals(tmp_path / "fewer", patients={"A": 1, "B": 1}, anatomy={"A": tmp_path / "first"}, seed=2)
    of_one = digests(tmp_path / "fewer")
    del of_one["phantom.json"]
    assert of_one.items() < digests(tmp_path / "first-out").items(), "one patient more changes no other"
    write_hospitals(tmp_path / "drawn", patients={"B": 1}, seed=2)
    assert digests(tmp_path / "drawn" / "B") == digests(tmp_path / "fewer" / "B"), "B has no masks"


def test_other_masks_are_other_hospitals(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    write_mask(masks / "one.nrrd", ball())
    write_hospitals(tmp_path / "out", patients={"A": 1}, anatomy={"A": masks})
    before = digests(tmp_path / "out")
    assert set(json.loads((tmp_path / "out" / "phantom.json").read_text())["anatomy"]) == {"A"}
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(masks).encode() not in path.read_bytes(), "the folder's path leaves this machine"
    calls: list[tuple[int, int]] = []
    write_hospitals(
        tmp_path / "out", patients={"A": 1}, anatomy={"A": masks}, progress=lambda *done: calls.append(done)
    )
    assert not calls, "what is there is not written again"
    write_mask(masks / "one.nrrd", ball(radius=(3.2, 13, 16)))
    with pytest.raises(RelayError, match="other synthetic hospitals"):
        write_hospitals(tmp_path / "out", patients={"A": 1}, anatomy={"A": masks})
    with pytest.raises(RelayError, match="other synthetic hospitals"):
        write_hospitals(tmp_path / "out", patients={"A": 1})
    write_mask(masks / "one.nrrd", ball(), spacing=(3.0, 1.25, 1.2))
    with pytest.raises(RelayError, match="other synthetic hospitals"):
        write_hospitals(tmp_path / "out", patients={"A": 1}, anatomy={"A": masks})
    assert digests(tmp_path / "out") == before


def test_files_with_real_glands_say_so(tmp_path: Path) -> None:
    write_mask(tmp_path / "masks" / "one.nrrd", ball())
    write_hospitals(tmp_path / "out", patients={"A": 1, "B": 1}, anatomy={"A": tmp_path / "masks"})
    assert "must handle the masks" in REAL_SHAPES and "CC BY 3.0" in REAL_SHAPES
    assert REAL_SHAPES in (tmp_path / "out" / "site-a.toml").read_text(encoding="utf-8")
    assert REAL_SHAPES not in (tmp_path / "out" / "site-b.toml").read_text(encoding="utf-8")
    for site, about in (("A", "Synthetic phantom of a real gland"), ("B", "Synthetic phantom")):
        for path in (tmp_path / "out" / site).rglob("*.dcm"):
            assert sitk.ReadImage(str(path)).GetMetaData("0008|1030").strip() == about


# -- what is refused -------------------------------------------------------------------------------


def cut(path: Path) -> None:
    write_mask(path, ball())
    path.write_bytes(path.read_bytes()[:-200])


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "another value": (lambda path: write_mask(path, ball() * 2), "holds the value 4"),
    "not whole": (lambda path: write_mask(path, ball() * np.float32(0.5)), "holds the value 0.5"),
    "no number": (lambda path: write_mask(path, np.where(ball() == 2, np.nan, 1.0)), "holds the value nan"),
    "empty": (lambda path: write_mask(path, ball() * 0), "is empty"),
    "sagittal": (lambda path: write_mask(path, ball(), spacing=(1.0, 1.0, 4.0)), "is not axial"),
    "two slices": (lambda path: write_mask(path, ball()[3:5]), "has 2 slices of 64 × 64 voxels"),
    "small": (lambda path: write_mask(path, ball()[:, 20:40, :]), "has 9 slices of 20 × 64 voxels"),
    "cut off": (cut, "cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mask_that_is_no_anatomy_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    write, told = WRONG[kind]
    write_mask(tmp_path / "masks" / "good.nrrd", ball())
    write(tmp_path / "masks" / "odd.nrrd")
    with pytest.raises(RelayError, match=told) as refused:
        write_hospitals(tmp_path / "out", patients={"A": 2}, anatomy={"A": tmp_path / "masks"})
    assert str(tmp_path / "masks" / "odd.nrrd") in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_no_gland_is_two_patients(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    write_mask(masks / "one.nrrd", ball())
    write_mask(masks / "below" / "two.nrrd", ball())
    (masks / "notes.txt").write_text("no mask", encoding="utf-8")
    for folder, patients, told in (
        (masks, {"A": 2}, "Hospital A shall have 2 patients, and .* number 1;"),
        (tmp_path / "none", {"A": 1}, "There is no folder"),
        (masks, {"B": 1}, "Hospital A has masks and no patients"),
    ):
        with pytest.raises(RelayError, match=told):
            write_hospitals(tmp_path / "out", patients=patients, anatomy={"A": folder})
    with pytest.raises(RelayError, match="same gland"):
        write_hospitals(tmp_path / "out", patients={"A": 1, "B": 1}, anatomy={"A": masks, "B": masks})
    write_mask(masks / "twin.mha", ball())
    with pytest.raises(RelayError, match="same gland, of .*one.nrrd and .*twin.mha"):
        write_hospitals(tmp_path / "out", patients={"A": 2}, anatomy={"A": masks})
    with pytest.raises(RelayError, match="no synthetic hospital 'D'"):
        write_hospitals(tmp_path / "out", patients={"A": 1}, anatomy={"D": masks})
    assert not (tmp_path / "out").exists()

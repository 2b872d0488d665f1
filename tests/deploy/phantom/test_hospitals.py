"""Promises of the synthetic hospitals, checked on their files alone with plain SimpleITK."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from common.errors import RelayError
from deploy.phantom import VERSION, write_hospitals

TWO_EACH = {"A": 2, "B": 2, "C": 2}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "hospitals"
    sites = write_hospitals(folder, patients=TWO_EACH, seed=3)
    assert sites == {site: folder / f"site-{site.lower()}.toml" for site in "ABC"}
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_series(folder: Path) -> sitk.Image:
    (series,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series))


def tag(path: Path, key: str) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return str(reader.GetMetaData(key)).strip()


def described(folder: Path, description: str) -> Path:
    """The one series folder below folder whose files carry this SeriesDescription."""
    (found,) = {path.parent for path in folder.rglob("*.dcm") if tag(path, "0008|103e") == description}
    return found


def patients(hospitals: Path) -> list[tuple[str, str, sitk.Image, sitk.Image]]:
    """Site, patient, T2 volume and mask volume, found by the real sets' own layouts."""
    cases = []
    for site, collection, series in (
        ("A", "Prostate-3T", "t2_tse_tra"), ("B", "PROSTATE-DIAGNOSIS", "T2W_TSE_AX"),
    ):  # fmt: skip
        for folder in sorted((hospitals / site / collection).iterdir()):
            (label,) = (hospitals / site / "labels").glob(f"{folder.name}*.nrrd")
            image = read_series(described(folder, series))
            cases.append((site, folder.name, image, sitk.ReadImage(str(label))))
    for folder in sorted((hospitals / "C").iterdir()):
        cases.append(("C", folder.name, read_series(folder / "T2W"), read_series(folder / "GT" / "prostate")))
    return cases


def array(image: sitk.Image) -> NDArray[np.float64]:
    return np.asarray(sitk.GetArrayFromImage(image), dtype=np.float64)


@pytest.mark.slow
def test_same_seed_same_bytes_and_another_seed_other_pixels(hospitals: Path, tmp_path: Path) -> None:
    write_hospitals(tmp_path / "again", patients=TWO_EACH, seed=3)
    assert digests(tmp_path / "again") == digests(hospitals)
    write_hospitals(tmp_path / "other", patients={"C": 1}, seed=4)
    name = "C/Patient 1036/T2W/0020.dcm"
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(hospitals / name)))
    other = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "other" / name)))
    assert not np.array_equal(ours, other)


# Seed 3, first patient: pixels of the middle slice, from row and column 60 on in steps of 60; voxels of gland.
PIXELS_OF_VERSION_1 = {
    "A": (
        [[74, 264, 352, 60, 78], [447, 487, 454, 44, 306],
         [84, 145, 257, 77, 250], [62, 461, 502, 489, 25], [102, 177, 114, 119, 73]],
        20258,
    ),
    "B": (
        [[62, 20, 43, 44, 65, 5], [35, 60, 32, 21, 74, 38], [5, 88, 122, 42, 84, 24],
         [19, 120, 13, 132, 145, 16], [15, 186, 7, 5, 142, 6], [9, 110, 127, 152, 71, 2]],
        157972,
    ),
    "C": (
        [[9, 4, 160, 258, 13, 82], [184, 31, 202, 263, 177, 206],
         [200, 23, 30, 148, 102, 177], [30, 217, 237, 233, 15, 16], [178, 190, 190, 184, 162, 160]],
        67251,
    ),
}  # fmt: skip


def test_version_1_keeps_its_pixels(hospitals: Path) -> None:
    """Other pixels from the same arguments need another VERSION; a machine's own rounding may move a few by little."""
    assert VERSION == 1
    first = {site: (image, mask) for site, _, image, mask in reversed(patients(hospitals))}
    for site, (rows, voxels) in PIXELS_OF_VERSION_1.items():
        image, mask = (array(volume) for volume in first[site])
        away = np.abs(image[len(image) // 2, 60::60, 60::60] - np.array(rows))
        assert (away > 1).sum() <= 2, site
        assert abs(int((mask > 0).sum()) - voxels) <= 5, site


def test_one_patient_more_changes_no_other(hospitals: Path, tmp_path: Path) -> None:
    write_hospitals(tmp_path / "more", patients={"A": 3, "B": 1}, seed=3)
    before, after = digests(hospitals / "A"), digests(tmp_path / "more" / "A")
    assert before.items() < after.items()
    assert digests(tmp_path / "more" / "B").items() < digests(hospitals / "B").items()


def test_layouts_are_the_real_sets_own(hospitals: Path) -> None:
    assert [path.name for path in sorted((hospitals / "A" / "labels").iterdir())] == [
        "Prostate3T-01-0001.nrrd",
        "Prostate3T-01-0002_truth.nrrd",
    ]
    assert [path.name for path in sorted((hospitals / "B" / "labels").iterdir())] == [
        "ProstateDx-01-0001.nrrd",
        "ProstateDx-01-0002_correctedLabels.nrrd",
    ]
    for path in (hospitals / "A" / "Prostate-3T").rglob("*.dcm"):
        patient, study, series, name = path.relative_to(hospitals / "A" / "Prostate-3T").parts
        assert (patient, study) == (tag(path, "0010|0020"), tag(path, "0020|000d"))
        assert series == tag(path, "0020|000e")
        assert len(name) == len("000000.dcm")
    assert sorted(path.name for path in (hospitals / "C").iterdir()) == ["Patient 1036", "Patient 1041"]
    for site, config in (("A", "nci-isbi"), ("B", "nci-isbi"), ("C", "i2cvb")):
        text = (hospitals / f"site-{site.lower()}.toml").read_text(encoding="utf-8")
        keys = tomllib.loads(text)
        assert keys["name"] == site and keys["layout"] == config and keys["patient_scores"] is True
        assert all((hospitals / keys[key]).is_dir() for key in ("images", "masks") if key in keys)


def test_site_b_has_a_second_series_that_is_not_axial(hospitals: Path) -> None:
    for folder in (hospitals / "B" / "PROSTATE-DIAGNOSIS").iterdir():
        (study,) = folder.iterdir()
        assert len(list(study.iterdir())) == 2
        axial, coronal = described(folder, "T2W_TSE_AX"), described(folder, "T1W_TSE_COR")
        normals = [np.array(read_series(series).GetDirection())[2::3] for series in (axial, coronal)]
        assert abs(normals[0][2]) > 0.9 and abs(normals[1][1]) > 0.9


def test_image_and_mask_lie_in_the_same_place(hospitals: Path) -> None:
    for _, patient, image, mask in patients(hospitals):
        assert image.GetSize() == mask.GetSize(), patient
        corners = [(0, 0, 0), tuple(count - 1 for count in image.GetSize())]
        for corner in corners:
            ours = image.TransformIndexToPhysicalPoint(corner)
            assert np.allclose(ours, mask.TransformIndexToPhysicalPoint(corner), atol=0.01), patient
        assert mask.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-4)
        assert image.GetDirection()[8] > 0.9, "slices run from feet to head"
        # the capsule is dark: around the mask's edge the image is darkest where the mask lies, and
        # brighter when the mask is moved by 4 mm to any side
        gland = sitk.GetImageFromArray((array(mask) > 0).astype(np.uint8))
        grown = sitk.GetArrayFromImage(sitk.BinaryDilate(gland, (1, 1, 0))) > 0
        rim = np.argwhere(grown & (sitk.GetArrayFromImage(gland) == 0))
        rim = rim[(rim[:, 1] > 20) & (rim[:, 1] < grown.shape[1] - 20)]
        pixels, step = array(image), round(4 / image.GetSpacing()[0])

        shifts = np.array([(0, 0, 0), (0, 0, step), (0, 0, -step), (0, step, 0), (0, -step, 0)])
        at, *moved = (float(np.median(pixels[tuple((rim + shift).T)])) for shift in shifts)
        assert at < min(moved), (patient, at, moved)


def test_sizes_spacings_and_volumes_are_the_real_ones(hospitals: Path) -> None:
    slices = {"A": (15, 24), "B": (23, 38), "C": (40, 64)}
    volumes = {"A": (16, 320), "B": (18, 122), "C": (17, 134)}
    counts = {"A": (8, 24), "B": (8, 21), "C": (17, 45)}
    for site, patient, image, mask in patients(hospitals):
        columns, rows, depth = image.GetSize()
        across, down, thickness = (round(value, 4) for value in image.GetSpacing())
        assert slices[site][0] <= depth <= slices[site][1], patient
        assert across == down
        if site == "A":
            assert (columns, rows, across, thickness) in {
                (320, 320, 0.6, 4.0), (320, 320, 0.625, 3.6), (384, 384, 0.5, 3.0),
            }  # fmt: skip
        elif site == "B":
            assert (columns, rows, across, thickness) == (400, 400, 0.4, 3.0)
        else:
            assert 0.67 <= across <= 0.79 and thickness == 1.25
        gland = array(mask) > 0
        ml = gland.sum() * across * down * thickness / 1000
        assert volumes[site][0] <= ml <= volumes[site][1], patient
        assert counts[site][0] <= (gland.sum(axis=(1, 2)) > 200).sum() <= counts[site][1], patient


def test_label_values_are_the_real_ones(hospitals: Path) -> None:
    found: dict[str, list[set[float]]] = {"A": [], "B": [], "C": []}
    for site, _, _, mask in patients(hospitals):
        found[site].append(set(np.unique(array(mask))))
    assert found["A"] == found["B"] == [{0, 1, 2}, {0, 1, 2}]
    assert found["C"] == [{0, 255}, {0, 1023}]


def test_site_c_mask_files_run_against_the_images(hospitals: Path) -> None:
    def heights(folder: Path) -> list[float]:
        return [float(tag(path, "0020|0032").split("\\")[2]) for path in sorted(folder.glob("*.dcm"))]

    for folder in (hospitals / "C").iterdir():
        images, masks = heights(folder / "T2W"), heights(folder / "GT" / "prostate")
        assert images == sorted(images) and masks == sorted(masks, reverse=True)
        assert masks[::-1] == images


def test_endorectal_flare_falls_off_from_the_rectum(hospitals: Path) -> None:
    """Fat behind the rectum against fat under the front skin; a body coil would give about one to one."""
    for site, patient, image, mask in patients(hospitals):
        if site != "B":
            continue
        gland = np.argwhere(array(mask) > 0)
        pixels = array(image)[int(np.median(gland[:, 0]))]
        back = int(gland[:, 1].max())
        near, far = pixels[back : back + 60, 150:250], pixels[:60, 150:250]
        assert np.percentile(near, 90) > 3 * np.percentile(far, 90), patient


def test_running_again_writes_nothing(hospitals: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in hospitals.rglob("*")}
    calls: list[tuple[int, int]] = []
    write_hospitals(hospitals, patients=TWO_EACH, seed=3, progress=lambda *done: calls.append(done))
    assert {path: path.stat().st_mtime_ns for path in hospitals.rglob("*")} == before
    assert not calls


def test_a_folder_with_anything_else_is_refused_and_left_alone(hospitals: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RelayError, match="holds other files"):
        write_hospitals(tmp_path, patients={"A": 1})
    assert digests(tmp_path).keys() == {"thesis.txt"}
    with pytest.raises(RelayError, match="other synthetic hospitals"):
        write_hospitals(hospitals, patients={"A": 2, "B": 2, "C": 3}, seed=3)
    (tmp_path / "thesis.txt").unlink()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RelayError, match="is a file"):
        write_hospitals(tmp_path / "file", patients={"A": 1})


def test_an_interrupted_run_is_made_whole(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hospitals(tmp_path / "two", patients={"A": 2}, seed=5, progress=stop)
    write_hospitals(tmp_path / "two", patients={"A": 2}, seed=5)
    write_hospitals(tmp_path / "whole", patients={"A": 2}, seed=5)
    assert digests(tmp_path / "two") == digests(tmp_path / "whole")


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(RelayError, match="make room"):
        write_hospitals(tmp_path / "small", patients={"A": 1})

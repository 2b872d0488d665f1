"""Segmentations and contours are found by what they refer to, and are the gland that was drawn, or are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client import data_check
from client.data import layouts
from client.data.layouts import regions, volumes
from client.data.layouts.regions import Region
from client.inference.predict import find_scan
from client.preprocessing.inventory import tasks_of
from client.site_config import SiteConfig, load_site
from common.config.study import PreprocessingConfig
from common.errors import RelayError
from tests.support.dicom_labels import (
    PROSTATE,
    Polygon,
    instances,
    outline,
    write_rtstruct,
    write_seg,
)
from tests.support.layout_files import (
    OBLIQUE,
    SPACING,
    STRAIGHT,
    as_dicom,
    as_i2cvb,
    as_nifti_pairs,
    bad,
    only,
    problem,
    same,
    site,
    truth,
    write_series,
    write_volume,
)

WHOLE = truth()[1] > 0


def images(folder: Path, **how: Any) -> list[str]:
    return list(instances(write_series(folder / "images" / "scan" / "a", truth()[0], **how)).values())


def stating(folder: Path, **keys: Any) -> SiteConfig:
    site(folder, "dicom")
    path = folder / "site.toml"
    lines = [f"{key} = {value}" for key, value in keys.items()]
    path.write_text(path.read_text("utf-8") + "\n".join(lines) + "\n", encoding="utf-8")
    return load_site(path)


def test_a_folder_of_images_and_a_segmentation_is_recognised_and_read(tmp_path: Path) -> None:
    write_seg(tmp_path / "images" / "seg" / "IM1", {"Prostate": WHOLE}, images(tmp_path))
    path = tmp_path / "site.toml"
    path.write_text("name = 'A'\nimages = 'images'\n", encoding="utf-8")
    found = layouts.find(load_site(path))
    assert found.layout == "dicom" and only(found).person == ""
    assert found.notes == ('As gland are taken the segments or contours "Prostate" of 1 patient.',)
    same(layouts.read(only(found)), truth()[0], WHOLE)


@pytest.mark.parametrize("per_frame", [False, True], ids=["series", "frame by frame"])
@pytest.mark.parametrize("axes", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_labels_are_found_by_what_they_refer_to_whoever_they_say_they_are_of(
    tmp_path: Path, axes: NDArray[np.float64], per_frame: bool
) -> None:
    """Two patients, the labels in each other's folders and without a patient's name."""
    image, mask = truth()
    other = np.roll(mask, 2, axis=2)
    for name, drawn, far in (("P1", mask, "P2"), ("P2", other, "P1")):
        series = write_series(tmp_path / "images" / name, image, patient=name, uid=f"1.2.3.4.{name[1]}", axes=axes)
        refers = list(instances_in_order(series))
        path = tmp_path / "images" / far / "label.dcm"
        write_seg(path, {"Prostate": drawn > 0}, refers, per_frame=per_frame, patient="", axes=axes)
    found = layouts.find(site(tmp_path, "dicom"))
    assert found.problems == () and [one.patient for one in found.sources] == ["P1", "P2"]
    for source, drawn in zip(found.sources, (mask, other), strict=True):
        same(layouts.read(source), image, drawn)


def instances_in_order(series: Path) -> list[str]:
    return [str(pydicom.dcmread(path).SOPInstanceUID) for path in sorted(series.iterdir())]


def test_the_prostate_is_chosen_among_segments_by_its_name_or_code(tmp_path: Path) -> None:
    lesion, bladder = np.zeros_like(WHOLE), np.roll(WHOLE, 3, axis=0)
    lesion[3, 12:14, 8:10] = True
    refers = images(tmp_path)
    write_seg(tmp_path / "images" / "s.dcm", {"Bladder": bladder, "Prostate": WHOLE, "Prostate lesion": lesion}, refers)
    same(layouts.read(only(layouts.find(site(tmp_path, "dicom")))), truth()[0], WHOLE)
    write_seg(
        tmp_path / "images" / "s.dcm",
        {"Segment_1": bladder, "Segment_2": WHOLE},
        refers,
        codes={"Segment_1": ("89837001", "SCT", "Bladder"), "Segment_2": PROSTATE},
    )
    same(layouts.read(only(layouts.find(site(tmp_path, "dicom")))), truth()[0], WHOLE)
    for roi in ("'41216001'", "'segment_2'", "'_2$'", "['Segment_2']"):
        same(layouts.read(only(layouts.find(stating(tmp_path, roi=roi)))), truth()[0], WHOLE)
    same(layouts.read(only(layouts.find(stating(tmp_path, roi="'bladder'")))), truth()[0], bladder)


def test_where_no_segment_or_several_fit_what_was_found_is_told(tmp_path: Path) -> None:
    refers = images(tmp_path)
    write_seg(tmp_path / "images" / "s.dcm", {"Bladder": WHOLE, "PZ": WHOLE}, refers)
    told = problem(layouts.find(site(tmp_path, "dicom")), "P1")
    assert '"Bladder" and "PZ"' in told and '"roi"' in told
    write_seg(tmp_path / "images" / "s.dcm", {"Bladder": WHOLE}, refers)
    assert "none is the whole prostate" in problem(layouts.find(site(tmp_path, "dicom")), "P1")
    write_seg(tmp_path / "images" / "s.dcm", {"prostate_A": WHOLE, "Prostate_B": WHOLE}, refers)
    told = problem(layouts.find(site(tmp_path, "dicom")), "P1")
    assert "several are the whole prostate" in told and 'roi = "prostate_A"' in told
    same(layouts.read(only(layouts.find(stating(tmp_path, roi="'prostate_a'")))), truth()[0], WHOLE)
    told = problem(layouts.find(stating(tmp_path, roi="'prostate'")), "P1")
    assert '"prostate" means several' in told
    assert 'none is "gland"' in problem(layouts.find(stating(tmp_path, roi="'gland'")), "P1")


def test_two_readers_files_are_told_apart_by_what_the_sentence_offers(tmp_path: Path) -> None:
    refers = images(tmp_path)
    second = np.roll(WHOLE, 1, axis=2)
    write_seg(tmp_path / "images" / "one" / "r1.dcm", {"Prostate": WHOLE}, refers)
    write_seg(tmp_path / "images" / "two" / "r2.dcm", {"Prostate": second}, refers)
    told = problem(layouts.find(site(tmp_path, "dicom")), "P1")
    assert '"Prostate" in one/r1.dcm' in told and '"Prostate" in two/r2.dcm' in told
    offered = told.partition('roi = "')[2].partition('"')[0]
    same(layouts.read(only(layouts.find(stating(tmp_path, roi=f"'{offered}'")))), truth()[0], WHOLE)
    same(layouts.read(only(layouts.find(stating(tmp_path, roi="'two/r2'")))), truth()[0], second)


def test_zones_that_the_site_names_make_up_the_gland(tmp_path: Path) -> None:
    """Their frames leave out different empty slices, and one begins where the other has none."""
    mask = truth()[1]
    zones = {"PZ": (mask == 1), "TZ": (mask == 2), "Bladder": np.roll(WHOLE, 3, axis=0)}
    zones["PZ"][2] = False
    write_seg(tmp_path / "images" / "s.dcm", zones, images(tmp_path))
    wanted = (mask > 0) & (np.arange(8) != 2)[:, None, None]
    assert wanted[3].sum() > zones["PZ"][3].sum()
    same(layouts.read(only(layouts.find(stating(tmp_path, roi="['TZ', 'PZ']")))), truth()[0], wanted)
    write_seg(tmp_path / "images" / "s.dcm", {"TZ": zones["TZ"], "PZ": mask == 1}, images(tmp_path))
    same(layouts.read(only(layouts.find(stating(tmp_path, roi="['PZ', 'TZ']")))), truth()[0], mask)


def test_a_label_map_is_read_by_the_numbers_of_its_segments(tmp_path: Path) -> None:
    bladder = np.roll(WHOLE, 3, axis=0)
    bladder &= ~WHOLE
    path = tmp_path / "images" / "s.dcm"
    write_seg(path, {"Bladder": bladder, "Prostate": WHOLE}, images(tmp_path), kind="LABELMAP")
    same(layouts.read(only(layouts.find(site(tmp_path, "dicom")))), truth()[0], WHOLE)


def test_what_highdicom_writes_is_read(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom", reason="highdicom is an extra")
    from pydicom.sr.codedict import codes

    series = write_series(tmp_path / "images" / "a", truth()[0], axes=OBLIQUE, numbers=(5, 2, 7, 0, 3, 6, 1, 4))
    headers = []
    for path in sorted(series.iterdir()):
        header = pydicom.dcmread(path)
        header.FrameOfReferenceUID = "1.2.3.5"
        header.save_as(path)
        headers.append(header)
    headers.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    described = [
        highdicom.seg.SegmentDescription(number, label, category, kind, "MANUAL")
        for number, (label, category, kind) in enumerate(
            (("B", codes.SCT.AnatomicalStructure, codes.SCT.Bladder), ("G", codes.SCT.Organ, codes.SCT.Prostate)), 1
        )
    ]
    stack = np.stack([np.roll(WHOLE, 3, axis=0), WHOLE], axis=-1)
    for kind in ("BINARY", "LABELMAP"):
        pixels = stack if kind == "BINARY" else np.where(WHOLE, 2, np.where(stack[..., 0], 1, 0)).astype(np.uint8)
        made = highdicom.seg.Segmentation(
            headers, pixels, kind, described, highdicom.UID(), 9, highdicom.UID(), 1, "m", "n", "1", "s"
        )
        made.save_as(tmp_path / "images" / "seg.dcm")
        same(layouts.read(only(layouts.find(site(tmp_path, "dicom")))), truth()[0], WHOLE)


def test_the_labelled_series_is_the_t2_of_several(tmp_path: Path) -> None:
    image = truth()[0]
    write_series(tmp_path / "images" / "first", image[::-1].copy(), uid="1.2.3.5")
    write_series(tmp_path / "images" / "adc", image[::-1] + 3, uid="1.2.3.6", description="ADC")
    refers = images(tmp_path)
    write_seg(tmp_path / "images" / "s.dcm", {"Prostate": WHOLE}, refers)
    same(layouts.read(only(layouts.find(site(tmp_path, "dicom")))), image, WHOLE)


def test_labels_of_other_images_are_no_labels_of_the_t2(tmp_path: Path) -> None:
    refers = list(
        instances(write_series(tmp_path / "images" / "adc", truth()[0], uid="1.2.9", description="ADC")).values()
    )
    images(tmp_path)
    write_seg(tmp_path / "images" / "s.dcm", {"Prostate": WHOLE}, refers)
    told = problem(layouts.find(site(tmp_path, "dicom")), "P1")
    assert "T2W_TSE_AX" in told and "of 1 SEG and RTSTRUCT files, none refers" in told


def test_a_damaged_label_is_named(tmp_path: Path) -> None:
    path = write_seg(tmp_path / "images" / "s.dcm", {"Prostate": WHOLE}, images(tmp_path))
    path.write_bytes(path.read_bytes()[:700])
    told = problem(layouts.find(site(tmp_path, "dicom")), "P1")
    assert f"{path} cannot be read" in told


def test_what_relay_drew_itself_is_never_trained_on(tmp_path: Path) -> None:
    refers = images(tmp_path)
    write_seg(tmp_path / "images" / "own.dcm", {"Prostate": WHOLE}, refers, model="prostate-relay")
    assert "relay predict" in problem(layouts.find(site(tmp_path, "dicom")), "P1")
    drawn = np.roll(WHOLE, 1, axis=2)
    write_seg(tmp_path / "images" / "drawn.dcm", {"Prostate": drawn}, refers)
    same(layouts.read(only(layouts.find(site(tmp_path, "dicom")))), truth()[0], drawn)


def test_visits_of_a_person_are_patients_that_stay_together(tmp_path: Path) -> None:
    for number, date in enumerate(("20200101", "20210101", "20220101")):
        series = write_series(tmp_path / "images" / str(number), truth()[0], uid=f"1.2.3.4.{number}")
        for path in series.iterdir():
            header = pydicom.dcmread(path)
            header.StudyInstanceUID, header.StudyDate = f"1.2.3.{number}", date
            header.save_as(path)
        if number < 2:
            refers = list(instances(series).values())
            write_seg(tmp_path / "images" / f"{number}.dcm", {"Prostate": np.roll(WHOLE, number, axis=2)}, refers)
    write_series(tmp_path / "images" / "P2", truth()[0], uid="1.2.7", patient="P2")
    other = write_series(tmp_path / "images" / "P3", truth()[0], uid="1.2.8", patient="P3")
    write_seg(tmp_path / "images" / "3.dcm", {"Prostate": WHOLE}, list(instances(other).values()))
    found = layouts.find(site(tmp_path, "dicom"))
    assert [(one.patient, one.person) for one in found.sources] == [
        ("P1_20200101", "P1_20200101"),
        ("P1_20210101", "P1_20200101"),
        ("P3", ""),
    ]
    assert [one.patient for one in found.problems] == ["P2"]
    assert any("P1 have no label" in note for note in found.notes)


def test_a_broken_slice_spoils_its_own_series_alone(tmp_path: Path) -> None:
    """Though the files of two patients lie in one folder."""
    for name in ("P1", "P2"):
        series = write_series(tmp_path / name, truth()[0], patient=name, uid=f"1.2.3.4.{name[1]}")
        refers = list(instances(series).values())
        for path in series.iterdir():
            shutil.copy(path, (tmp_path / "images").mkdir(exist_ok=True) or tmp_path / "images" / f"{name}{path.name}")
        write_seg(tmp_path / "images" / f"{name}.dcm", {"Prostate": WHOLE}, refers, patient=name)
    broken = tmp_path / "images" / "P2000003.dcm"
    broken.write_bytes(broken.read_bytes()[:-200])
    found = layouts.find(site(tmp_path, "dicom"))
    assert [one.patient for one in found.sources] == ["P1"]
    assert str(broken) in problem(found, "P2")


def test_other_layouts_keep_their_folders(tmp_path: Path) -> None:
    """Contours beside a data set of another layout, which were passed over before."""
    for number, write in enumerate((as_i2cvb, as_nifti_pairs)):
        folder = tmp_path / str(number)
        named = write(folder, *truth())
        series = write_series(folder / "images" / "export" / "a", truth()[0], uid="1.2.77")
        write_seg(folder / "images" / "export" / "s.dcm", {"Prostate": WHOLE}, list(instances(series).values()))
        assert layouts.recognise(named.images) == named.layout


def test_the_challenges_layout_takes_a_label_that_refers_to_the_images(tmp_path: Path) -> None:
    """In either folder, and an NRRD file before it."""
    refers = images(tmp_path)
    config = site(tmp_path, "nci-isbi")
    assert "no label" in problem(layouts.find(config), "P1")
    write_seg(tmp_path / "labels" / "s.dcm", {"Prostate": WHOLE}, refers)
    same(layouts.read(only(layouts.find(config))), truth()[0], WHOLE)
    write_rtstruct(tmp_path / "images" / "r.dcm", {"Prostate": outline(WHOLE)}, dict(enumerate(refers)))
    assert "several" in problem(layouts.find(config), "P1")
    other = np.roll(WHOLE, 1, axis=2)
    write_volume(tmp_path / "labels" / "P1.nrrd", other.astype(np.uint8))
    same(layouts.read(only(layouts.find(config))), truth()[0], other)


def test_training_check_and_prediction_agree_on_the_image(tmp_path: Path) -> None:
    config = as_dicom(tmp_path, *truth())
    tasks, problems = tasks_of(config, PreprocessingConfig(), "")
    assert [task.name for task in tasks] == ["P1"] and problems == []
    checkup = data_check.check(config, minimum_pixels=5)
    assert [one.patient for one in checkup.patients if one.slices] == ["P1"]
    # with the segmentation in the same folder
    shown = volumes.upright(find_scan(tmp_path / "images").image, "here")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(shown), truth()[0])


def test_another_region_makes_the_slices_again_and_not_the_bias_field(tmp_path: Path) -> None:
    write_seg(tmp_path / "images" / "s.dcm", {"Prostate": WHOLE, "Other": WHOLE}, images(tmp_path))
    (plain,), _ = tasks_of(site(tmp_path, "dicom"), PreprocessingConfig(), "")
    (named,), _ = tasks_of(stating(tmp_path, roi="'other'"), PreprocessingConfig(), "")
    assert plain.corrected == named.corrected and plain.slices != named.slices


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("Prostate", True),
        ("prostate_MR", True),
        ("PROSTATA", True),
        ("Whole Gland", True),
        ("WG", True),
        ("Prostate gland", True),
        ("Prostate-1", True),
        ("PZ", False),
        ("Prostate lesion 1", False),
        ("PTV_Prostate", False),
        ("CTV prostate", False),
        ("Prostate + 5mm", False),
        ("Prostate-3mm", False),
        ("prostate bed", False),
        ("Peripheral zone of prostate", False),
        ("Seminal vesicles and prostate", False),
        ("Bladder", False),
        ("Segment_1", False),
    ],
)
def test_the_whole_prostate_by_name(name: str, whole: bool) -> None:
    assert regions.is_whole(Region(Path("x"), 1, name)) is whole


# Contours


def inside(points: NDArray[np.float64], polygon: Polygon) -> NDArray[np.bool_]:
    """Point in polygon by the winding of angles' crossings, written out here; independent of what reads the files."""
    x, y = points.T
    found = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if y0 == y1:
            continue
        found ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return found


def sampled(polygons: list[Polygon], holes: list[Polygon], shape: tuple[int, int] = (256, 224), fine: int = 5) -> float:
    """The area of polygons without holes, in pixels, by counting points on a grid five times as fine."""
    rows, columns = np.meshgrid(*((np.arange(size * fine) + 0.5) / fine - 0.5 for size in shape), indexing="ij")
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    gland = np.zeros(len(points), bool)
    for polygon in polygons:
        gland |= inside(points, polygon)
    for polygon in holes:
        gland &= ~inside(points, polygon)
    return float(gland.sum()) / fine**2


def circle(x: float, y: float, radius: float, corners: int = 60) -> Polygon:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return [(x + radius * np.cos(a), y + 0.8 * radius * np.sin(a)) for a in angles]


GLAND = circle(100.3, 120.8, 48.0)
SHAPES: dict[str, tuple[list[Polygon], list[Polygon], list[Polygon]]] = {
    # what is written; the polygons and holes that it means
    "one contour": ([GLAND], [GLAND], []),
    "two contours": (
        [circle(60.2, 80, 30), circle(150.7, 170.1, 25)],
        [circle(60.2, 80, 30), circle(150.7, 170.1, 25)],
        [],
    ),
    "overlapping contours": (
        [circle(90, 100, 30), circle(120, 100, 30)],
        [circle(90, 100, 30), circle(120, 100, 30)],
        [],
    ),
    "an inner contour": ([circle(110, 125, 20), GLAND], [GLAND], [circle(110, 125, 20)]),
    "a keyhole": (
        [[*GLAND, GLAND[0], *circle(110, 125, 20)[::-1], circle(110, 125, 20)[-1], GLAND[0]]],
        [GLAND],
        [circle(110, 125, 20)],
    ),
    "a contour written twice": ([GLAND, GLAND], [GLAND], []),
    "corners at the centres of voxels": (
        [[(50, 60), (50, 120), (110, 120), (110, 60)]],
        [[(50, 60), (50, 120), (110, 120), (110, 60)]],
        [],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("axes", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("shape", SHAPES)
def test_contours_have_the_volume_that_was_drawn(tmp_path: Path, shape: str, axes: NDArray[np.float64]) -> None:
    image = np.random.default_rng(3).integers(1, 900, (5, 256, 224)).astype(np.int16)
    drawn, polygons, holes = SHAPES[shape]
    refers = instances_in_order(write_series(tmp_path / "images" / "a", image, axes=axes))
    contours: dict[float, list[Polygon]] = {1: drawn, 2: drawn, 3: drawn}
    write_rtstruct(tmp_path / "images" / "b.dcm", {"Prostate": contours}, dict(enumerate(refers)), axes=axes)
    case = layouts.read(only(layouts.find(site(tmp_path, "dicom"))))
    np.testing.assert_array_equal(case.image, image)
    assert list(np.flatnonzero(case.mask.any(axis=(1, 2)))) == [1, 2, 3]
    wanted = sampled(polygons, holes)
    assert case.mask[2].sum() == pytest.approx(wanted, rel=0.01)
    assert np.array_equal(case.mask[1], case.mask[3])
    # in place too: the centres of voxels
    rows, columns = np.indices(case.mask.shape[1:])
    points = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)
    expected = np.any([inside(points, polygon) for polygon in polygons], axis=0)
    for hole in holes:
        expected &= ~inside(points, hole)
    assert np.mean(expected.reshape(case.mask.shape[1:]) != case.mask[2]) < 0.005  # ties: edges through centres


@pytest.mark.slow
def test_an_island_in_a_hole_is_gland(tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(1, 900, (5, 256, 224)).astype(np.int16)
    refers = instances_in_order(write_series(tmp_path / "images" / "a", image))
    rings = [GLAND, circle(100, 121, 30), circle(100, 121, 15)]
    for kind in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
        contours: dict[float, list[Polygon]] = {1: rings, 2: rings, 3: rings}
        path = tmp_path / "images" / "b.dcm"
        write_rtstruct(path, {"Prostate": contours}, dict(enumerate(refers)), geometric=kind)
        case = layouts.read(only(layouts.find(site(tmp_path, "dicom"))))
        wanted = sampled([GLAND], [circle(100, 121, 30)]) + sampled([circle(100, 121, 15)], [])
        assert case.mask[2].sum() == pytest.approx(wanted, rel=0.01)


def test_contours_along_voxels_give_the_voxels(tmp_path: Path) -> None:
    refers = images(tmp_path)
    path = tmp_path / "images" / "RS" / "x"
    write_rtstruct(
        path,
        {"Rectum": outline(np.roll(WHOLE, 4, axis=2)), "Structure 7": outline(WHOLE)},
        dict(enumerate(refers)),
        codes={"Structure 7": PROSTATE},
    )
    same(layouts.read(only(layouts.find(site(tmp_path, "dicom")))), truth()[0], WHOLE)


def rtstruct(folder: Path, contours: dict[float, list[Polygon]], **how: Any) -> layouts.Source:
    refers = dict(enumerate(images(folder)))
    write_rtstruct(folder / "images" / "r.dcm", {"Prostate": contours}, refers, **how)
    return only(layouts.find(site(folder, "dicom")))


BOX: Polygon = [(6, 8), (6, 20), (16, 20), (16, 8)]


@pytest.mark.parametrize(
    ("contours", "how", "told"),
    [
        ({2.5: [BOX], 3.5: [BOX]}, {}, "between the slices"),
        ({1: [BOX], 3: [BOX], 5: [BOX]}, {}, "on 3 of 5 slices alone"),
        ({2: [BOX]}, {"geometric": "OPEN_PLANAR"}, "closed contours"),
        ({2: [BOX]}, {"geometric": "POINT"}, "closed contours"),
        ({20: [BOX], 21: [BOX]}, {}, "outside of its image"),
        ({2: [[(x + 40, y) for x, y in BOX]]}, {}, "outside of its image"),
        ({2: [BOX], 3: [BOX]}, {"axes": OBLIQUE}, "does not lie in the slices"),
        ({2: [BOX[:2]]}, {}, "no polygon"),
    ],
)
def test_contours_that_mean_no_volume_are_refused(
    tmp_path: Path, contours: dict[float, list[Polygon]], how: dict[str, Any], told: str
) -> None:
    assert told in bad(rtstruct(tmp_path, contours, **how))


def test_a_contour_on_another_slice_than_it_says_is_refused(tmp_path: Path) -> None:
    refers = images(tmp_path)
    shifted = {k: refers[(k + 2) % 8] for k in range(8)}
    write_rtstruct(tmp_path / "images" / "r.dcm", {"Prostate": {2: [BOX], 3: [BOX]}}, shifted)
    assert "lies on another" in bad(only(layouts.find(site(tmp_path, "dicom"))))


def test_the_volume_of_the_contours_is_that_of_the_polygons_in_ml(tmp_path: Path) -> None:
    case = layouts.read(rtstruct(tmp_path, {2: [BOX], 3: [BOX], 4: [BOX]}))
    assert case.mask.sum() * np.prod(SPACING) == pytest.approx(3 * 10 * 12 * np.prod(SPACING))


def test_a_name_that_is_no_pattern_is_told(tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="no regular expression"):
        stating(tmp_path, roi="'('")

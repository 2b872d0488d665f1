"""Wrong masks of a small hospital are found, whichever way they are wrong, and right ones are left in peace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data_check import Checkup, Examination, Kind, examine
from client.site_config import load_site
from deploy.phantom import write_hospitals
from tests.support import planted

PATIENTS = 8
BY_MASK = (Kind.MIRRORED, Kind.REVERSED, Kind.SHIFTED, Kind.TURNED, Kind.MISPLACED)

Plant = Callable[[Path], None]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks") / "hospitals"
    write_hospitals(folder, patients={"A": PATIENTS}, seed=44)
    return folder


def names(hospitals: Path) -> list[str]:
    return planted.patients(hospitals, "A")


def after(hospitals: Path, folder: Path, plant: Plant) -> Examination:
    site = planted.copy_of(hospitals, folder, "A")
    plant(folder)
    return examine(load_site(site))


def wrong(checkup: Checkup) -> dict[str, Kind]:
    return {finding.patient: finding.kind for finding in checkup.findings if finding.kind in BY_MASK}


def half_turn(mask: planted.Mask) -> planted.Mask:
    return mask[:, ::-1, ::-1]


def transposed(mask: planted.Mask) -> planted.Mask:
    return mask.swapaxes(1, 2)


def most_changed(hospitals: Path, fault: Callable[[planted.Mask], planted.Mask], but: set[str]) -> str:
    """The patient in whom a fault is easiest to see."""
    masks = {name: planted.read(hospitals, "A", name) for name in names(hospitals) if name not in but}
    return min(masks, key=lambda name: planted.dice(masks[name], fault(masks[name])))


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is_wrong(hospitals: Path, tmp_path: Path) -> None:
    examination = after(hospitals, tmp_path, lambda _: None)
    assert wrong(examination.checkup) == {}
    (note,) = examination.checkup.notes
    assert "1 lies behind 2" in note and note.endswith("2 the central gland, as the site file says.")
    assert not examination.checkup.whole_site
    assert examination.suggested == {}


@pytest.mark.slow
def test_careless_outlines_are_no_faults(hospitals: Path, tmp_path: Path) -> None:
    """The synthetic masks are exact; no doctor's is."""
    agreement = []

    def plant(folder: Path) -> None:
        for seed, name in enumerate(names(hospitals)):
            exact = planted.read(hospitals, "A", name)
            drawn = planted.careless(exact, (3.6, 0.6, 0.6), off=1.5, seed=seed)
            agreement.append(planted.dice(exact, drawn))
            planted.write(folder, "A", name, drawn)

    checkup = after(hospitals, tmp_path, plant).checkup
    assert wrong(checkup) == {} and not checkup.whole_site
    assert 0.85 < np.median(agreement) < 0.95


@pytest.mark.slow
def test_each_fault_is_found_beside_the_others_and_undone_by_what_is_suggested(hospitals: Path, tmp_path: Path) -> None:
    faults = {
        Kind.MIRRORED: planted.mirrored,
        Kind.REVERSED: planted.reversed_,
        Kind.SHIFTED: planted.up,
        Kind.TURNED: half_turn,
    }
    whom: dict[str, Kind] = {}
    for kind, fault in faults.items():
        whom[most_changed(hospitals, fault, set(whom))] = kind

    def plant(folder: Path) -> None:
        for name, kind in whom.items():
            planted.change(folder, "A", name, faults[kind])

    examination = after(hospitals, tmp_path, plant)
    assert wrong(examination.checkup) == whom
    for name in whom:
        view = examination.views[name]
        truth = planted.read(hospitals, "A", name)[:, *view.box]
        assert planted.dice(examination.suggested[name], truth) > 0.99
    told = {finding.patient: finding for finding in examination.checkup.findings if finding.kind in BY_MASK}
    for finding in told.values():
        assert finding.evidence["likeness"] > finding.evidence["likeness_given"]
        assert finding.evidence["advantage"] >= 3
    found = {looked.kind: looked.found for looked in examination.checkup.looked}
    assert all(found[kind] == 1 for kind in faults)


@pytest.mark.slow
def test_rows_and_columns_that_were_exchanged_are_found(hospitals: Path, tmp_path: Path) -> None:
    whom = most_changed(hospitals, transposed, set())
    examination = after(hospitals, tmp_path, lambda folder: planted.change(folder, "A", whom, transposed))
    assert wrong(examination.checkup) == {whom: Kind.TURNED}
    assert "rows and columns exchanged" in examination.checkup.about(whom)[0].sentence


def pair_of_one_shape(hospitals: Path) -> tuple[str, str]:
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name in names(hospitals):
        by_shape.setdefault(planted.read(hospitals, "A", name).shape, []).append(name)
    one, other, *_ = max(by_shape.values(), key=len)
    return one, other


@pytest.mark.slow
def test_two_masks_that_were_exchanged_are_found_and_their_owners_named(hospitals: Path, tmp_path: Path) -> None:
    one, other = pair_of_one_shape(hospitals)
    examination = after(hospitals, tmp_path, lambda folder: planted.exchange_masks(folder, "A", one, other))
    assert wrong(examination.checkup) == {one: Kind.MISPLACED, other: Kind.MISPLACED}
    assert f"fits the image of {other} better than its own" in examination.checkup.about(one)[0].sentence
    assert f"fits the image of {one} better than its own" in examination.checkup.about(other)[0].sentence
    for name in (one, other):
        truth = planted.read(hospitals, "A", name)[:, *examination.views[name].box]
        assert planted.dice(examination.suggested[name], truth) > 0.99


@pytest.mark.slow
def test_a_mask_that_was_copied_to_another_patient_is_found(hospitals: Path, tmp_path: Path) -> None:
    one, other = pair_of_one_shape(hospitals)

    def plant(folder: Path) -> None:
        planted.write(folder, "A", other, planted.read(folder, "A", one))

    checkup = after(hospitals, tmp_path, plant).checkup
    assert f"fits the image of {one} better" in " ".join(one.sentence for one in checkup.about(other))
    assert Kind.MISPLACED not in {finding.kind for finding in checkup.about(one)}
    assert any("voxel for voxel" in finding.sentence for finding in checkup.about(one))


@pytest.mark.slow
def test_mask_files_under_each_other_s_names_are_told_by_their_headers(hospitals: Path, tmp_path: Path) -> None:
    one, other = names(hospitals)[:2]
    checkup = after(hospitals, tmp_path, lambda folder: planted.exchange_files(folder, "A", one, other)).checkup
    for name, owner in ((one, other), (other, one)):
        assert f"lies exactly on the image of {owner} and not on its own" in " ".join(
            finding.sentence for finding in checkup.about(name)
        )
    assert set(wrong(checkup)) == {one, other}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "kind"), [(planted.reversed_, Kind.REVERSED), (planted.mirrored, Kind.MIRRORED), (half_turn, Kind.TURNED)]
)
def test_a_whole_site_that_was_converted_wrongly_is_seen(
    hospitals: Path, tmp_path: Path, fault: Callable[[planted.Mask], planted.Mask], kind: Kind
) -> None:
    """Then the site's own patients are no standard, and the masks all turned together have to be compared."""

    def plant(folder: Path) -> None:
        for name in names(hospitals):
            planted.change(folder, "A", name, fault)

    checkup = after(hospitals, tmp_path, plant).checkup
    assert checkup.whole_site
    assert "the whole site may have been converted wrongly" in checkup.notes[0]
    found = wrong(checkup)
    assert set(found.values()) == {kind}
    visible = sum(
        planted.dice(mask, fault(mask)) <= 0.95
        for mask in (planted.read(hospitals, "A", name) for name in names(hospitals))
    )
    assert len(found) >= 0.9 * visible


@pytest.mark.slow
def test_an_image_that_lies_upside_down_with_its_mask_is_told(hospitals: Path, tmp_path: Path) -> None:
    """As under a wrong header: image and mask agree, and yet the patient lies otherwise than the others."""
    whom = names(hospitals)[4]

    def plant(folder: Path) -> None:
        planted.change(folder, "A", whom, lambda mask: mask[:, ::-1])
        (place,) = (folder / "A").glob(f"*/{whom}")
        for path in place.rglob("*.dcm"):
            old = sitk.ReadImage(str(path))
            piece = sitk.GetImageFromArray(np.ascontiguousarray(sitk.GetArrayFromImage(old)[:, ::-1]))
            piece.CopyInformation(old)
            for key in old.GetMetaDataKeys():
                piece.SetMetaData(key, old.GetMetaData(key))
            path.unlink()
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(path))
            writer.Execute(piece)

    checkup = after(hospitals, tmp_path, plant).checkup
    assert checkup.suspicious == {whom}
    (finding,) = checkup.about(whom)
    assert finding.kind is Kind.ORIENTATION and "front and back are exchanged" in finding.sentence


def test_with_three_patients_edges_alone_imagine_nothing_and_the_limit_is_said(hospitals: Path, tmp_path: Path) -> None:
    def plant(folder: Path) -> None:
        for name in names(hospitals)[3:]:
            (mask,) = (folder / "A" / "labels").glob(f"{name}*")
            mask.unlink()

    checkup = after(hospitals, tmp_path, plant).checkup
    assert len(checkup.patients) == 3
    assert wrong(checkup) == {}
    assert any("edges of their own images alone" in note for note in checkup.notes)
    looked = {one.kind: one for one in checkup.looked}
    assert looked[Kind.MISPLACED].compared == 0 and looked[Kind.MIRRORED].compared == 3

"""NCI-ISBI 2013: TCIA's DICOM and the challenge's NRRD labels, with what is odd about both."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data import layouts
from client.data.layouts import Found, nci_isbi
from client.data.layouts.folder import list_folder
from common.errors import RelayError
from tests.support.layout_files import (
    CORONAL,
    ORIGIN,
    STRAIGHT,
    as_nci_isbi,
    bad,
    only,
    problem,
    same,
    site,
    truth,
    write_series,
    write_volume,
)


def test_labels_are_paired_by_patient_id_not_by_folder_name(tmp_path: Path) -> None:
    image, mask = truth()
    names = {
        "ProstateDx-01-0006": "_correctedLabels",
        "ProstateDx-01-0035": "",
        "Prostate3T-03-0001": "_truth_pred",
    }
    for number, (patient, ending) in enumerate(names.items()):
        write_series(
            tmp_path / "images" / f"folder {-number}",
            image + number,
            patient=patient,
            uid=f"1.2.{number + 1}",
        )
        write_volume(tmp_path / "labels" / f"{patient}{ending}.nrrd", np.roll(mask, number, axis=2))
    (tmp_path / "labels" / "._ProstateDx-01-0006.nrrd").write_text("left by a Macintosh", encoding="utf-8")
    (tmp_path / "images" / "LICENSE").write_text("CC BY 3.0", encoding="utf-8")
    found = layouts.find(site(tmp_path, "nci-isbi"))
    assert found.problems == ()
    assert [source.patient for source in found.sources] == sorted(names)
    for source in found.sources:
        number = list(names).index(source.patient)
        same(layouts.read(source), image + number, np.roll(mask, number, axis=2))


def test_the_axial_t2_is_taken_among_a_patients_series(tmp_path: Path) -> None:
    image, mask = truth()
    study = tmp_path / "images" / "P1" / "1.2"
    coronal = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)
    write_series(study / "a", image + 1, description="T2W_TSE_COR", axes=coronal, uid="1.1")
    write_series(study / "b", image + 2, description="T1W_TSE_AX", uid="1.2")
    write_series(study / "c", image, description="T2W_TSE_AX", uid="1.3")
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    same(layouts.read(only(layouts.find(site(tmp_path, "nci-isbi")))), image, mask)


def test_two_series_of_one_folder_are_told_apart(tmp_path: Path) -> None:
    image, mask = truth()
    write_series(tmp_path / "images", image, uid="1.1")
    write_series(tmp_path / "images", image + 1, description="T1", uid="1.2", numbers=range(20, 28))
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    same(layouts.read(only(layouts.find(site(tmp_path, "nci-isbi")))), image, mask)


def test_a_cropped_label_is_placed_where_it_lies(tmp_path: Path) -> None:
    # ProstateDx-01-0055: 23 slices of labels, 34 of the image.
    image, mask = truth()
    write_series(tmp_path / "images" / "P1", image)
    write_volume(tmp_path / "labels" / "P1.nrrd", mask[1:6, 4:, :20], origin=ORIGIN + [0, 4 * 0.5, 3.0])
    same(layouts.read(only(layouts.find(site(tmp_path, "nci-isbi")))), image, mask)


def test_a_missing_folder_of_labels_is_told(tmp_path: Path) -> None:
    config = as_nci_isbi(tmp_path, *truth())
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(RelayError, match='no folder .*"masks"'):
        layouts.find(config)


def test_a_t1_is_not_taken_for_the_t2_that_is_missing(tmp_path: Path) -> None:
    image, mask = truth()
    config = site(tmp_path, "nci-isbi")
    write_series(tmp_path / "images" / "P1", image, description="T1W_TSE_AX")
    write_volume(tmp_path / "labels" / "P1.nrrd", mask)
    told = problem(layouts.find(config), "P1")
    assert "T1W_TSE_AX" in told and "T2" in told
    assert only(layouts.find(site(tmp_path, "nci-isbi", series="T1W"))).patient == "P1"


@pytest.mark.parametrize("ending", ["_correctedLabels", "_TRUTH", "_truth_pred"])
def test_two_labels_for_one_patient_are_told(tmp_path: Path, ending: str) -> None:
    image, mask = truth()
    config = as_nci_isbi(tmp_path, image, mask)
    write_volume(tmp_path / "labels" / "sub" / f"p1{ending}.NRRD", mask)
    assert "2 labels" in problem(layouts.find(config), "P1")


@settings(max_examples=40, deadline=None)
@given(
    patient=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,12}[A-Za-z0-9]", fullmatch=True),
    ending=st.sampled_from(["", "_truth", "_truth_pred", "_correctedLabels", "_CORRECTEDLABELS"]),
)
def test_a_label_belongs_to_the_patient_whose_name_it_has_but_for_the_ending(
    tmp_path_factory: pytest.TempPathFactory, patient: str, ending: str
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    (folder / f"{patient}{ending}.nrrd").touch()
    assert list(nci_isbi.label_files(list_folder(folder))) == [patient]


def test_a_patient_of_the_full_collection_gives_the_axial_t2_and_nothing_else(tmp_path: Path) -> None:
    """PROSTATE-DIAGNOSIS beside the challenge's manifest: T1, several DCE series, the coronal T2, a report."""
    image, mask = truth()
    study = tmp_path / "images" / "manifest-1" / "PROSTATE-DIAGNOSIS" / "ProstateDx-01-0001" / "1.2"
    series = {
        "T1W_TSE_AX": STRAIGHT,
        "BLISS_AUTO SENSE": STRAIGHT,
        "DCE_pre": STRAIGHT,
        "DCE_dyn1": STRAIGHT,
        "DCE_dyn2": STRAIGHT,
        "T2W_TSE_COR": CORONAL,
        "T2W_TSE_SAG": CORONAL[[1, 2, 0]],
        "T2W_TSE_AX": STRAIGHT,
    }
    for number, (description, axes) in enumerate(series.items()):
        array = image if description == "T2W_TSE_AX" else image + 1 + number
        write_series(
            study / f"1.2.{number}",
            array,
            patient="ProstateDx-01-0001",
            description=description,
            axes=axes,
            uid=f"1.3.{number}",
        )
    (study / "report.dcm").write_bytes(b"no image")
    write_volume(tmp_path / "labels" / "Training" / "ProstateDx-01-0001.nrrd", mask)
    source = only(layouts.find(site(tmp_path, "nci-isbi")))
    same(layouts.read(source), image, mask)


def test_a_patient_all_of_whose_files_are_damaged_is_told_below_any_folder(tmp_path: Path) -> None:
    image, mask = truth()
    config = site(tmp_path, "nci-isbi")
    collection = tmp_path / "images" / "manifest-1" / "Prostate-3T"
    for patient in ("P1", "P2"):
        write_series(collection / patient / "1.2", image, patient=patient)
        write_volume(tmp_path / "labels" / f"{patient}.nrrd", mask)
    for path in (collection / "P2").rglob("*.dcm"):
        path.write_bytes(b"")
    found = layouts.find(config)
    assert [source.patient for source in found.sources] == ["P1"]
    assert "cannot be read" in problem(found, "P2")


class TestTheWrongPatientID:
    """ProstateDx-01-0035 in downloads from before 2021: each way in which it shows is told."""

    RIGHT, WRONG = "ProstateDx-01-0035", "ProstateDx-01-0034"

    def write(self, folder: Path, *, named: str, labels: tuple[str, ...]) -> Found:
        image, mask = truth()
        write_series(folder / "images" / named / "1.2", image, patient=self.WRONG)
        for patient in labels:
            write_volume(folder / "labels" / f"{patient}.nrrd", mask)
        return layouts.find(site(folder, "nci-isbi"))

    def test_its_own_label_has_no_images(self, tmp_path: Path) -> None:
        found = self.write(tmp_path, named=self.WRONG, labels=(self.RIGHT,))
        assert found.sources == ()
        assert "no label" in problem(found, self.WRONG) and "no images" in problem(found, self.RIGHT)

    def test_a_folder_named_otherwise_than_its_images_is_not_paired_with_either_label(self, tmp_path: Path) -> None:
        found = self.write(tmp_path, named=self.RIGHT, labels=(self.RIGHT, self.WRONG))
        assert found.sources == ()
        assert f"named after {self.RIGHT}" in problem(found, self.WRONG)
        assert "no images" in problem(found, self.RIGHT)

    def test_the_patient_whose_id_it_bears_has_two_series(self, tmp_path: Path) -> None:
        write_series(tmp_path / "images" / self.WRONG / "1.9", truth()[0] + 1, patient=self.WRONG, uid="1.9")
        found = self.write(tmp_path, named=self.WRONG, labels=(self.RIGHT, self.WRONG))
        assert found.sources == ()
        assert "2 series" in problem(found, self.WRONG) and "no images" in problem(found, self.RIGHT)

    def test_a_label_drawn_on_another_patients_scan_lies_elsewhere(self, tmp_path: Path) -> None:
        image, mask = truth()
        write_series(tmp_path / "images" / self.WRONG / "1.2", image, patient=self.WRONG)
        write_volume(tmp_path / "labels" / f"{self.WRONG}.nrrd", mask[:6], origin=ORIGIN + [4.0, -9.0, 21.0])
        assert "another grid" in bad(only(layouts.find(site(tmp_path, "nci-isbi"))))


def test_a_patient_id_pairs_in_upper_and_lower_case(tmp_path: Path) -> None:
    image, mask = truth()
    write_series(tmp_path / "images" / "a", image, patient="PROSTATEDX-01-0001")
    write_volume(tmp_path / "labels" / "ProstateDx-01-0001.nrrd", mask)
    source = only(layouts.find(site(tmp_path, "nci-isbi")))
    assert source.patient == "ProstateDx-01-0001"
    same(layouts.read(source), image, mask)


def test_labels_beside_the_images_serve_as_well(tmp_path: Path) -> None:
    image, mask = truth()
    as_nci_isbi(tmp_path, image, mask)
    shutil.move(tmp_path / "labels" / "P1_truth.nrrd", tmp_path / "images" / "P1" / "P1_truth.nrrd")
    same(layouts.read(only(layouts.find(site(tmp_path, "nci-isbi", masks="images")))), image, mask)

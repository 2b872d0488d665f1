"""A hospital's whole path: from its archive by fetch, check, training and prediction back into the archive."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from client.archive.connection import connect
from client.data import layouts
from client.site_config import load_site
from tests.support.commands import relay_here
from tests.support.hospitals import patient, run_on_grid, small_study, write_hospitals, write_labelled_patient
from tests.support.orthanc import Orthanc, absent

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())

STUDY = small_study(
    name="from-archive",
    sites=("A", "B"),
    split={"folds": 2, "use_folds": 1, "test_fraction": 0.4},
    training={"epochs": 1},
    methods={"baseline": True, "sequential": {"routes": (("B", "A"),)}},
)


@pytest.mark.slow
def test_from_the_archive_to_the_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("highdicom", reason="highdicom is an extra: pip install 'prostate-relay[dicom-seg]'")
    for k in range(5):
        write_labelled_patient(tmp_path / "scanner", f"Patient {k}", *patient(k))
    path = tmp_path / "A" / "site.toml"
    path.parent.mkdir()
    path.write_text(
        "name = 'A'\nfolder = 'private'\ndevice = 'cpu'\ncores = 1\npatient_scores = true\n[archive]\n",
        encoding="utf-8",
    )
    sites = {"A": path} | write_hospitals(tmp_path, {"B": 5}, slices=5)
    with Orthanc(tmp_path / "orthanc") as archive:
        archive.put(tmp_path / "scanner" / "images")
        assert relay_here("site", "fetch", path, "--from", archive.url) == 0
        assert relay_here("site", "check", path) == 0
        assert "Site A, layout dicom: 5 usable patients" in capsys.readouterr().out
        results, _ = run_on_grid(STUDY, sites, tmp_path / "out", at_once=1)
        assert {row["target"] for row in results["rows"]} == {"A", "B"}
        assert relay_here("site", "receive", path, "--to", tmp_path / "taken") == 0
        source = layouts.find(load_site(path)).sources[0]
        scan = source.image[0].parent
        out = tmp_path / "mask.nii.gz"
        weights = tmp_path / "taken" / "model.safetensors"
        assert relay_here("predict", weights, scan, "-o", out, "--store", archive.url) == 0
        assert "The segmentation is in the archive 127.0.0.1" in capsys.readouterr().out
        stored = drawn_by_relay(archive, scan)
        # The archive's answer to another fetch holds it, and nobody trains on it.
        before = layouts.find(load_site(path))
        assert relay_here("site", "fetch", path, "--from", archive.url) == 0
        assert "1 file fetched" in capsys.readouterr().out
        again = layouts.find(load_site(path))
        assert again.sources == before.sources and again.problems == ()
    import SimpleITK as sitk

    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    headers = {str(pydicom.dcmread(file).SOPInstanceUID): pydicom.dcmread(file) for file in source.image}
    assert str(stored.PatientID) == "Patient 0" and stored.pixel_array.shape == mask.shape
    for frame, item in zip(stored.pixel_array, stored.PerFrameFunctionalGroupsSequence, strict=True):
        image = headers[str(item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)]
        k = round(float(image.ImagePositionPatient[2]) / 3)
        np.testing.assert_array_equal(frame, mask[k])


def drawn_by_relay(archive: Orthanc, scan: Path) -> pydicom.Dataset:
    """The segmentation that the archive has of a study beside the one that was drawn, asked for anew."""
    client = connect(archive.url)
    study = scan.parent.name
    found = []
    for series in client.search_for_series(study, search_filters={"Modality": "SEG"}):
        (dataset,) = client.retrieve_series(study, series["0020000E"]["Value"][0])
        if dataset.get("ManufacturerModelName") == "prostate-relay":
            found.append(dataset)
    (only,) = found
    content = io.BytesIO()
    only.save_as(content, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(content.getvalue()))

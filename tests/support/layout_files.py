"""Tiny data sets in the layouts' own manner, with positions worked out by hand; the readers share none of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data import layouts
from client.data.layouts import Case, Found, Source
from client.site_config import SiteConfig, load_site
from common.errors import BadPatient

SPACING = (3.0, 0.5, 0.75)  # slice, row, column
ORIGIN = np.array([-12.0, -30.0, 40.0])  # x, y, z of voxel 0
STRAIGHT = np.eye(3)
TILT = 0.25
OBLIQUE = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
"""Rows: unit vectors along columns, rows and slices."""
CORONAL = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)

Array = NDArray[Any]


def truth(slices: int = 8) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An image of which no axis is symmetric, and a mask off its centre, with both zones."""
    image = np.random.default_rng(7).integers(1, 900, (slices, 32, 28)).astype(np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[2:5, 10:20, 6:16] = 1
    mask[3, 12:16, 8:12] = 2
    return image, mask


def volume(
    array: Array,
    *,
    spacing: tuple[float, float, float] = SPACING,
    origin: NDArray[np.float64] = ORIGIN,
    axes: NDArray[np.float64] = STRAIGHT,
    order: str = "LPS",
) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin.tolist())
    image.SetDirection(axes.T.ravel().tolist())
    return sitk.DICOMOrient(image, order)


def write_volume(path: Path, array: Array, *, compressed: bool = True, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume(array, **how), str(path), useCompression=compressed)
    return path


def write_channels(path: Path, arrays: Sequence[Array], **how: Any) -> Path:
    """A file of four axes, as the Decathlon has it: the last one counts the modalities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.JoinSeries([volume(array, **how) for array in arrays]), str(path))
    return path


def write_series(
    folder: Path,
    array: Array,
    *,
    patient: str = "P1",
    description: str = "T2W_TSE_AX",
    uid: str = "1.2.3.4",
    spacing: tuple[float, float, float] = SPACING,
    origin: NDArray[np.float64] = ORIGIN,
    axes: NDArray[np.float64] = STRAIGHT,
    numbers: Iterable[int] | None = None,
    without: tuple[int, ...] = (),
) -> Path:
    """One DICOM file a slice; `numbers` are the file and instance numbers of slices 0, 1, 2 …"""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    numbers = list(numbers if numbers is not None else range(len(array)))
    for index, number in enumerate(numbers):
        if index in without:
            continue
        piece = sitk.GetImageFromArray(array[index : index + 1])
        piece.SetSpacing(spacing[::-1])
        place = origin + index * spacing[0] * axes[2]
        for key, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{uid}.{number + 1}",
            "0008|0060": "MR",
            "0008|103e": description,
            "0010|0010": patient,
            "0010|0020": patient,
            "0018|0050": str(spacing[0]),
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(number + 1),
            "0020|0032": "\\".join(f"{value:.10f}" for value in place),
            "0020|0037": "\\".join(f"{value:.10f}" for value in [*axes[0], *axes[1]]),
        }.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{number:06d}.dcm"))
        writer.Execute(piece)
    return folder


def site(folder: Path, layout: str, **keys: str) -> SiteConfig:
    """The site of `folder`/images, and of `folder`/labels where the layout keeps labels apart."""
    lines = {"name": "A", "layout": layout, "images": "images", **keys}
    if layout in ("nci-isbi", "picai"):
        lines.setdefault("masks", "labels")
        (folder / "labels").mkdir(exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    path = folder / "site.toml"
    path.write_text("".join(f"{key} = '{value}'\n" for key, value in lines.items()), encoding="utf-8")
    return load_site(path)


def only(found: Found) -> Source:
    assert found.problems == ()
    assert len(found.sources) == 1
    return found.sources[0]


def problem(found: Found, patient: str) -> str:
    assert patient not in [source.patient for source in found.sources]
    sentences = [one.sentence for one in found.problems if one.patient == patient]
    assert len(sentences) == 1
    return one_sentence(sentences[0])


def bad(source: Source) -> str:
    with pytest.raises(BadPatient) as caught:
        layouts.read(source)
    assert caught.value.patient == source.patient
    return one_sentence(str(caught.value))


def one_sentence(text: str) -> str:
    assert text.endswith(".") and "\n" not in text and len(text) < 750
    assert "itk" not in text.lower() and "Exception" not in text
    return text


def same(case: Case, image: Array, mask: Array) -> None:
    assert case.image.dtype == np.float32 and case.mask.dtype == bool
    np.testing.assert_array_equal(case.image, image)
    np.testing.assert_array_equal(case.mask, mask > 0)
    np.testing.assert_allclose(case.spacing, SPACING, rtol=1e-6)


def as_nci_isbi(folder: Path, image: Array, mask: Array, *, name: str = "P1", **how: Any) -> SiteConfig:
    write_series(folder / "images" / name / "1.2" / "1.2.3", image, patient=name, **how)
    write_volume(folder / "labels" / f"{name}_truth.nrrd", mask)
    return site(folder, "nci-isbi")


def as_i2cvb(folder: Path, image: Array, mask: Array, *, name: str = "Patient 1036") -> SiteConfig:
    patient = folder / "images" / name
    write_series(patient / "T2W", image)
    write_series(patient / "GT" / "prostate", mask.astype(np.int16) * 100, uid="1.2.9")
    write_series(patient / "GT" / "cap", np.roll(mask, 1, axis=0).astype(np.int16), uid="1.2.10")
    return site(folder, "i2cvb")


def as_nifti_pairs(folder: Path, image: Array, mask: Array, *, name: str = "Case00") -> SiteConfig:
    write_volume(folder / "images" / f"{name}.nii.gz", image)
    write_volume(folder / "images" / f"{name}_segmentation.nii.gz", mask)
    return site(folder, "nifti-pairs")


def as_promise12(folder: Path, image: Array, mask: Array, *, name: str = "Case00", **how: Any) -> SiteConfig:
    write_volume(folder / "images" / f"{name}.mhd", image, **{"compressed": False} | how)
    write_volume(folder / "images" / f"{name}_segmentation.mhd", mask, **{"compressed": False} | how)
    return site(folder, "promise12")


CONTENTS = {
    "name": "PROSTATE",
    "modality": {"0": "T2", "1": "ADC"},
    "labels": {"0": "background", "1": "PZ", "2": "TZ"},
    "tensorImageSize": "4D",
}
"""What the Decathlon's own dataset.json says."""


def as_decathlon(folder: Path, image: Array, mask: Array, *, name: str = "prostate_00", **contents: Any) -> SiteConfig:
    write_channels(folder / "images" / "imagesTr" / f"{name}.nii.gz", [image, image[::-1] + 7])
    write_volume(folder / "images" / "labelsTr" / f"{name}.nii.gz", mask)
    (folder / "images" / "dataset.json").write_text(json.dumps(CONTENTS | contents), encoding="utf-8")
    return site(folder, "decathlon")


def as_prostate158(folder: Path, image: Array, mask: Array, *, name: str = "020") -> SiteConfig:
    patient = folder / "images" / "train" / name
    write_volume(patient / "t2.nii.gz", image)
    write_volume(patient / "t2_anatomy_reader1.nii.gz", mask)
    write_volume(patient / "adc.nii.gz", image + 5)
    write_volume(patient / "t2_tumor_reader1.nii.gz", np.roll(mask, 1, axis=0))
    (folder / "images" / "train.csv").write_text("ID,t2,t2_anatomy_reader1\n", encoding="utf-8")
    return site(folder, "prostate158")


def as_picai(folder: Path, image: Array, mask: Array, *, name: str = "10001_1000001") -> SiteConfig:
    person = name.partition("_")[0]
    for kind in ("t2w", "adc"):
        write_volume(folder / "images" / person / f"{name}_{kind}.mha", image)
    labels = folder / "labels"
    write_volume(labels / "anatomical_delineations" / "whole_gland" / "AI" / "Bosma22b" / f"{name}.nii.gz", mask)
    lesions = labels / "csPCa_lesion_delineations" / "human_expert" / "resampled"
    write_volume(lesions / f"{name}.nii.gz", np.roll(mask, 1, axis=0))
    return site(folder, "picai")


def as_dicom(folder: Path, image: Array, mask: Array, *, name: str = "P1", **how: Any) -> SiteConfig:
    """In folders that say nothing, a series and the segmentation that refers to it."""
    from tests.support.dicom_labels import instances, write_seg  # which imports this module

    images = folder / "images"
    number = len(list(images.glob("*a"))) if images.is_dir() else 0
    series = write_series(images / f"{number}a", image, patient=name, uid=f"1.2.3.4.{number + 1}", **how)
    write_seg(images / f"{number}b" / "x.dcm", {"Prostate": mask > 0}, list(instances(series).values()), patient=name)
    return site(folder, "dicom")


Writer = Callable[..., SiteConfig]
WRITERS: dict[str, Writer] = {
    "decathlon": as_decathlon,
    "dicom": as_dicom,
    "i2cvb": as_i2cvb,
    "nci-isbi": as_nci_isbi,
    "nifti-pairs": as_nifti_pairs,
    "picai": as_picai,
    "promise12": as_promise12,
    "prostate158": as_prostate158,
}
"""Each writes one patient in a layout and gives the site."""

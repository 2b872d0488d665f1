"""A mask as a DICOM segmentation (DICOM PS3.3 A.51) with references to the images of its scan, through highdicom."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.delivery.model_card import Card
from common.errors import RelayError
from common.target import CG, PZ

if TYPE_CHECKING:
    import pydicom

INSTALL = "pip install 'prostate-relay[dicom-seg]'"


def check_installed() -> None:
    """Check that highdicom is installed.

    Raises:
        RelayError: highdicom is missing.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise RelayError(f"DICOM segmentations need highdicom, which is not installed; install it: {INSTALL}.")


def read_series(files: Sequence[Path]) -> list[pydicom.Dataset]:
    """Return the headers of a series, in the order of positions along the normal of its slices.

    Raises:
        RelayError: highdicom is missing, or a file holds several slices or no place of its slice.
    """
    check_installed()
    import pydicom

    images = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
    if any(image.get("NumberOfFrames", 1) > 1 for image in images):
        raise RelayError(f"{files[0]} holds several slices; a DICOM segmentation needs a series of one file a slice.")
    for file, image in zip(files, images, strict=True):
        if "ImageOrientationPatient" not in image or "ImagePositionPatient" not in image:
            raise RelayError(f"{file} states the place of its slice in no way that a DICOM segmentation can repeat.")
    return sorted(images, key=_height)


def write_segmentation(mask: sitk.Image, images: Sequence[pydicom.Dataset], card: Card, path: Path) -> None:
    """Write a DICOM segmentation with a frame for each slice of its series and each segment.

    The segment is "Prostate" (SNOMED CT 41216001), or of zones two: "Peripheral zone" (SNOMED CT 279706003, of DICOM's
    context group 6300) and "Central gland", for which neither has a code: its own, CG of the scheme 99RELAY.

    The file repeats the patient's and the study's identifiers from the images, and is as private as the images.

    Args:
        mask: 0 or 1, or of zones their labels, on the series' grid, as from `client.data.layouts.dicom.read_image`.
        images: the headers of the series, of `read_series`.
        card: the model card of the weights.
        path: the file to write.

    Raises:
        RelayError: the series lacks entries that a segmentation repeats, or the file cannot be written.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    frames: NDArray[np.uint8] = sitk.GetArrayFromImage(mask)
    version = importlib.metadata.version("prostate-relay")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="relay predict",
        version=version,
        family=codes.cid7162.ArtificialIntelligence,
        parameters={"weights": card.weights, "study": card.study_digest},
    )
    central = highdicom.sr.CodedConcept("CG", "99RELAY", "Central gland of the prostate")
    codes_of = {PZ: codes.SCT.PeripheralZoneOfTheProstate, CG: central}
    zones = card.model.segments.zones
    described = [(zone.label, zone.title.capitalize(), codes_of[zone]) for zone in zones]
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=title,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=code,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, title, code in described or [(1, "Prostate", codes.SCT.Prostate)]
    ]
    what = "Prostate zones" if zones else "Prostate"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of names, such as pseudonyms, that are not people's names
            segmentation = highdicom.seg.Segmentation(
                source_images=list(images),
                pixel_array=frames if zones else frames.astype(bool),
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=highdicom.UID(),
                series_number=1000 + int(images[0].get("SeriesNumber") or 0),
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="relay",
                manufacturer_model_name="prostate-relay",
                software_versions=version,
                device_serial_number=card.weights[:16],
                content_label="PROSTATE",
                content_description=f"{what}, drawn by a research model",
                series_description=f"{what} (relay, research only)",
                omit_empty_frames=False,
            )
    except (AttributeError, TypeError, ValueError) as error:
        raise RelayError(
            f"The series lacks what a DICOM segmentation has to repeat ({error}); export it from its archive again."
        ) from None
    draft = path.with_name(f".{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        segmentation.save_as(draft)
        os.replace(draft, path)
    except OSError as error:
        raise RelayError(f"{path} cannot be written ({error.strerror}); give another path.") from None
    finally:
        draft.unlink(missing_ok=True)


def _height(image: pydicom.Dataset) -> float:
    """Return a slice's position along the normal of its plane, in mm."""
    axes = np.array(image.ImageOrientationPatient, dtype=np.float64)
    position = np.array(image.ImagePositionPatient, dtype=np.float64)
    return float(np.cross(axes[:3], axes[3:]) @ position)

"""Measurements of a patient, and oddities of the patient's mask and image, without a comparison of patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.layouts import Case, Part
from client.data_check.findings import Finding, Kind
from client.preprocessing.cache import digest_of_voxels
from client.preprocessing.grid_loss import CUT, beyond_grid
from common.config.study import PreprocessingConfig
from common.text import count, listed, percent

GLAND_ML = (10.0, 350.0)
"""Volumes outside of this range are rare enough to look at; the expert masks of NCI-ISBI have 17 to 313 ml."""
FEWEST_SLICES = 3
APART = 0.01
"""The tolerated share of a mask apart from its largest part: an expert's brush leaves single voxels behind."""
ZONES = {1.0, 2.0}
"""The values of the usual two zones of the gland."""
MOST_SHOWN = 6
"""The most values of a mask that a sentence names."""
CLIPPED = 0.01
"""The tolerated share of voxels with the image's greatest value."""
CELL = 8
"""The edge of the squares of pixels over which images are averaged for their comparison."""


@dataclass(frozen=True)
class Patient:
    """A usable patient."""

    patient: str
    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    spacing: tuple[float, float, float]
    """Millimetres: slice, row, column."""
    slices: int
    """Slices whose mask has more pixels than the minimum on the native grid; such slices are selected."""
    slices_at: int
    """Slices whose mask has exactly the minimum. The paper's rule is "larger than", which leaves such slices out."""
    slices_below: int
    """Slices with a mask of fewer pixels than the minimum."""
    gland_slices: int
    """Slices with any mask at all: the sum of `slices`, `slices_at` and `slices_below`."""
    gland_ml: float
    intensity: float
    """The image's 99th percentile, in the scanner's own units."""
    tilt: float
    """Degrees between the slices and axial slices."""
    roll: float
    """Degrees by which the slices are turned in their own plane."""
    stored: str
    """The orientation of the image file's axes before the reader turned them: three letters, such as LPS."""
    mask_stored: str
    digest: str
    """SHA-256 of the image's shape and voxels."""
    mask_digest: str
    values: tuple[tuple[float, int], ...] = ()
    """The values other than 0 in the mask's file, each with its number of voxels."""
    parts: tuple[Part, ...] = ()
    """What the values are like, where there are several, but few."""
    remarks: tuple[str, ...] = ()
    """What was taken from the site file's statements, and what the files' tags make doubtful, one sentence each."""


def measure(case: Case, *, minimum_pixels: int, stored: str, mask_stored: str) -> Patient:
    """Measure a patient.

    Args:
        case: the patient's image and mask.
        minimum_pixels: the minimum of mask pixels on a slice, for the counts of slices.
        stored: the orientation of the image file's axes; see `Patient`.
        mask_stored: the same of the mask file.
    """
    pixels = np.count_nonzero(case.mask, axis=(1, 2))
    slices, rows, columns = case.image.shape
    axes = np.array(case.direction).reshape(3, 3)
    return Patient(
        patient=case.patient,
        shape=(slices, rows, columns),
        spacing=case.spacing,
        slices=int((pixels > minimum_pixels).sum()),
        slices_at=int((pixels == minimum_pixels).sum()) if minimum_pixels else 0,
        slices_below=int(((pixels > 0) & (pixels < minimum_pixels)).sum()),
        gland_slices=int((pixels > 0).sum()),
        gland_ml=float(pixels.sum() * np.prod(case.spacing) / 1000),
        intensity=float(np.percentile(case.image, 99)),
        tilt=float(np.degrees(np.arccos(np.clip(axes[2, 2], -1, 1)))),
        roll=float(np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))),
        stored=stored,
        mask_stored=mask_stored,
        digest=digest_of_voxels(case.image),
        mask_digest=digest_of_voxels(case.mask),
        values=case.values,
        parts=case.parts,
        remarks=case.remarks,
    )


def oddities(
    case: Case,
    patient: Patient,
    *,
    minimum_pixels: int,
    grid: PreprocessingConfig | None = None,
    values_stated: bool = False,
) -> list[Finding]:
    """Return the oddities of the mask's extent and of the image's values, without a comparison of patients.

    Args:
        case: the patient's image and mask.
        patient: the patient's measurements.
        minimum_pixels: see `measure`.
        grid: a study's grid, beyond which no gland should reach; None: any grid.
        values_stated: whether the site's file says which values of a mask are gland.
    """
    mask, name = case.mask, case.patient
    sentences = []
    least, most = GLAND_ML
    if not least <= patient.gland_ml <= most:
        sentences.append(f"The gland has {patient.gland_ml:.1f} ml; expected are {least:g} to {most:g}.")
    if patient.gland_slices < FEWEST_SLICES:
        sentences.append(f"The mask covers {count(patient.gland_slices, 'slice')} alone.")
    if mask[[0, -1]].any():
        sentences.append("The mask reaches the first or last slice; the gland may be cut off.")
    if mask[:, [0, -1]].any() or mask[:, :, [0, -1]].any():
        sentences.append("The mask touches the edge of its slices.")
    if grid is not None and (share := beyond_grid(mask, case.spacing[1:], grid)) > CUT:
        side = grid.pixels * grid.spacing_mm
        sentences.append(
            f"{percent(share, 1)} of the gland lie beyond the study's grid of {side:g} × {side:g} mm about the image's"
            " centre, and cannot be segmented."
        )
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    gaps = sorted(set(range(filled[0], filled[-1])) - set(filled.tolist()))
    if gaps:
        sentences.append(f"Within the gland {_slices(gaps)} without a mask.")
    parts, share = _apart(mask)
    if share > APART:
        sentences.append(
            f"{share * patient.gland_ml:.1f} ml of the mask ({percent(share, 0)}) lie apart from the rest,"
            f" in {count(parts, 'part')}."
        )
    if not patient.slices:
        sentences.append(f"No slice has more than {minimum_pixels} mask pixels: the patient is left out.")
    found = [Finding(Kind.MASK_EXTENT, name, sentence) for sentence in sentences]
    if all(abs(step - 1) < 1e-6 for step in case.spacing):
        found.append(
            Finding(Kind.SPACING, name, "The voxels are cubes of exactly 1 mm, as where a program lost the spacing.")
        )
    if not values_stated and (sentence := _odd_values(patient.values)):
        found.append(Finding(Kind.MASK_VALUES, name, sentence))
    flat = np.flatnonzero(case.image.min(axis=(1, 2)) == case.image.max(axis=(1, 2)))
    if len(flat):
        sentence = f"In the image {_slices(flat.tolist())} blank: the same value everywhere."
        found.append(Finding(Kind.INTENSITY, name, sentence))
    clipped = float((case.image == case.image.max()).mean())
    if clipped > CLIPPED:
        sentence = f"{percent(clipped, 0)} of the voxels have the greatest value: the image is clipped."
        found.append(Finding(Kind.INTENSITY, name, sentence, {"clipped": clipped}))
    return found


def fingerprint(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an image so coarse that scaling its values or converting its file changes nothing.

    The image is averaged over cells of CELL × CELL pixels; the logarithm of each cell is taken relative to the mean of
    the cells at the same place in all slices.

    Args:
        image: (slices, rows, columns).

    Returns:
        The cells in one dimension, with mean 0 and length 1.
    """
    slices, rows, columns = (image.shape[0], image.shape[1] // CELL, image.shape[2] // CELL)
    if not rows or not columns:
        return np.zeros(0, np.float32)
    cells = image[:, : rows * CELL, : columns * CELL].reshape(slices, rows, CELL, columns, CELL).mean(axis=(2, 4))
    cells = cells - min(0.0, float(cells.min()))
    cells = np.log(cells + 0.05 * max(float(cells.max()), 1e-6))
    cells = cells - cells.mean(axis=0)
    return (cells / max(float(np.linalg.norm(cells)), 1e-9)).ravel().astype(np.float32)


def _apart(mask: NDArray[np.bool_]) -> tuple[int, float]:
    """Return the number of parts that nowhere touch the largest part, and their share of the mask.

    Parts with a common corner touch.
    """
    from scipy import ndimage

    box = tuple(
        slice(places[0], places[-1] + 1)
        for axes in ((1, 2), (0, 2), (0, 1))
        for places in [np.flatnonzero(mask.any(axis=axes))]
    )
    labels, count = ndimage.label(mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    return count - 1, float(1 - sizes.max() / sizes.sum())


def _odd_values(values: tuple[tuple[float, int], ...]) -> str:
    """Return a sentence on a mask of several values that are not the two zones; empty for usual values."""
    if len(values) < 2 and all(value > 0 for value, _ in values):
        return ""
    if {value for value, _ in values} == ZONES:
        return ""
    shown = [f"{value:g} ({count(number, 'voxel')})" for value, number in values[:MOST_SHOWN]]
    if len(values) > MOST_SHOWN:
        shown.append(f"{len(values) - MOST_SHOWN} more")
    return (
        f"The mask holds the values {listed(shown)}, and each above 0 is taken as gland: if one is another organ, a"
        ' lesion or a border to be ignored, say with "labels" in the site file which are gland.'
    )


def _slices(indices: list[int]) -> str:
    """Return slices in words, such as "slices 4, 5 and 9 are", counted from 1 at the feet."""
    names = [str(index + 1) for index in indices]
    if len(names) == 1:
        return f"slice {names[0]} is"
    if len(names) > 6:
        return f"{len(names)} slices are"
    return f"slices {listed(names)} are"

"""Scores of weights on raw files, worked out without any code of `client/`: SimpleITK, numpy, scipy and torch alone.

The oracle of the evaluation. Rules are taken from the docstrings of the study, of the splits and of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage

from client.data.splits import split
from common.config.model import ModelConfig
from common.config.study import Study
from common.model.network import build
from common.networks.smp import segmentation_models

CHOSEN_PIXELS = 200


@dataclass(frozen=True)
class Patient:
    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    """The values of the file: 1 is the peripheral zone and 2 the central gland."""
    spacing: tuple[float, float, float]
    """Millimetres: slice, row, column."""


@dataclass(frozen=True)
class Figures:
    """Of one model at one hospital: overlaps in per cent, the distance in mm, volumes in ml."""

    dice: float
    dice_volume: float
    hd95_mm: float
    false_slices: int
    empty_slices: int
    volume_error_ml: float
    absolute_volume_error_ml: float
    thirds: tuple[float, ...]
    """Dice of apex, middle and base; empty where no gland has three slices."""
    thirds_patients: int
    calibration_error: float
    """Per cent, mean over patients."""
    patients: int
    cleaned: bool
    zones: tuple[float, ...] = ()
    """Dice of peripheral zone and central gland."""
    zones_patients: int = 0


def read(folder: Path) -> dict[str, Patient]:
    """Pairs of NIfTI, with slices from the feet to the head, rows from front to back and columns from right to left."""
    found = {}
    for path in sorted(folder.glob("*_segmentation.nii.gz")):
        name = path.name.removesuffix("_segmentation.nii.gz")
        image = sitk.DICOMOrient(sitk.ReadImage(str(folder / f"{name}.nii.gz"), sitk.sitkFloat32), "LPS")
        mask = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
        column, row, slices = image.GetSpacing()
        labels = sitk.GetArrayFromImage(mask)
        found[name] = Patient(sitk.GetArrayFromImage(image), labels > 0, labels, (slices, row, column))
    return found


def matrix(old: int, spacing: float, new: int, new_spacing: float) -> NDArray[np.float32]:
    """The weights of old pixels in each new one: a tent as wide as the wider of both pixels, about a common centre."""
    ratio = new_spacing / spacing
    at = (np.arange(new) - (new - 1) / 2) * ratio + (old - 1) / 2
    weights = np.maximum(0.0, 1 - np.abs(np.arange(old)[None, :] - at[:, None]) / max(1.0, ratio))
    beyond = (at < -0.5 - 1e-6) | (at > old - 0.5 + 1e-6)
    total = weights.sum(axis=1, keepdims=True)
    weights = np.where(beyond[:, None], 0.0, weights / np.where(total > 0, total, 1))
    return weights.astype(np.float32)


def resampled(
    slices: NDArray[np.float32], plane: tuple[float, float], shape: tuple[int, int], new_plane: tuple[float, float]
) -> NDArray[np.float64]:
    rows = matrix(slices.shape[1], plane[0], shape[0], new_plane[0]).astype(np.float64)
    columns = matrix(slices.shape[2], plane[1], shape[1], new_plane[1]).astype(np.float64)
    return np.einsum("ir,krc,jc->kij", rows, slices.astype(np.float64), columns, optimize=True)


def box_by_box(
    network: torch.nn.Module,
    slices: NDArray[np.float32],
    spacing: float,
    model: ModelConfig,
) -> NDArray[np.float32]:
    """The probability of gland on each slice, by boxes at half their depth from one another, the last at the end.

    The volume, resampled to the box's spacing, has equally many slices more than the box at either end, as many as it
    takes to hold all. Each box weighs by a bell curve along its depth, whose deviation is an eighth of the box.
    """
    more = 0
    while (model.depth + 2 * more) * model.slice_spacing_mm < len(slices) * spacing - 1e-6:
        more += 1
    count = model.depth + 2 * more
    there = matrix(len(slices), spacing, count, model.slice_spacing_mm).astype(np.float64)
    volume = np.einsum("ij,jrc->irc", there, slices.astype(np.float64)).astype(np.float32)
    places = np.arange(model.depth) - (model.depth - 1) / 2
    bell = np.maximum(np.exp(-0.5 * (places / (model.depth / 8)) ** 2), 1e-3)[:, None, None]
    total, weights = np.zeros(volume.shape), np.zeros((count, 1, 1))
    for first in sorted({min(k, 2 * more) for k in range(0, 2 * more + model.depth // 2, model.depth // 2)}):
        place = slice(first, first + model.depth)
        with torch.no_grad():
            logits = network(torch.from_numpy(volume[place])[None, None])[0, 0]
        total[place] += bell * torch.sigmoid(logits).numpy()
        weights[place] += bell
    back = matrix(count, model.slice_spacing_mm, len(slices), spacing).astype(np.float64)
    return np.einsum("ij,jrc->irc", back, total / weights).astype(np.float32)


def hd95(one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float | None:
    """The larger of the two 95th percentiles of the distances between the surfaces, from distance maps."""
    if not one.any() or not other.any():
        return None
    # Beyond the volume there is nothing: a mask at its edge has a surface there.
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (one, other)]
    ways = []
    for here, there in (surfaces, surfaces[::-1]):
        ways.append(np.percentile(ndimage.distance_transform_edt(~there, sampling=spacing)[here], 95))
    return float(max(ways))


def largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest part, of voxels that share a face, with what it encloses."""
    labels, parts = ndimage.label(mask)
    if not parts:
        return mask
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
    return filled


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def dice_by_height(drawn: NDArray[np.bool_], mask: NDArray[np.bool_]) -> list[float] | None:
    """Dice of apex, middle and base: a slice belongs to the third in which its middle lies, counted from the feet."""
    inside = [k for k in range(len(mask)) if mask[k].any()]
    height = inside[-1] - inside[0] + 1
    if height < 3:
        return None
    thirds: list[list[int]] = [[], [], []]
    for k in range(inside[0], inside[-1] + 1):
        thirds[int((2 * (k - inside[0]) + 1) * 3 / (2 * height))].append(k)
    return [dice(drawn[third], mask[third]) for third in thirds]


def miscalibration(share: NDArray[np.float64], mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float:
    """Ten bins of probability, and the voxels at most 10 mm beyond the gland's box: how far mean and truth differ."""
    near = np.ones(mask.shape, bool)
    for axis, step in enumerate(spacing):
        at = np.nonzero(mask)[axis]
        places = np.arange(mask.shape[axis])
        beyond = np.maximum(np.maximum(at.min() - places, places - at.max()), 0) * step
        near &= (beyond <= 10).reshape([-1 if k == axis else 1 for k in range(3)])
    bins = np.digitize(share[near], np.arange(1, 10) / 10)
    gaps = [abs(share[near][bins == k].sum() - mask[near][bins == k].sum()) for k in range(10)]
    return 100 * float(sum(gaps)) / int(near.sum())


def figures(
    study: Study, site: str, folder: Path, fold: int, weights: Sequence[Path], folds: Sequence[int] | None = None
) -> Figures:
    """The scores of weights on a hospital's test patients, standardised as the fold's training patients say, or each
    volume by itself.

    Several weights are an ensemble. With `folds` each of them is of a fold of the hospital's own: it sees images as in
    its training, and a validation patient is segmented by the one that did not train on it. Zones are drawn where the
    study's target are the zones; a voxel of gland belongs to the more probable one.
    """
    zoned = study.model.target == "zones"
    patients = read(folder)
    part, grid = study.split, study.preprocessing
    divided = split(patients, part, site=site)
    shape, new = (grid.pixels, grid.pixels), (grid.spacing_mm, grid.spacing_mm)

    def on_grid(patient: Patient) -> NDArray[np.float32]:
        return resampled(patient.image, patient.spacing[1:], shape, new).astype(np.float32)

    def mean_std(of_fold: int) -> tuple[np.float32, np.float32]:
        pixels = []
        for name in (name for k, names in enumerate(divided.validation) if k != of_fold for name in names):
            used = np.ones(len(patients[name].mask), bool)
            if study.training.slices == "chosen":
                used = patients[name].mask.sum(axis=(1, 2)) > CHOSEN_PIXELS
            pixels.append(on_grid(patients[name])[used].ravel())
        everything = np.concatenate(pixels).astype(np.float64)
        return np.float32(everything.mean()), np.float32(everything.std())

    def network_of(path: Path) -> torch.nn.Module:
        if study.model.dimensions == 3:
            volumes = build(study.model)
            volumes.load_state_dict(safetensors.torch.load_file(path))
            return volumes.eval()
        network = getattr(segmentation_models(), study.model.architecture)(
            encoder_name=study.model.encoder, encoder_weights=None, in_channels=1, classes=3 if zoned else 1
        )
        network.load_state_dict(safetensors.torch.load_file(path))
        return network.eval().to(memory_format=torch.channels_last)

    members = [
        (network_of(path), *mean_std(of_fold))
        for path, of_fold in zip(weights, folds or [fold] * len(weights), strict=True)
    ]

    def probable(patient: Patient, alone: int | None = None) -> NDArray[np.float64]:
        """The probability of gland, or of each zone, on the patient's own grid: the first axis is of zones."""
        shares = []
        for network, mean, std in members if alone is None else [members[alone]]:
            if study.preprocessing.standardise == "volume":
                values = on_grid(patient).astype(np.float64)
                mean, std = np.float32(values.mean()), np.float32(values.std())
            standardised = (on_grid(patient) - mean) / std
            if study.model.dimensions == 3:
                shares.append(box_by_box(network, standardised, patient.spacing[0], study.model)[:, None])
                continue
            shown = torch.from_numpy(standardised)[:, None]
            with torch.no_grad():
                logits = torch.cat([network(part.to(memory_format=torch.channels_last)) for part in shown.split(32)])
            powers = torch.exp(logits.double())
            chances = powers[:, 1:] / powers.sum(1, keepdim=True) if zoned else torch.sigmoid(logits.float())
            shares.append(chances.numpy())
        mean = np.mean(shares, axis=0, dtype=np.float64).astype(np.float32)
        native = (patient.mask.shape[1], patient.mask.shape[2])
        return np.stack([resampled(mean[:, k], new, native, patient.spacing[1:]) for k in range(mean.shape[1])])

    def draw_zones(patient: Patient, alone: int | None = None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The gland, and where the central gland is more probable than the peripheral zone."""
        back = probable(patient, alone)
        return np.sum(back, axis=0) > 0.5, back[-1] > back[0]

    def draw(patient: Patient, alone: int | None = None) -> NDArray[np.bool_]:
        return draw_zones(patient, alone)[0]

    cleaned = False
    if study.postprocessing.clean_up:
        judged = [(fold, None)] if folds is None else [(of_fold, number) for number, of_fold in enumerate(folds)]
        pairs = [
            (draw(patients[name], alone), patients[name].mask)
            for of_fold, alone in judged
            for name in divided.validation[of_fold]
        ]
        before = np.mean([dice(drawn, mask) for drawn, mask in pairs])
        cleaned = bool(np.mean([dice(largest(drawn), mask) for drawn, mask in pairs]) > before)
    slice_dices, volumes, distances, errors, heights, gaps, false, empty = [], [], [], [], [], [], 0, 0
    of_zones = []
    for name in divided.test:
        patient = patients[name]
        drawn, central = draw_zones(patient)
        drawn = largest(drawn) if cleaned else drawn
        if zoned and {1, 2} <= set(np.unique(patient.labels)):
            of_zones.append([dice(drawn & ~central, patient.labels == 1), dice(drawn & central, patient.labels == 2)])
        for k in range(len(drawn)):
            if patient.mask[k].sum() > CHOSEN_PIXELS:
                slice_dices.append(dice(drawn[k], patient.mask[k]))
            elif not patient.mask[k].any():
                empty += 1
                false += bool(drawn[k].any())
        volumes.append(dice(drawn, patient.mask))
        voxels = float(drawn.sum()) - float(patient.mask.sum())
        errors.append(voxels * patient.spacing[0] * patient.spacing[1] * patient.spacing[2] / 1000)
        gaps.append(miscalibration(np.sum(probable(patient), axis=0), patient.mask, patient.spacing))
        by_height = dice_by_height(drawn, patient.mask)
        if by_height is not None:
            heights.append(by_height)
        distance = hd95(drawn, patient.mask, patient.spacing)
        if distance is not None:
            distances.append(distance)
    return Figures(
        dice=100 * float(np.mean(slice_dices)),
        dice_volume=100 * float(np.mean(volumes)),
        hd95_mm=float(np.mean(distances)) if distances else float("nan"),
        false_slices=false,
        empty_slices=empty,
        volume_error_ml=float(np.mean(errors)),
        absolute_volume_error_ml=float(np.mean(np.abs(errors))),
        thirds=tuple(100 * np.mean(heights, axis=0)) if heights else (),
        thirds_patients=len(heights),
        calibration_error=float(np.mean(gaps)),
        patients=len(divided.test),
        cleaned=cleaned,
        zones=tuple(100 * np.mean(of_zones, axis=0)) if of_zones else (),
        zones_patients=len(of_zones),
    )

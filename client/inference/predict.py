"""Segmentation of gland or zones in an image without a mask, with weights and their card, by the steps of scoring."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import nn

from client.data.layouts import dicom, dicom_labels, folder, series, volumes
from client.data.layouts.size import raise_if_short
from client.delivery.model_card import Card, models_of, standard_of, weights_digest
from client.evaluation.clean_up import clean_up
from client.evaluation.ensemble import mean_of
from client.preprocessing.bias_field import correct_bias_field
from client.preprocessing.pipeline import off_grid, onto_grid
from client.preprocessing.resampling import larger_zone
from client.training.batches import standardised, with_neighbours
from client.training.boxes import volume_probabilities
from client.training.device import Device, place
from client.training.fine_tune import probabilities
from common.digest import digest_of
from common.errors import RelayError
from common.model.network import build_undrawn
from common.model.weights import UnfitWeights, check_fit, load, serialize_chunks

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")

FAR = 1.5
"""The difference between the mean of an image and of the training images, in the latter's standard deviations, above
which a remark is made."""
SPREAD = 3.0
"""The factor between the image's standard deviation and the training images' above which a remark is made."""


@dataclass(frozen=True)
class Scan:
    """An image with the axes and values of its file or series."""

    files: tuple[Path, ...]
    """The files that the image was read from; empty for an image that the caller holds."""
    image: sitk.Image
    """The image on its own grid; the mask will have the same grid."""

    @property
    def is_series(self) -> bool:
        """Return whether the image is a DICOM series, not a volume file."""
        return bool(self.files) and not volumes.is_volume_file(self.files[0])

    @property
    def place(self) -> str:
        """Return the name of the image in an error's sentence."""
        return volumes.place(self.files) if self.files else "The image"


@dataclass(frozen=True, eq=False)
class Drawn:
    """The gland as drawn by the model."""

    mask: sitk.Image
    """0 or 1, or of zones their labels (`common.target.Zone.label`), uint8, on the scan's own grid."""
    zones_ml: tuple[float, ...]
    """The volume of each zone, in the order of `common.target.ZONES`; empty where the model draws the gland alone."""
    ml: float
    slices: int
    """The number of slices with gland."""
    disagreement: sitk.Image
    """Standard deviation of the models' probabilities of gland, 0 to 0.5, float32, on the scan's own grid; 0 for one
    model."""
    remarks: tuple[str, ...]
    """Warnings about the mask for the user, one sentence each."""


def in_order(weights: Sequence[Path], card: Card) -> list[Path]:
    """Return a card's weights files in the order of the card's models.

    Args:
        weights: the weights files, in any order.
        card: the weights' model card.

    Raises:
        RelayError: a file cannot be read, a file is not of the card, or a file of the card is missing.
    """
    models = models_of(card)
    if len(models) == 1 and len(weights) == 1:
        return list(weights)
    found = {weights_digest(path): path for path in weights}
    for digest, path in found.items():
        if digest not in {model.weights for model in models}:
            raise RelayError(f"{path} does not hold weights that its card is about; give the files that belong.")
    if len(found) < len({model.weights for model in models}):
        raise RelayError(
            f"The card is about {len(models)} models together, and {len(found)} of their weights files are given;"
            " give all of them."
        )
    return [found[model.weights] for model in models]


def load_network(weights: Path, card: Card, number: int = 0) -> nn.Module:
    """Return a card's network with its weights.

    Args:
        weights: the weights file.
        card: the weights' model card.
        number: the model's place on the card, where the card is about several.

    Raises:
        RelayError: the file cannot be read, or holds other weights than the card describes.
    """
    try:
        tensors = load(weights)
        if digest_of(serialize_chunks(tensors)) != models_of(card)[number].weights:
            raise RelayError(f"{weights} does not hold the weights that its card is about; give the two that belong.")
        network = build_undrawn(card.model)
        check_fit(tensors, card.model)
    except OSError as error:
        raise RelayError(f"{weights} cannot be read ({error.strerror}); check the path.") from None
    except UnfitWeights as error:
        raise RelayError(f"{weights} holds no weights of the card's network ({error}); receive them again.") from None
    network.load_state_dict(tensors)
    return network


def find_scan(path: Path, pattern: str = "") -> Scan:
    """Read a volume file, or a folder's DICOM series.

    Args:
        path: the file or folder.
        pattern: a regular expression for the SeriesDescription, where a folder holds several series.

    Raises:
        RelayError: nothing lies at the path, several series could be meant, or the image cannot be read.
    """
    if path.is_dir():
        files = _series(path, pattern)
    elif path.is_file():
        files = (path,)
        if not volumes.is_volume_file(path) and not dicom.looks_like_dicom(path):
            raise RelayError(f"{path} is no DICOM file and none of {', '.join(volumes.VOLUME_FILES)}; give another.")
    else:
        raise RelayError(f"There is no file or folder {path}; check the path.")
    return Scan(files, volumes.read_as_it_lies(files))


def scan_of(image: sitk.Image) -> Scan:
    """Return an image that the caller has read as a scan.

    Raises:
        RelayError: the image is no volume of three axes with a single value in each voxel.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise RelayError("The image is no plain volume of three dimensions; give one value a voxel, three axes.")
    return Scan((), image)


def _series(path: Path, pattern: str) -> tuple[Path, ...]:
    found = dicom.scan(file for file in folder.list_folder(path).all_files() if not dicom_labels.is_label(file))
    if not found.series:
        raise RelayError(f"No DICOM series lies in {path}; give the folder of one, or a volume file.")
    if len({one.patient for one in found.series}) > 1:
        raise RelayError(f"The series in {path} are of several patients; give the folder of one.")
    selected = series.choose(found.series, pattern, place=str(path), key="--series").series
    broken = [damaged for damaged in found.damaged if damaged.parent == selected.files[0].parent]
    if broken:
        raise RelayError(f"{broken[0]} cannot be read; it is damaged or no image: copy it again.")
    return selected.files


def draw(
    scan: Scan,
    card: Card,
    networks: Iterable[nn.Module],
    device: Device,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Drawn:
    """Draw the gland or its zones on every slice of a scan.

    Args:
        scan: the image.
        card: the model card of the network's weights.
        networks: the network of each of the card's models, of `load_network`; one is in memory at a time where the
            iterable makes them.
        device: the device and precision to predict in.
        progress: is called with the number of finished iterations of the bias field's fit, and the greatest number.

    Raises:
        RelayError: the image is unusable for a study too, or no bias field can be fitted.
    """
    image = volumes.upright(scan.image, scan.place)
    values: NDArray[np.float32] = sitk.GetArrayFromImage(image)
    x, y, z = image.GetSpacing()
    part = card.preprocessing
    # As in preparation.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    torch.set_num_threads(card.training.threads)
    if part.n4.enabled:
        try:
            values = correct_bias_field(values, part.n4, progress=progress)
        except RuntimeError as error:
            raise_if_short(str(error))
            reason = str(error).strip().splitlines()[-1]
            raise RelayError(f"N4 finds no bias field for {scan.place} ({reason}).") from None
    gridded = onto_grid(values, (y, x), part)
    found, spread = _predicted(gridded, z, card, networks, device)
    shape = values.shape[1], values.shape[2]
    native = [off_grid(found[:, k], part.spacing_mm, shape, (y, x)) for k in range(found.shape[1])]
    gland = np.sum(native, axis=0) > 0.5
    gland = clean_up(gland) if card.cleaned else gland
    zones = card.model.segments.zones
    drawn = larger_zone(native) * gland if zones else gland.astype(np.uint8)
    return Drawn(
        mask=_as_it_lay(drawn, image, scan.image),
        zones_ml=tuple(float((drawn == zone.label).sum()) * x * y * z / 1000 for zone in zones),
        ml=float(gland.sum()) * x * y * z / 1000,
        slices=int(gland.any(axis=(1, 2)).sum()),
        disagreement=_as_it_lay(off_grid(spread, part.spacing_mm, shape, (y, x)), image, scan.image),
        remarks=tuple(
            _remarks(gland, standardised(gridded, standard_of(card, card)), card, (shape[0] * y, shape[1] * x))
        ),
    )


def _predicted(
    gridded: NDArray[np.float32], spacing: float, card: Card, networks: Iterable[nn.Module], device: Device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean of the models' probabilities and the standard deviation of those of gland, on the card's grid.

    The mean is (slices, 1 or zones, pixels, pixels), the deviation (slices, pixels, pixels). `spacing` is in
    millimetres from one slice to the next.
    """
    models, regions = models_of(card), max(1, len(card.model.segments.zones))
    total = np.zeros((len(gridded), regions, *gridded.shape[1:]))
    glands, squares = np.zeros(gridded.shape), np.zeros(gridded.shape)
    for model, network in zip(models, networks, strict=True):
        slices = standardised(gridded, standard_of(card, model))
        place(network, device)
        if card.model.dimensions == 3:
            found = volume_probabilities(network, slices, spacing, card.model, device)[:, np.newaxis]
        else:
            images = torch.from_numpy(with_neighbours(slices, card.model.neighbours))
            found = probabilities(network, images, device).numpy()
        total += found
        glands += found.sum(axis=1)
        squares += np.square(found.sum(axis=1), dtype=np.float64)
    variance = squares / len(models) - np.square(glands / len(models))
    return mean_of(total, len(models)), np.sqrt(np.maximum(variance, 0.0)).astype(np.float32)


def _as_it_lay(values: NDArray[Any], upright: sitk.Image, raw: sitk.Image) -> sitk.Image:
    """Turn a mask's or map's axes from the upright image back to the axes of the image's own grid."""
    mask = sitk.GetImageFromArray(values)
    mask.CopyInformation(upright)
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(raw.GetDirection())
    back = sitk.DICOMOrient(mask, code)
    back.CopyInformation(raw)  # copies origin and direction to the last bit; the sizes are the same
    return back


def _remarks(
    gland: NDArray[np.bool_], slices: NDArray[np.float32], card: Card, size: tuple[float, float]
) -> Sequence[str]:
    remarks = []
    side = card.preprocessing.pixels * card.preprocessing.spacing_mm
    if max(size) > side + 1e-3:
        remarks.append(
            f"The image measures {size[0]:.0f} × {size[1]:.0f} mm, of which the model sees {side:g} × {side:g} mm about"
            " the centre; beyond them the mask is 0."
        )
    if abs(float(slices.mean())) > FAR or not 1 / SPREAD < float(slices.std()) < SPREAD:
        remarks.append(
            f"The image's brightness is unlike that of the images of hospital {card.site} that the model was made for:"
            " another scanner or sequence? The mask may be wrong throughout."
        )
    if not gland.any():
        remarks.append("The model found no gland in any slice.")
    return remarks


def ending_of(path: Path) -> str:
    """Return the ending of a file's name, which decides the format of a mask.

    Raises:
        RelayError: no mask can be written in this format.
    """
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return ending
    raise RelayError(f"{path} ends like no format that a mask can be written in; use {', '.join(ENDINGS)}.")


def write_mask(mask: sitk.Image, path: Path) -> None:
    """Write a mask or a map, whole or not at all.

    Raises:
        RelayError: the file cannot be written.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}.part{ending_of(path)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(mask, str(draft), useCompression=True)
        os.replace(draft, path)
    except (OSError, RuntimeError):
        raise RelayError(f"{path} cannot be written; make room or rights there, or give another path.") from None
    finally:
        draft.unlink(missing_ok=True)

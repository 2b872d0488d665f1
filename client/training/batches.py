"""Standardised training batches from prepared patients, their statistics, and augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from client.data.slice_counts import drawn_of
from client.preprocessing.pipeline import PatientSlices, Record, load
from common.config.study import Study, TrainingConfig
from common.plan import batches_per_epoch
from common.target import GLAND, Target

MeanStd = tuple[float, float]
Standard = MeanStd | None
"""Mean and standard deviation by which a site's images are standardised; None: each volume by its own."""


@dataclass(frozen=True)
class Slices:
    """Standardised slices, in the order of patients and, within a patient, from feet to head; or a box of each patient.

    In three dimensions (`client.training.boxes`) images and masks are (boxes, 1, depth, pixels, pixels).
    """

    images: torch.Tensor
    """(slices, channels, pixels, pixels), float32; the channels are a slice and its neighbours."""
    masks: torch.Tensor
    """(slices, classes, pixels, pixels), float32, 0 or 1: the gland and, where zones are the target, each zone. Of a
    patient whose zones are not drawn no zone is 1 anywhere."""
    empty: tuple[int, ...] = ()
    """The places of slices without gland, of which each epoch draws a share."""
    volumes: tuple[int, ...] = ()
    """The number of slices of each patient, in order, where a patient is scored as one volume; empty where each slice
    is scored by itself."""


def _used(slices: PatientSlices, training: TrainingConfig) -> NDArray[np.bool_]:
    """Return which slices of a patient the study trains on, of shape (slices,)."""
    return slices.selected if training.slices == "chosen" else np.ones_like(slices.selected)


def standards(records: Sequence[Record], study: Study) -> dict[str, Standard]:
    """Return by what the images of each site of these training patients are standardised in a study."""
    if study.preprocessing.standardise == "volume":
        return dict.fromkeys(record.site for record in records)
    return {**statistics(records, study.training)}


def statistics(records: Sequence[Record], training: TrainingConfig) -> dict[str, MeanStd]:
    """Return mean and standard deviation of all pixels of the slices that the study trains on, for each site.

    Pooled data keep the statistics of each member site: scanners have units of their own, and a member's patients are
    later scored with that member's statistics.

    Args:
        records: the training patients.
        training: the study's training settings.
    """
    sums: dict[str, list[float]] = {}
    for record in records:
        slices = load(record)
        pixels = slices.image[_used(slices, training)].astype(np.float64)
        total = sums.setdefault(record.site, [0.0, 0.0, 0.0])
        total[0] += pixels.size
        total[1] += float(pixels.sum())
        total[2] += float(np.square(pixels).sum())
    result = {}
    for site, (count, first, second) in sums.items():
        mean = first / count
        result[site] = (mean, max(second / count - mean * mean, 1e-12) ** 0.5)
    return result


def standardised(image: np.ndarray, standard: Standard) -> np.ndarray:
    """Return all slices of a volume less the mean, divided by the standard deviation, as float32."""
    mean, std = standard or (float(image.mean(dtype=np.float64)), max(float(image.std(dtype=np.float64)), 1e-6))
    return ((image - np.float32(mean)) / np.float32(std)).astype(np.float32, copy=False)


def with_neighbours(slices: NDArray[np.float32], neighbours: int) -> NDArray[np.float32]:
    """Return each slice with the slices to either side as channels; beyond an end of the volume its last slice stands.

    Args:
        slices: all slices of a volume in order, (slices, pixels, pixels).
        neighbours: the number of slices to either side.

    Returns:
        (slices, 2 × neighbours + 1, pixels, pixels), with the slice itself in the middle.
    """
    if not neighbours:
        return slices[:, np.newaxis]
    places = np.arange(len(slices))[:, np.newaxis] + np.arange(-neighbours, neighbours + 1)
    return slices[places.clip(0, len(slices) - 1)]


def standardised_slices(
    records: Sequence[Record],
    standard: Mapping[str, Standard],
    training: TrainingConfig,
    *,
    neighbours: int = 0,
    target: Target = GLAND,
) -> Slices:
    """Return the slices of all records that the study trains on, standardised, in the order of the patients' names.

    Args:
        records: the patients.
        standard: by what each site's images are standardised.
        training: the study's training settings.
        neighbours: the slices to either side that the network sees beside each slice, trained on or not.
        target: what the network segments.
    """
    images, masks = [], []
    empty: list[int] = []
    volumes: list[int] = []
    for record in sorted(records, key=lambda record: record.patient):
        slices = load(record)
        used = _used(slices, training)
        gland = np.count_nonzero(slices.native_mask, axis=(1, 2))
        empty += (sum(volumes) + np.flatnonzero(gland[used] == 0)).tolist()
        images.append(with_neighbours(standardised(slices.image, standard[record.site]), neighbours)[used])
        masks.append(_truth(slices, target)[used])
        volumes.append(int(used.sum()))
    return Slices(
        torch.from_numpy(np.concatenate(images)),
        torch.from_numpy(np.concatenate(masks)),
        empty=tuple(empty),
        volumes=() if training.slices == "chosen" else tuple(volumes),
    )


def _truth(slices: PatientSlices, target: Target) -> NDArray[np.float32]:
    """Return a patient's masks of the gland and of each zone, (slices, classes, pixels, pixels)."""
    zones = slices.zones if slices.zones is not None else np.zeros(slices.mask.shape, np.uint8)
    return np.stack([slices.mask, *(zones == zone.label for zone in target.zones)], axis=1).astype(np.float32)


def batches(
    slices: Slices, training: TrainingConfig, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of one epoch in a random order: full batches and a smaller last one.

    A last batch of a single slice is joined to the batch before it, since batch normalisation cannot take one value.
    Of the slices without gland the epoch draws the study's share.

    Args:
        slices: the slices to train on.
        training: the study's training settings.
        generator: draws the order, and the slices without gland.

    Yields:
        Images (slices, channels, pixels, pixels) and masks (slices, classes, pixels, pixels).
    """
    places = _drawn(slices, training, generator)
    count, size = len(places), training.batch
    order = places[torch.randperm(count, generator=generator)]
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], count], strict=True):
        selected = order[start:end]
        yield slices.images[selected], slices.masks[selected]


def batches_in(slices: Slices, training: TrainingConfig) -> int:
    """Return the number of batches of an epoch."""
    shown = len(slices.images) - len(slices.empty) + drawn_of(len(slices.empty), training)
    return batches_per_epoch(shown, training.batch)


def _drawn(slices: Slices, training: TrainingConfig, generator: torch.Generator) -> torch.Tensor:
    """Return the places of the slices that an epoch trains on, in ascending order."""
    number = drawn_of(len(slices.empty), training)
    if number == len(slices.empty):
        return torch.arange(len(slices.images))
    used = torch.ones(len(slices.images), dtype=torch.bool)
    used[torch.tensor(slices.empty)[torch.randperm(len(slices.empty), generator=generator)[number:]]] = False
    return used.nonzero().flatten()


def augment(
    images: torch.Tensor, masks: torch.Tensor, kind: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch after random augmentation; with "none" the batch is returned unchanged.

    "light": each slice is flipped left–right with a probability of one half, turned by at most 10°, scaled by at most
    10 % and shifted by at most 10 % of its side; its intensities get a gain of at most 10 % and an offset of at most
    0.1 standard deviations. All amounts are uniform. Beyond the slice's edge the image is 0, its mean, before gain and
    offset.

    Args:
        images: (slices, channels, pixels, pixels), standardised, or boxes, of which all slices are moved alike.
        masks: (slices, classes, pixels, pixels), 0 or 1; see `Slices`.
        kind: "none" or "light".
        generator: draws the amounts.

    Returns:
        Images and masks of the same shapes.
    """
    if kind == "none":
        return images, masks
    n = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    flip = (torch.rand(n, generator=generator) < 0.5).float() * -2 + 1
    angle, scale = uniform(torch.pi / 18), 1 + uniform(0.1)
    shift = torch.stack([uniform(0.2), uniform(0.2)], dim=1)  # a side has the length 2 in affine_grid's units
    gain, offset = 1 + uniform(0.1), uniform(0.1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rotation = torch.stack([torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)], 1)
    plane = [n, 1, *images.shape[-2:]]
    field = F.affine_grid(torch.cat([rotation, shift.unsqueeze(2)], 2), plane, align_corners=False)
    images, masks = _moved(images, field), _whole(_moved(masks, field))
    of_each = (n, *[1] * (images.dim() - 1))
    return images * gain.view(of_each) + offset.view(of_each), masks


def _moved(values: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Return slices interpolated linearly at the places of a field; the slices of a box go as channels of one image."""
    planes = values.flatten(1, -3)
    moved = F.grid_sample(planes, field, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.view(values.shape)


def _whole(masks: torch.Tensor) -> torch.Tensor:
    """Return interpolated masks as 0 or 1: gland from one half on, and within it the zone with the larger share."""
    gland = (masks[:, :1] >= 0.5).float()
    if masks.shape[1] == 1:
        return gland
    zones = masks[:, 1:]
    larger = F.one_hot(zones.argmax(1), zones.shape[1]).permute(0, 3, 1, 2)
    return torch.cat([gland, larger * (zones.sum(1, keepdim=True) > 0) * gland], 1)

"""From prepared patients to standardised batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from client.preprocessing.pipeline import Record, load

MeanStd = tuple[float, float]


@dataclass(frozen=True)
class Slices:
    """Chosen slices, standardised, in the order of patients and, in a patient, from feet to head.

    `images` and `masks` are float32 tensors of the shape (slices, 1, pixels, pixels); a mask is 0 or 1.
    """

    images: torch.Tensor
    masks: torch.Tensor


def statistics(records: Sequence[Record]) -> dict[str, MeanStd]:
    """Mean and standard deviation of all pixels of the selected slices, for each site among the records.

    Pooled data keep each member's own statistics: a scanner's units are its own, and a member's patients
    are scored with these later.
    """
    sums: dict[str, list[float]] = {}
    for record in records:
        slices = load(record)
        pixels = slices.image[slices.selected].astype(np.float64)
        total = sums.setdefault(record.site, [0.0, 0.0, 0.0])
        total[0] += pixels.size
        total[1] += float(pixels.sum())
        total[2] += float(np.square(pixels).sum())
    result = {}
    for site, (count, first, second) in sums.items():
        mean = first / count
        result[site] = (mean, max(second / count - mean * mean, 1e-12) ** 0.5)
    return result


def standardised(image: np.ndarray, mean_std: MeanStd) -> np.ndarray:
    """Images less the mean, over the standard deviation; float32."""
    mean, std = mean_std
    return ((image - np.float32(mean)) / np.float32(std)).astype(np.float32, copy=False)


def selected_slices(records: Sequence[Record], mean_std: Mapping[str, MeanStd]) -> Slices:
    """Return the selected slices of all records; the records are taken in the order of their patients' names."""
    images, masks = [], []
    for record in sorted(records, key=lambda record: record.patient):
        slices = load(record)
        images.append(standardised(slices.image[slices.selected], mean_std[record.site]))
        masks.append(slices.mask[slices.selected].astype(np.float32))
    return Slices(
        torch.from_numpy(np.concatenate(images)).unsqueeze(1),
        torch.from_numpy(np.concatenate(masks)).unsqueeze(1),
    )


def batches(slices: Slices, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch in a random order: full batches and a smaller last one.

    A single slice left over joins the batch before it, since batch normalisation cannot take one value.
    """
    count = len(slices.images)
    order = torch.randperm(count, generator=generator)
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], count], strict=True):
        selected = order[start:end]
        yield slices.images[selected], slices.masks[selected]


def augment(
    images: torch.Tensor, masks: torch.Tensor, kind: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random variety of a batch; "none" gives the batch as it is.

    "light": each slice is flipped left–right by an even chance, turned by at most 10°, scaled by at most
    10 % and shifted by at most 10 % of its side, and its intensities get a gain of at most 10 % and an
    offset of at most 0.1 standard deviations; all uniform. Outside the slice lies its mean, 0.
    """
    if kind == "none":
        return images, masks
    n = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    flip = (torch.rand(n, generator=generator) < 0.5).float() * -2 + 1
    angle, scale = uniform(torch.pi / 18), 1 + uniform(0.1)
    shift = torch.stack([uniform(0.2), uniform(0.2)], dim=1)  # a side measures 2 in affine_grid's units
    gain, offset = 1 + uniform(0.1), uniform(0.1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rotation = torch.stack([torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)], 1)
    field = F.affine_grid(torch.cat([rotation, shift.unsqueeze(2)], 2), list(images.shape), align_corners=False)
    images = F.grid_sample(images, field, mode="bilinear", padding_mode="zeros", align_corners=False)
    masks = (F.grid_sample(masks, field, mode="bilinear", padding_mode="zeros", align_corners=False) >= 0.5).float()
    return images * gain.view(n, 1, 1, 1) + offset.view(n, 1, 1, 1), masks

"""Boxes of a volume, for networks in three dimensions.

A patient's slices lie on the study's grid in the plane, and as far apart as they were scanned. Along the third axis
they are resampled here, when they are needed, to slices `slice_spacing_mm` apart about the volume's centre; so the
prepared slices on the disk are those of a study in two dimensions. A training sees a box of `depth` slices of each
patient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.preprocessing.pipeline import Record, load
from client.preprocessing.resampling import resample_axis
from client.training.batches import Slices, Standard, standardised
from client.training.device import Device
from client.training.fine_tune import probabilities
from common.config.model import ModelConfig

OVERLAP = 0.5
"""The share of a box that the next box has in common with it, as in nnU-Net."""


def standardised_boxes(records: Sequence[Record], standard: Mapping[str, Standard], model: ModelConfig) -> Slices:
    """Return a box about the centre of each patient's volume, in the order of the patients' names.

    Beyond the volume's ends the standardised image is 0, its mean. A voxel of the mask is gland where the interpolated
    mask is at least one half.

    Args:
        records: the patients.
        standard: by what each site's images are standardised.
        model: the study's network.
    """
    images, masks = [], []
    for record in sorted(records, key=lambda record: record.patient):
        slices = load(record)
        spacing = slices.native_spacing[0]
        image, mask = (
            resample_axis(values, 0, spacing, model.depth, model.slice_spacing_mm)
            for values in (standardised(slices.image, standard[record.site]), slices.mask.astype(np.float32))
        )
        images.append(image[np.newaxis])
        masks.append((mask >= 0.5).astype(np.float32)[np.newaxis])
    return Slices(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks)))


def volume_probabilities(
    network: nn.Module, slices: NDArray[np.float32], spacing: float, model: ModelConfig, device: Device
) -> NDArray[np.float32]:
    """Return the probability of gland on every slice of a volume, however deep the volume is.

    A volume that is deeper than a box is segmented box by box. The boxes overlap by half, and each voxel gets a mean of
    their probabilities, in which a box's middle slices weigh most: as in nnU-Net (Isensee et al., Nature Methods 18,
    2021) the weights are Gaussian, of an eighth of the box in standard deviation.

    Args:
        network: the network, on its device.
        slices: (slices, pixels, pixels), on the study's grid in the plane, standardised.
        spacing: millimetres from one slice to the next.
        model: the study's network.
        device: the device and precision to predict in.

    Returns:
        The same shape as the slices.
    """
    from monai.inferers.inferer import SlidingWindowInferer

    count = _planes(len(slices), spacing, model)
    planes = resample_axis(slices, 0, spacing, count, model.slice_spacing_mm)
    box = (model.depth, *planes.shape[1:])
    # Boxes differ in height alone, so that in the plane all voxels weigh the same.
    slide = SlidingWindowInferer(box, sw_batch_size=1, overlap=OVERLAP, mode="gaussian", sigma_scale=(1 / 8, 1e3, 1e3))
    found = slide(torch.from_numpy(planes[np.newaxis, np.newaxis]), lambda shown: probabilities(network, shown, device))
    assert isinstance(found, torch.Tensor)
    return resample_axis(found[0, 0].numpy(), 0, model.slice_spacing_mm, len(slices), spacing)


def _planes(slices: int, spacing: float, model: ModelConfig) -> int:
    """Return how many slices of the box's spacing cover a volume: those of a box, and as many more at either end."""
    more = slices * spacing / model.slice_spacing_mm - model.depth
    return model.depth + 2 * max(0, math.ceil(more / 2 - 1e-6))

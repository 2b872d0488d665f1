"""How far a segmentation's surface lies from the expert's, in millimetres."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def surface_distances(
    predicted: NDArray[np.bool_], expert: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[float, float] | None:
    """The 95 % Hausdorff distance and the average symmetric surface distance of two volumes, as MONAI has them.

    The first is the larger of the two directed 95th percentiles, the second the mean over the voxels of both
    surfaces. A surface is what erosion by one voxel takes away.

    Args:
        predicted, expert: (slices, rows, columns), all slices.
        spacing: millimetres: slice, row, column.

    Returns None where one of the two is empty: then there is no distance.
    """
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    if not predicted.any() or not expert.any():
        return None
    one, other = (torch.from_numpy(volume)[None, None] for volume in (predicted, expert))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hausdorff = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)
        average = compute_average_surface_distance(one, other, include_background=True, symmetric=True, spacing=spacing)
    return float(hausdorff.item()), float(average.item())

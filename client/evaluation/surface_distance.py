"""The distance of a segmentation's surface from the expert's, in millimetres."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def surface_distances(
    predicted: NDArray[np.bool_], expert: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[float, float] | None:
    """Return the 95 % Hausdorff distance and the average symmetric surface distance of two volumes, in mm.

    Both are computed from MONAI's surface distances. The first is the larger of the two directed 95th percentiles, the
    second the mean over the voxels of both surfaces. A surface is the set of voxels that erosion by one voxel removes.

    Args:
        predicted: (slices, rows, columns), all slices.
        expert: the same shape.
        spacing: millimetres: slice, row, column.

    Returns:
        Both distances; None where either mask is empty, so that there is no distance.
    """
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    if not predicted.any() or not expert.any():
        return None
    # MONAI's own functions for the two metrics would each measure all distances again.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, distances, _ = get_edge_surface_distance(
            torch.from_numpy(predicted), torch.from_numpy(expert), spacing=spacing, symmetric=True
        )
    hausdorff = max(float(torch.quantile(one_way, 0.95)) for one_way in distances)
    return hausdorff, float(torch.cat(distances).mean())

"""Overlap of a predicted region with the expert's: Dice and IoU of two boolean arrays of the same shape.

Sources: Dice, Ecology 26 (1945); Jaccard, New Phytologist 11 (1912). Both scores lie in 0..1. Two empty arrays score
1.0; an empty array against a non-empty array scores 0.0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dice(predicted: NDArray[np.bool_], expert: NDArray[np.bool_]) -> float:
    """Return the Dice score, 2 |P ∩ E| / (|P| + |E|).

    Args:
        predicted: P, the predicted region, of any shape.
        expert: E, the expert's region, of the same shape.

    Raises:
        ValueError: the shapes differ, or an array is not boolean.
    """
    common, union = _overlap(predicted, expert)
    return 2 * common / (common + union) if union else 1.0


def iou(predicted: NDArray[np.bool_], expert: NDArray[np.bool_]) -> float:
    """Return the intersection over union, |P ∩ E| / |P ∪ E|.

    Args:
        predicted: P, the predicted region, of any shape.
        expert: E, the expert's region, of the same shape.

    Raises:
        ValueError: the shapes differ, or an array is not boolean.
    """
    common, union = _overlap(predicted, expert)
    return common / union if union else 1.0


def _overlap(predicted: NDArray[np.bool_], expert: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the sizes of intersection and union, in elements."""
    if predicted.shape != expert.shape:
        raise ValueError(f"a prediction of shape {predicted.shape} against an expert's {expert.shape}")
    if predicted.dtype != np.bool_ or expert.dtype != np.bool_:
        raise ValueError(f"boolean arrays are needed, not {predicted.dtype} and {expert.dtype}")
    return int(np.count_nonzero(predicted & expert)), int(np.count_nonzero(predicted | expert))

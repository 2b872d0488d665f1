"""How well a predicted region covers the expert's: Dice and IoU of two boolean arrays of one shape.

Dice, Ecology 26 (1945); Jaccard, New Phytologist 11 (1912). Both lie in 0..1. Two empty arrays agree
perfectly: 1.0; one empty and one not: 0.0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dice(predicted: NDArray[np.bool_], expert: NDArray[np.bool_]) -> float:
    """2 |P ∩ E| / (|P| + |E|). Raises ValueError where shapes differ or an array is not boolean."""
    common, union = _overlap(predicted, expert)
    return 2 * common / (common + union) if union else 1.0


def iou(predicted: NDArray[np.bool_], expert: NDArray[np.bool_]) -> float:
    """|P ∩ E| / |P ∪ E|. Raises ValueError where shapes differ or an array is not boolean."""
    common, union = _overlap(predicted, expert)
    return common / union if union else 1.0


def _overlap(predicted: NDArray[np.bool_], expert: NDArray[np.bool_]) -> tuple[int, int]:
    if predicted.shape != expert.shape:
        raise ValueError(f"a prediction of shape {predicted.shape} against an expert's {expert.shape}")
    if predicted.dtype != np.bool_ or expert.dtype != np.bool_:
        raise ValueError(f"boolean arrays are needed, not {predicted.dtype} and {expert.dtype}")
    return int(np.count_nonzero(predicted & expert)), int(np.count_nonzero(predicted | expert))

"""How far a training may step away from the weights that it was given.

A site can send any numbers of the declared shapes. Whatever they are, they shift the parameters of a model, and of an
average, by no more than the bound on the norm of the change (norm bounding: Sun, Kairouz, Suresh and McMahan, arXiv
1911.07963, 2019). Running means and variances of batch normalisation are no parameters and not bounded here: only the
bound on every value holds them (`common.model.weights.LARGEST`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from common.model.weights import Weights, load
from server.aggregation import STATISTICS
from server.transport.outcomes import TrainingFailed


def check_step(weights: Weights, parent: Path, largest: float) -> None:
    """Refuse weights that lie too far from those that the training was given.

    Statistics of batch normalisation do not count: they are another site's after any hand-off.

    Args:
        weights: the training's result; tensors that stayed at the site are missing.
        parent: the file of the weights that the site was given.
        largest: the study's `largest_step`; 0 for no bound.

    Raises:
        TrainingFailed: the norm of the change of all parameters together is more than `largest` times the norm of the
            parameters that were given, plus 1.
    """
    if not largest:
        return
    before = load(parent)
    names = [
        name
        for name, tensor in weights.items()
        if name in before and tensor.is_floating_point() and not name.endswith(STATISTICS)
    ]
    step = _norm(weights[name] - before[name] for name in names)
    norm = 1 + _norm(before[name] for name in names)
    if step > largest * norm:
        raise TrainingFailed(
            f"its weights lie {step / norm:.3g} times their norm away from those that it was given, and the study's"
            f" largest_step is {largest:g}"
        )


def _norm(tensors: Iterable[torch.Tensor]) -> float:
    """Return the norm of all values of some tensors together, summed in double precision."""
    return math.hypot(*(float(torch.linalg.vector_norm(one, dtype=torch.float64)) for one in tensors))

"""A patient's mask, tried on its image without a move and after each move; `evidence` judges the trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.layouts import Case
from client.data_check.moves import GIVEN, Move, moves
from client.data_check.outline import Floats, Outline, Strips, View, moved, outline, strips


@dataclass(frozen=True, eq=False)
class Outlined:
    """A patient's outline on its image: without a move, and after each move."""

    patient: str
    line: Outline
    strips: Mapping[Move, Strips]
    """The strips after each move, GIVEN included."""
    dice: Mapping[Move, float]
    """The Dice between the mask before and after each move."""
    middle: Mapping[Move, Floats]
    """Millimetres from the image's middle to the gland's: slices, rows, columns."""
    step: float
    """Millimetres from slice to slice."""


def outlined(case: Case, image: View) -> Outlined | None:
    """Try a patient's mask on its image; None where the mask is too small for an outline."""
    line = outline(case.mask, case.spacing)
    if line is None:
        return None
    possible = (GIVEN, *moves(image.shape))
    middle = np.array([place.mean() for place in np.nonzero(case.mask)]) - (np.array(case.mask.shape) - 1) / 2
    return Outlined(
        patient=case.patient,
        line=line,
        strips={move: strips(image, moved(line, move, image.shape)) for move in possible},
        dice={move: _dice(image.mask, move.of(image.mask)) for move in possible if move != GIVEN},
        middle={move: move.of_place(middle) * np.array(case.spacing) for move in possible},
        step=case.spacing[0],
    )


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    both = np.count_nonzero(one & other)
    return float(2 * both / (np.count_nonzero(one) + np.count_nonzero(other)))

"""Possible mistakes with a mask file, each as the move of the mask that undoes the mistake."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from client.data_check.findings import Kind
from common.text import listed


@dataclass(frozen=True)
class Move:
    """A way to lay a mask differently on the same grid. The steps are done in the order of the fields."""

    kind: Kind
    exchange: bool = False
    """Rows become columns, on square slices alone."""
    rows: bool = False
    """Front and back are exchanged, about the image's middle row."""
    columns: bool = False
    """Left and right are exchanged, about the middle column."""
    slices: bool = False
    """Head and feet are exchanged, about the middle slice."""
    shift: int = 0
    """Slices towards the head."""

    def of(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask (slices, rows, columns) after the move; mask beyond the volume is lost."""
        turned = mask.swapaxes(1, 2) if self.exchange else mask
        back = slice(None, None, -1)
        turned = turned[
            back if self.slices else slice(None),
            back if self.rows else slice(None),
            back if self.columns else slice(None),
        ]
        if not self.shift:
            return turned
        result = np.zeros_like(turned)
        if self.shift > 0:
            result[self.shift :] = turned[: -self.shift]
        else:
            result[: self.shift] = turned[-self.shift :]
        return result

    def of_place(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a place after the move, in voxels from the volume's middle (slices, rows, columns)."""
        if self.exchange:
            place = place[[0, 2, 1]]
        return place * np.where((self.slices, self.rows, self.columns), -1, 1) + (self.shift, 0, 0)

    @property
    def words(self) -> str:
        """Return the move in words for the beginning of a sentence, such as "Mirrored left to right"."""
        if self.kind is Kind.MIRRORED:
            return "Mirrored left to right"
        if self.kind is Kind.REVERSED:
            return "With its slices in reverse order"
        if self.kind is Kind.SHIFTED:
            return f"Moved by one slice towards the {'head' if self.shift > 0 else 'feet'}"
        steps = [
            words
            for done, words in (
                (self.exchange, "rows and columns exchanged"),
                (self.rows and self.columns, "turned by half within its slices"),
                (self.rows and not self.columns, "front and back exchanged"),
                (self.columns and not self.rows, "left and right exchanged"),
                (self.slices, "slices in reverse order"),
            )
            if done
        ]
        return f"With {listed(steps)}" if not steps[0].startswith("turned") else listed(steps).capitalize()


GIVEN = Move(Kind.MIRRORED)
"""The mask as it lies: a move without any step; the kind has no meaning."""

MIRRORED = Move(Kind.MIRRORED, columns=True)
REVERSED = Move(Kind.REVERSED, slices=True)
UP, DOWN = Move(Kind.SHIFTED, shift=1), Move(Kind.SHIFTED, shift=-1)
TURNED = tuple(
    Move(Kind.TURNED, exchange, rows, columns, slices)
    for exchange, rows, columns, slices in product((False, True), repeat=4)
    if exchange + rows + columns + slices > 1 or rows or exchange
)
"""All other ways to lay a mask on its grid by exchanging and mirroring axes."""


def moves(shape: tuple[int, int, int]) -> tuple[Move, ...]:
    """Return all moves possible on a grid.

    Args:
        shape: slices, rows, columns.
    """
    square = shape[1] == shape[2]
    return (MIRRORED, REVERSED, UP, DOWN, *(move for move in TURNED if square or not move.exchange))

"""Make smooth random fields, slice after slice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.phantom.gland import Grid

__all__ = ["Field"]


class Field:
    """Make a Gaussian field of about unit deviation, changing slowly from slice to slice.

    Args:
        grid: the grid whose slices the field covers.
        rng: the source of the field.
        pitch: size in mm of the field's structures along rows and columns.
        depth: size in mm of the field's structures along z.
    """

    def __init__(self, grid: Grid, rng: np.random.Generator, *, pitch: tuple[float, float], depth: float) -> None:
        self._rng = rng
        self._size = (grid.shape[2], grid.shape[1])
        _, rows, columns = grid.shape
        self._coarse = (
            max(4, round(rows * grid.spacing[1] / pitch[0])),
            max(4, round(columns * grid.spacing[2] / pitch[1])),
        )
        self._keep = float(np.exp(-grid.spacing[0] / depth))
        self._state = self._white()

    def _white(self) -> NDArray[np.float32]:
        return self._rng.standard_normal(self._coarse, dtype=np.float32)

    def next(self) -> NDArray[np.float32]:
        """Return the next slice towards the head, (rows, columns)."""
        fresh = np.float32(np.sqrt(1 - self._keep**2))
        self._state = np.float32(self._keep) * self._state + fresh * self._white()
        image = Image.fromarray(self._state).resize(self._size, Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.float32) * np.float32(1.3)

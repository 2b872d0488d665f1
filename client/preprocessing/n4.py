"""N4, which estimates a bias field, for voxels on a grid.

N4: Tustison et al., N4ITK: improved N3 bias correction, IEEE TMI 29 (2010). The logarithm of an image is the logarithm
of a sharp image plus a smooth field. Each iteration sharpens the histogram of what the field so far leaves, and fits a
lattice of cubic B-splines to the difference.

SimpleITK's filter fits the lattice to a list of scattered points, voxel by voxel. The voxels lie on a grid, where each
sum of that fit is a product of one matrix an axis: the same field in a hundredth of the time
(docs/explanation/performance.md, and tests/client/preprocessing/test_n4.py, which holds the two beside each other).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.sparse import csr_array

Floats = NDArray[np.float32]

# The filter's own values (Tustison et al., section II-B): bins of the histogram, the width of the field's distribution
# at half its height, the noise of the Wiener filter, and the spline's order.
BINS = 200
WIDTH = 0.15
NOISE = 0.01
ORDER = 3


def log_bias_field(
    image: Floats,
    foreground: NDArray[np.bool_],
    steps: Sequence[int],
    iterations: Sequence[int],
    convergence: float,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """Return the logarithm of an image's bias field, up to a constant.

    Args:
        image: (slices, rows, columns), positive in the foreground.
        foreground: the voxels that the field is fitted to; same shape.
        steps: along each axis every so many-th voxel is fitted to.
        iterations: the most iterations of each level; each level after the first halves the distance of the lattice's
            points, of which there are four along an axis at first.
        convergence: a level ends where the ratio of two fields varies by less than this (standard deviation by mean).
        progress: is called with the number of finished iterations, and the greatest possible number; a level may end
            early.

    Returns:
        (slices, rows, columns), at every voxel.

    Raises:
        RuntimeError: no fitted voxel is foreground, or all of them have the same value.
    """
    # In the middle of what each of them stands for.
    taken = tuple(slice(min(step // 2, n - 1), None, step) for step, n in zip(steps, image.shape, strict=True))
    values, inside = image[taken], foreground[taken]
    at = np.flatnonzero(inside)
    logarithms = np.log(values.take(at).astype(np.float64)).astype(np.float32)
    if not logarithms.size or logarithms.min() == logarithms.max():
        raise RuntimeError("the foreground has a single value")
    places = [np.arange(n, dtype=float)[part] for part, n in zip(taken, image.shape, strict=True)]
    before = [0, *accumulate(iterations)]
    spans, lattice = 1, np.zeros((1 + ORDER,) * image.ndim)
    field, residual = np.zeros_like(logarithms), np.zeros(values.shape, np.float32)
    for level, most in enumerate(iterations):
        if level:
            spans, lattice = 2 * spans, _refined(lattice)
        splines = [_splines(place, n, spans) for place, n in zip(places, image.shape, strict=True)]
        shares = [_transposed(spline.power(3).multiply(1 / _squares(spline))) for spline in splines]
        weights = _along([_transposed(spline.power(2)) for spline in splines], inside.astype(np.float32))
        for iteration in range(1, most + 1):
            left = logarithms - field
            residual.put(at, left - _sharpened(left))
            sums = _along(shares, residual)
            lattice += np.divide(sums, weights, out=np.zeros_like(lattice), where=weights > 0)
            old, field = field, _along(splines, lattice.astype(np.float32)).take(at)
            if progress is not None:
                progress(before[level] + iteration, before[-1])
            ratio = np.exp(old - field)
            if ratio.std(ddof=1, dtype=np.float64) <= convergence * ratio.mean(dtype=np.float64):
                break
    whole = [_splines(np.arange(n, dtype=float), n, spans) for n in image.shape]
    return _along(whole, lattice.astype(np.float32))


def _splines(places: NDArray[np.float64], voxels: int, spans: int) -> csr_array:
    """Return the value of every B-spline at places along an axis: (places, spans + ORDER).

    Args:
        places: indices of voxels.
        voxels: how many the axis has; the lattice reaches from the first to the last.
        spans: how many parts of equal length the lattice has.
    """
    knots = np.arange(-ORDER, spans + ORDER + 1, dtype=float)
    return csr_array(BSpline.design_matrix(places * (spans / max(voxels - 1, 1)), knots, ORDER)).astype(np.float32)


def _squares(splines: csr_array) -> Floats:
    """Return, for every place, the sum of the squares of its splines: (places, 1)."""
    sums: Floats = splines.power(2).sum(axis=1)
    return sums[:, None]


def _transposed(matrix: csr_array) -> csr_array:
    return csr_array(matrix.T, dtype=np.float32)


def _along(matrices: Sequence[csr_array], values: Floats) -> Floats:
    """Multiply an array by a matrix along each of its axes, the first by the first."""
    for matrix in matrices:
        product = matrix @ values.reshape(len(values), -1)
        values = np.moveaxis(product.reshape(-1, *values.shape[1:]), 0, -1)
    return np.ascontiguousarray(values)


def _refined(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lattice of the same field with twice as many spans along each axis."""
    for axis in range(lattice.ndim):
        old = np.moveaxis(lattice, axis, 0)
        new = np.empty((2 * len(old) - ORDER, *old.shape[1:]))
        new[0::2] = (old[:-1] + old[1:]) / 2
        new[1::2] = (old[:-2] + 6 * old[1:-1] + old[2:]) / 8
        lattice = np.moveaxis(new, 0, axis)
    return np.ascontiguousarray(lattice)


def _sharpened(values: Floats) -> Floats:
    """Return, for each logarithm, the one that is expected before the field blurred the histogram.

    The histogram is deconvolved with the field's distribution, a Gaussian, by a Wiener filter.
    """
    lowest, highest = float(values.min()), float(values.max())
    width = (highest - lowest) / (BINS - 1)
    if width == 0:
        return values
    position = (values - np.float32(lowest)) / np.float32(width)
    bins = np.minimum(position.astype(np.int32), BINS - 2)
    part = position - bins
    histogram = np.bincount(bins, 1 - part, BINS) + np.bincount(bins + 1, part, BINS)

    length = 2 << (BINS - 1).bit_length()
    offset = (length - BINS) // 2
    away = np.minimum(np.arange(length), length - np.arange(length)) * (width / WIDTH)
    height = 2 * np.sqrt(np.log(2) / np.pi) * width / WIDTH
    blur = np.fft.rfft(height * np.exp(-4 * np.log(2) * away**2)).real
    padded = np.zeros(length)
    padded[offset : offset + BINS] = histogram
    sharp = np.maximum(np.fft.irfft(np.fft.rfft(padded) * blur / (blur**2 + NOISE), length), 0)
    centres = lowest + (np.arange(length) - offset) * width
    above, below = (np.fft.irfft(np.fft.rfft(some) * blur, length) for some in (centres * sharp, sharp))
    expected = np.divide(above, below, out=np.zeros(length), where=below != 0)[offset : offset + BINS]
    expected = expected.astype(np.float32)
    return expected[bins] + (expected[bins + 1] - expected[bins]) * part

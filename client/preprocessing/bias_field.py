"""Correction of the slow brightness differences that a coil causes in an image (bias field)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from common.config.study import N4Config


def correct_bias_field(
    image: NDArray[np.float32],
    spacing: tuple[float, float, float],
    n4: N4Config,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Divide an image by the slow brightness differences that a coil causes, as N4 estimates them.

    N4: Tustison et al., N4ITK: improved N3 bias correction, IEEE TMI 29 (2010). The field is fitted on the volume
    shrunk in-plane, over the foreground, and its spline is evaluated on the full volume. The foreground is found by
    Otsu's threshold on logarithms, since a near coil is so bright that a threshold on plain intensities would exclude
    most of the gland. Beyond the foreground the logarithm of the field may exceed its range within the foreground by
    the width of this range on either side, since a spline runs away where no data constrain it. A magnitude image
    cannot be negative: an image with negative values is shifted until the least value is 0. N4 takes logarithms, so
    voxels of 0 never count as foreground.

    Args:
        image: (slices, rows, columns).
        spacing: millimetres: slice, row, column.
        n4: N4's settings.
        progress: is called with the number of finished iterations, and the greatest possible number; a level may end
            early.

    Returns:
        The corrected image, in the same shape.

    Raises:
        RuntimeError: ITK cannot fit a field.
    """
    import SimpleITK as sitk

    volume = sitk.GetImageFromArray(image - min(float(image.min()), 0.0))
    volume.SetSpacing(spacing[::-1])
    positive = volume > 0
    bright = float(np.percentile(sitk.GetArrayViewFromImage(volume), 99)) or 1.0
    foreground = sitk.And(sitk.OtsuThreshold(sitk.Log(1 + volume * (1000 / bright)), 0, 1, 200), positive)
    if not sitk.GetArrayViewFromImage(foreground).any():
        foreground = positive
    columns, rows, _ = volume.GetSize()
    factors = [max(1, min(n4.shrink, columns // 4)), max(1, min(n4.shrink, rows // 4)), 1]
    small, small_foreground = sitk.Shrink(volume, factors), sitk.Shrink(foreground, factors)
    fit = sitk.N4BiasFieldCorrectionImageFilter()
    fit.SetNumberOfThreads(1)
    fit.SetMaximumNumberOfIterations(list(n4.iterations))
    fit.SetConvergenceThreshold(n4.convergence)
    if progress is not None:
        before = [sum(n4.iterations[:level]) for level in range(len(n4.iterations) + 1)]
        fit.AddCommand(
            sitk.sitkIterationEvent,
            lambda: progress(
                before[min(fit.GetCurrentLevel(), len(n4.iterations))] + fit.GetElapsedIterations(), before[-1]
            ),
        )
    fit.Execute(small, small_foreground)
    field = sitk.GetArrayFromImage(fit.GetLogBiasFieldAsImage(volume))
    seen = field[sitk.GetArrayViewFromImage(foreground) > 0]
    if not np.isfinite(seen).all():
        raise RuntimeError("the field is not finite")
    values: NDArray[np.float32] = sitk.GetArrayFromImage(volume)
    lowest, highest = seen.min(), seen.max()
    width = highest - lowest
    return values / np.exp(np.clip(field, lowest - width, highest + width))

"""Correction of the slow brightness differences that a coil causes in an image (bias field)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from common.config.study import N4Config


def correct_bias_field(
    image: NDArray[np.float32],
    n4: N4Config,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Divide an image by the slow brightness differences that a coil causes, as N4 estimates them.

    The field is fitted over the foreground, on every so many-th row and column, and its spline is evaluated on the full
    volume. The foreground is found by Otsu's threshold on logarithms, since a near coil is so bright that a threshold
    on plain intensities would exclude most of the gland. Beyond the foreground the logarithm of the field may exceed
    its range within the foreground by the width of this range on either side, since a spline runs away where no data
    constrain it. A magnitude image cannot be negative: an image with negative values is shifted until the least value
    is 0. N4 takes logarithms, so voxels of 0 never count as foreground.

    Args:
        image: (slices, rows, columns).
        n4: N4's settings.
        progress: is called with the number of finished iterations, and the greatest possible number; a level may end
            early.

    Returns:
        The corrected image, in the same shape.

    Raises:
        RuntimeError: no field can be fitted.
    """
    # SciPy's splines take a tenth of a second to import; a site's worker needs them for new patients alone.
    from client.preprocessing.n4 import log_bias_field

    values = image - min(image.min(), np.float32(0))
    inside = foreground(values)
    _, rows, columns = values.shape
    steps = (1, max(1, min(n4.shrink, rows // 4)), max(1, min(n4.shrink, columns // 4)))
    field = log_bias_field(values, inside, steps, n4.iterations, n4.convergence, progress=progress)
    seen = field[inside]
    if not np.isfinite(seen).all():
        raise RuntimeError("the field is not finite")
    lowest, highest = seen.min(), seen.max()
    width = highest - lowest
    corrected: NDArray[np.float32] = values / np.exp(np.clip(field, lowest - width, highest + width))
    return corrected


def foreground(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which voxels are no air: (slices, rows, columns).

    Args:
        values: none is negative.
    """
    import SimpleITK as sitk

    positive = values > 0
    bright = float(np.percentile(values, 99)) or 1.0
    logarithms = sitk.GetImageFromArray(np.log1p(values * np.float32(1000 / bright)))
    bright_enough = sitk.GetArrayFromImage(sitk.OtsuThreshold(logarithms, 0, 1, 200)) > 0
    found: NDArray[np.bool_] = bright_enough & positive
    return found if found.any() else positive

"""N4 on a grid: beside SimpleITK's filter, which is its reference, and beside plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.preprocessing.n4 import log_bias_field
from tests.support.hospitals import REAL_DATA


def phantom(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Three tissues with noise under a slow field: (slices, rows, columns)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    a, b, c, d = rng.uniform(-0.6, 0.6, 4)
    tissue = np.where(x**2 + y**2 < 0.8, 100.0, 2.0) + np.where((x - b) ** 2 + y**2 < 0.1, 60.0, 0.0)
    field = np.exp(a * x + b * y + c * x * y + d * z + 0.3 * np.sin(3 * x))
    return np.maximum(tissue * field + rng.normal(0, 2, shape), 0.1).astype(np.float32)


def simpleitk(
    image: NDArray[np.float32], foreground: NDArray[np.bool_], iterations: tuple[int, ...], convergence: float
) -> NDArray[np.float32]:
    volume = sitk.GetImageFromArray(image)
    fit = sitk.N4BiasFieldCorrectionImageFilter()
    fit.SetNumberOfThreads(1)
    fit.SetMaximumNumberOfIterations(iterations)
    fit.SetConvergenceThreshold(convergence)
    fit.Execute(volume, sitk.GetImageFromArray(foreground.astype(np.uint8)))
    found: NDArray[np.float32] = sitk.GetArrayFromImage(fit.GetLogBiasFieldAsImage(volume))
    return found


@pytest.mark.parametrize("iterations", [(7,), (5, 4), (4, 3, 3, 2)])
@pytest.mark.parametrize("shape", [(6, 40, 40), (9, 31, 44), (5, 64, 32)])
def test_the_field_is_that_of_simpleitks_filter(shape: tuple[int, ...], iterations: tuple[int, ...]) -> None:
    image = phantom(shape, seed=sum(shape))
    foreground = image > 20
    ours = log_bias_field(image, foreground, (1, 1, 1), iterations, 1e-9)
    theirs = simpleitk(image, foreground, iterations, 1e-9)
    assert np.ptp(theirs[foreground]) > 0.05
    assert np.abs(ours - theirs)[foreground].max() < 1e-3 * np.ptp(theirs[foreground])


def test_a_level_ends_where_simpleitks_does() -> None:
    image = phantom((6, 40, 40), seed=3)
    foreground = image > 20
    seen: list[tuple[int, int]] = []
    ours = log_bias_field(image, foreground, (1, 1, 1), (30, 30), 0.004, progress=lambda *at: seen.append(at))
    theirs = simpleitk(image, foreground, (30, 30), 0.004)
    assert np.abs(ours - theirs)[foreground].max() < 1e-3
    assert len(seen) < 60 and all(total == 60 for _, total in seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_field_fitted_to_every_second_row_and_column_is_nearly_the_same() -> None:
    image = phantom((6, 96, 96), seed=5)
    foreground = image > 20
    whole = log_bias_field(image, foreground, (1, 1, 1), (20, 20), 1e-9)
    part = log_bias_field(image, foreground, (1, 2, 2), (20, 20), 1e-9)
    ratio = np.exp(part - whole)[foreground]
    assert np.abs(ratio / ratio.mean() - 1).mean() < 0.01


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20)),
    steps=st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_field_is_finite_or_refused(shape: tuple[int, ...], steps: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.choice([1, 50, 50, 300], shape).astype(np.float32)
    foreground = rng.random(shape) < rng.random()
    taken = tuple(slice(min(step // 2, n - 1), None, step) for step, n in zip(steps, shape, strict=True))
    if len(np.unique(image[taken][foreground[taken]])) < 2:
        with pytest.raises(RuntimeError, match="single value"):
            log_bias_field(image, foreground, steps, (3, 2), 1e-3)
        return
    field = log_bias_field(image, foreground, steps, (3, 2), 1e-3)
    assert field.shape == image.shape and field.dtype == np.float32 and np.isfinite(field).all()


def test_a_brighter_image_has_the_same_field() -> None:
    image = phantom((5, 40, 40), seed=1)
    foreground = image > 20
    one, other = (log_bias_field(image * times, foreground, (1, 1, 1), (8, 4), 1e-9) for times in (1, 37))
    assert np.abs(one - other)[foreground].max() < 1e-3


@pytest.mark.slow
def test_the_field_of_a_real_series_is_that_of_simpleitks_filter() -> None:
    folder = REAL_DATA / "hospitals" / "ucl"
    if not folder.is_dir():
        pytest.skip(f"no real hospital in {folder}")
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "Case00.nii.gz"), sitk.sitkFloat32))[:, ::4, ::4]
    foreground = image > 20
    ours = log_bias_field(image, foreground, (1, 1, 1), (10, 10, 10, 10), 1e-3)
    theirs = simpleitk(image, foreground, (10, 10, 10, 10), 1e-3)
    assert np.abs(ours - theirs)[foreground].max() < 1e-3

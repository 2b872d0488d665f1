"""How often intervals of a mean over few patients hold the true mean: `python -m tests.bench.coverage`.

Three methods meet normal and skewed (lognormal) patients. None of them is imported from the program, whose method is
the one that falls short of 95 % by the least (`tests/common/statistics/test_intervals.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import t, ttest_1samp

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats]
"""Lower and upper ends, one a sample."""

PATIENTS = (6, 10, 16, 30)
SAMPLES = 4000
SEED = 1969
LEVEL = 0.95


def normal(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return differences that are normally distributed about 0."""
    return generator.normal(size=shape)


def skewed(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return differences that are lognormally distributed, with mean 0."""
    return generator.lognormal(size=shape) - np.exp(0.5)


DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {"normal": normal, "lognormal": skewed}


def student(values: Floats, generator: np.random.Generator) -> Ends:
    """Student's t interval. Args: values: (samples, patients)."""
    found = ttest_1samp(values, 0.0, axis=1).confidence_interval(LEVEL)
    return found.low, found.high


def bootstrap_t(values: Floats, generator: np.random.Generator, resamples: int = 999) -> Ends:
    """The bootstrap-t: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 12.5."""
    samples, patients = values.shape
    low, high = np.empty(samples), np.empty(samples)
    for index, sample in enumerate(values):
        drawn = sample[generator.integers(patients, size=(resamples, patients))]
        with np.errstate(divide="ignore"):
            statistic = (drawn.mean(axis=1) - sample.mean()) / (drawn.std(axis=1, ddof=1) / patients**0.5)
        ends = np.quantile(statistic, [(1 + LEVEL) / 2, (1 - LEVEL) / 2], method="nearest")
        low[index], high[index] = sample.mean() - ends * sample.std(ddof=1) / patients**0.5
    return low, high


def hartigan(values: Floats, generator: np.random.Generator, subsets: int = 4095) -> Ends:
    """Hartigan's typical values: the means of all subsets of the patients, or of so many drawn ones (JASA 64, 1969)."""
    patients = values.shape[1]
    if 2**patients <= subsets + 1:
        selected = (np.arange(1, 2**patients)[:, None] >> np.arange(patients)) & 1
    else:
        selected = generator.integers(2, size=(subsets, patients))
        selected = selected[selected.any(axis=1)]
    beyond = int((len(selected) + 1) * (1 - LEVEL) / 2 + 1e-9)
    shares = selected / selected.sum(axis=1, keepdims=True)
    low, high = np.empty(len(values)), np.empty(len(values))
    for index, sample in enumerate(values):
        means = np.partition(shares @ sample, (beyond - 1, len(selected) - beyond))
        low[index], high[index] = means[beyond - 1], means[-beyond]
    return low, high


METHODS: dict[str, Callable[[Floats, np.random.Generator], Ends]] = {
    "t": student,
    "bootstrap-t": bootstrap_t,
    "Hartigan": hartigan,
}


def coverage(
    method: Callable[[Floats, np.random.Generator], Ends], draw: str, patients: int, samples: int = SAMPLES
) -> tuple[float, float, float]:
    """Return per cent of intervals that hold the true mean 0, and their width in that of the t interval: its median,
    and the value that one interval in ten exceeds."""
    values = DRAWS[draw](np.random.default_rng((SEED, patients)), (samples, patients))
    low, high = method(values, np.random.default_rng((SEED, patients, 1)))
    width = 2 * t.ppf((1 + LEVEL) / 2, patients - 1) * values.std(axis=1, ddof=1) / patients**0.5
    middle, wide = np.quantile((high - low) / width, [0.5, 0.9])
    return 100 * float(np.mean((low <= 0) & (high >= 0))), float(middle), float(wide)


def table(samples: int = SAMPLES) -> dict[tuple[str, str, int], tuple[float, float, float]]:
    """Return `coverage` by method, distribution and number of patients."""
    return {
        (name, draw, patients): coverage(method, draw, patients, samples)
        for name, method in METHODS.items()
        for draw in DRAWS
        for patients in PATIENTS
    }


def main(samples: int) -> None:
    """Print the table of docs/explanation/statistics.md."""
    found = table(samples)
    title = f"Per cent of 95 % intervals that hold the true mean, {samples} samples; in brackets the widths"
    shown = Table(title=title)
    for name in ("patients' values", "patients", *METHODS):
        shown.add_column(name)
    for draw in DRAWS:
        for patients in PATIENTS:
            cells = (found[name, draw, patients] for name in METHODS)
            texts = (f"{share:.1f} ({middle:.2f}, {wide:.2f})" for share, middle, wide in cells)
            shown.add_row(draw, str(patients), *texts)
    Console(width=100).print(shown)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)

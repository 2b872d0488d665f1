"""How often intervals of a mean over few patients hold the true mean: `python -m tests.bench.coverage`.

Three methods meet differences between two methods on the same patients. None of them is imported from the program,
whose method for so many patients is the one that `best` names (`tests/common/statistics/test_intervals.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import t, ttest_1samp

from common.statistics.power import smallest_gain

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats]
"""Lower and upper ends, one a sample."""

PATIENTS = (6, 7, 10, 16, 30)
SAMPLES = 20_000
SEED = 1969
COVER = 0.95
TOLERANCE = 2.0
"""The points by which an interval may fall short of the cover that it states."""
PART = 500
"""The samples of a bootstrap that are resampled at once, to limit memory."""


def normal(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return differences that are normally distributed about 0."""
    return generator.normal(size=shape)


def skewed(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return exponentially distributed differences with mean 0 and skewness 2, as skewed as those of kept studies."""
    return generator.exponential(size=shape) - 1


def very_skewed(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return lognormally distributed differences with mean 0 and skewness 6."""
    return generator.lognormal(size=shape) - np.exp(0.5)


def failing(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return normal differences, with one method failing by ten standard deviations in 5 % of patients, and the other
    in other 5 %."""
    drawn = generator.random(size=shape)
    return generator.normal(size=shape) + 10 * ((drawn < 0.05).astype(float) - (drawn > 0.95))


DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "normal": normal,
    "skewed": skewed,
    "very skewed": very_skewed,
    "failing": failing,
}
DECIDE = ("normal", "skewed")
"""The differences by which a method is chosen; the others show where the chosen one is wrong."""


def student(values: Floats, generator: np.random.Generator) -> Ends:
    """Student's t interval. Args: values: (samples, patients)."""
    found = ttest_1samp(values, 0.0, axis=1).confidence_interval(COVER)
    return found.low, found.high


def bootstrap_t(values: Floats, generator: np.random.Generator, resamples: int = 1999) -> Ends:
    """The bootstrap-t: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 12.5."""
    patients = values.shape[1]
    times = generator.multinomial(patients, np.full(patients, 1 / patients), size=resamples).T / patients
    means, errors = values.mean(axis=1), values.std(axis=1, ddof=1) / patients**0.5
    statistics = np.empty((2, len(values)))
    for start in range(0, len(values), PART):
        part = slice(start, start + PART)
        apart = values[part] - means[part, None]
        drawn = apart @ times
        variances = np.maximum((apart**2) @ times - drawn**2, 0.0) / (patients - 1)
        usable = variances > (1e-9 * errors[part, None]) ** 2  # one patient drawn every time has no standard error
        found = np.where(usable, drawn / np.sqrt(np.where(usable, variances, 1.0)), np.nan)
        statistics[:, part] = np.nanquantile(found, [(1 + COVER) / 2, (1 - COVER) / 2], axis=1)
    return means - statistics[0] * errors, means - statistics[1] * errors


def hartigan(values: Floats, generator: np.random.Generator, subsets: int = 4095) -> Ends:
    """Hartigan's typical values: the means of all subsets of the patients, or of so many drawn ones (JASA 64, 1969)."""
    patients = values.shape[1]
    if 2**patients <= subsets + 1:
        selected = (np.arange(1, 2**patients)[:, None] >> np.arange(patients)) & 1
    else:
        selected = generator.integers(2, size=(subsets, patients))
        selected = selected[selected.any(axis=1)]
    beyond = int((len(selected) + 1) * (1 - COVER) / 2 + 1e-9)
    shares = (selected / selected.sum(axis=1, keepdims=True)).T
    low, high = np.empty(len(values)), np.empty(len(values))
    for start in range(0, len(values), PART):
        part = slice(start, start + PART)
        means = np.partition(values[part] @ shares, (beyond - 1, len(selected) - beyond), axis=1)
        low[part], high[part] = means[:, beyond - 1], means[:, -beyond]
    return low, high


Method = Callable[[Floats, np.random.Generator], Ends]

METHODS: dict[str, Method] = {"t": student, "bootstrap-t": bootstrap_t, "Hartigan": hartigan}


@dataclass(frozen=True)
class Coverage:
    """How a method does with some differences and number of patients."""

    held: float
    """Per cent of intervals that hold the true mean."""
    middle: float
    """The median width, in that of the t interval."""
    wide: float
    """The width that one interval in ten exceeds, in that of the t interval."""


def coverage(method: Method, draw: str, patients: int, samples: int) -> Coverage:
    """Return how a method does; the same call always draws the same patients."""
    values = DRAWS[draw](np.random.default_rng((SEED, patients)), (samples, patients))
    low, high = method(values, np.random.default_rng((SEED, patients, 1)))
    width = 2 * t.ppf((1 + COVER) / 2, patients - 1) * values.std(axis=1, ddof=1) / patients**0.5
    middle, wide = np.quantile((high - low) / width, [0.5, 0.9])
    return Coverage(100 * float(np.mean((low <= 0) & (high >= 0))), float(middle), float(wide))


def best(found: Mapping[tuple[str, str], Coverage]) -> str:
    """Return the method to use for a number of patients.

    Of the methods that fall short of their cover by no more than `TOLERANCE` with all differences that decide, it is
    the one whose long intervals are the shortest; with no such method, the one that falls short by the least.

    Args:
        found: for each method and kind of differences how the method does.
    """
    short = {name: max(100 * COVER - found[name, draw].held for draw in DECIDE) for name in METHODS}
    wide = {name: max(found[name, draw].wide for draw in DECIDE) for name in METHODS}
    kept = [name for name in METHODS if short[name] <= TOLERANCE]
    return min(kept, key=wide.__getitem__) if kept else min(METHODS, key=short.__getitem__)


def table(patients: int, samples: int, draws: tuple[str, ...] = DECIDE) -> dict[tuple[str, str], Coverage]:
    """Return how every method does with some differences of so many patients."""
    return {
        (name, draw): coverage(method, draw, patients, samples) for name, method in METHODS.items() for draw in draws
    }


def power_of(name: str, patients: int, samples: int) -> float:
    """Return per cent of intervals above zero, where the t-test shows the true gain in 80 % (normal differences)."""
    generator = np.random.default_rng((SEED, patients, 2))
    values = generator.normal(smallest_gain(patients, 1.0), 1.0, size=(samples, patients))
    low, _ = METHODS[name](values, generator)
    return 100 * float(np.mean(low > 0))


def main(samples: int) -> None:
    """Print the figures of docs/explanation/statistics.md."""
    title = f"Per cent of 95 % intervals that hold the true mean, {samples} samples; in brackets the widths"
    shown = Table(title=title)
    for name in ("differences", "patients", *METHODS, "chosen"):
        shown.add_column(name)
    found = {patients: table(patients, samples, tuple(DRAWS)) for patients in PATIENTS}
    for draw in DRAWS:
        for patients in PATIENTS:
            cells = (found[patients][name, draw] for name in METHODS)
            texts = (f"{cell.held:.1f} ({cell.middle:.2f}, {cell.wide:.2f})" for cell in cells)
            shown.add_row(draw, str(patients), *texts, best(found[patients]))
    Console(width=110).print(shown)
    for patients in PATIENTS:
        above = power_of(best(found[patients]), patients, samples)
        print(f"{patients} patients: {above:.0f} % lie above zero at the gain that the plan tells")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)

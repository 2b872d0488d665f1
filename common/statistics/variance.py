"""Variance components: how much of the spread of figures comes from patients, splits, trainings and methods."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

LEFT = "left"
"""The component of what no other explains."""


def components(
    values: Sequence[float], *, fixed: Mapping[str, Sequence[Hashable]], random: Mapping[str, Sequence[Hashable]]
) -> dict[str, float]:
    """Return the variance of each random effect, by the method of moments.

    The model is a sum of fixed effects and of independent random effects. The sum of squares of each random effect's
    totals, after the fixed effects, is equated to its expectation, which is linear in the variances: MINQUE(0) (Rao,
    Journal of Multivariate Analysis 1, 1971; Hartley, Rao & LaMotte, Biometrics 34, 1978). It needs neither normal
    values nor the same number of values everywhere; with the same number it is analysis of variance. An estimate below
    zero is zero.

    Args:
        values: the values.
        fixed: for each fixed effect the level of each value, such as its method.
        random: for each random effect the level of each value, such as its patient.

    Returns:
        The variance of each random effect and of what is left (`LEFT`), in the square of the values' unit.

    Raises:
        ValueError: the effects cannot be told apart by these values.
    """
    given = np.asarray(values, dtype=np.float64)
    design = np.concatenate([np.ones((len(given), 1)), *(_levels(of) for of in fixed.values())], axis=1)
    basis, sizes, _ = np.linalg.svd(design, full_matrices=False)
    basis = basis[:, sizes > 1e-9 * sizes[0]]

    def rest(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return matrix - basis @ (basis.T @ matrix)

    names = [*random, LEFT]
    incidence = [_levels(of) for of in random.values()]
    kept, outcome = [rest(matrix) for matrix in incidence], rest(given[:, None])[:, 0]
    number = len(names)
    expected, found = np.empty((number, number)), np.empty(number)
    for row, (matrix, own) in enumerate(zip(incidence, kept, strict=True)):
        found[row] = ((matrix.T @ outcome) ** 2).sum()
        expected[row, -1] = expected[-1, row] = (own**2).sum()
        for column, other in enumerate(kept):
            expected[row, column] = ((matrix.T @ other) ** 2).sum()
    found[-1], expected[-1, -1] = outcome @ outcome, len(given) - basis.shape[1]
    scale = np.sqrt(np.diag(expected))
    if not scale.all() or np.linalg.cond(expected / np.outer(scale, scale)) > 1e8:
        raise ValueError("the effects cannot be told apart")
    solved = np.linalg.solve(expected, found)
    return {name: max(0.0, float(value)) for name, value in zip(names, solved, strict=True)}


def _levels(of: Sequence[Hashable]) -> NDArray[np.float64]:
    """Return which level each value has, (values, levels): 1 for the value's level, else 0."""
    places = {level: place for place, level in enumerate(dict.fromkeys(of))}
    found = np.zeros((len(of), len(places)))
    found[np.arange(len(of)), [places[level] for level in of]] = 1.0
    return found

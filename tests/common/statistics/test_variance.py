"""Variance components: analysis of variance where it is balanced, and the known variances of drawn values elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from common.statistics.variance import LEFT, components


def test_of_balanced_groups_it_is_analysis_of_variance() -> None:
    generator = np.random.default_rng(1)
    groups = generator.normal(size=(12, 1)) * 3 + generator.normal(size=(12, 5))
    within = groups.var(axis=1, ddof=1).mean()
    between = groups.mean(axis=1).var(ddof=1) - within / 5
    found = components(list(groups.ravel()), fixed={}, random={"group": [k for k in range(12) for _ in range(5)]})
    assert found == pytest.approx({"group": between, LEFT: within})


def test_the_known_variances_of_unbalanced_crossed_values_are_found_in_the_mean() -> None:
    """Patients, splits and seeds of a study of three methods at three hospitals; a patient is tested in some splits."""
    generator = np.random.default_rng(2)
    true = {"patient": 16.0, "method at hospital": 1.0, "split": 2.25, "seed": 0.64, LEFT: 4.0}
    sums = dict.fromkeys(true, 0.0)
    studies = 60
    for _ in range(studies):
        values, levels = [], {name: [] for name in (*true, "hospital", "method")}
        drawn: dict[object, float] = {}

        def effect(name: str, *level: object, drawn: dict[object, float] = drawn) -> float:
            return drawn.setdefault((name, *level), float(generator.normal(0, true[name] ** 0.5)))

        for hospital in range(3):
            for split in range(4):
                tested = generator.choice(20, size=6, replace=False)
                for method, seed, case in np.ndindex(3, 2, 6):
                    patient = int(tested[case])
                    of = {
                        "patient": (hospital, patient),
                        "method at hospital": (hospital, method),
                        "split": (hospital, method, split),
                        "seed": (hospital, method, split, seed),
                    }
                    values.append(
                        80 + 5 * hospital - method + sum(effect(name, *level) for name, level in of.items())
                        + float(generator.normal(0, true[LEFT] ** 0.5))
                    )  # fmt: skip
                    for name, level in (of | {"hospital": (hospital,), "method": (method,)}).items():
                        levels[name].append(level)
        random = {name: levels[name] for name in true if name != LEFT}
        fixed = {name: levels[name] for name in ("hospital", "method")}
        for name, variance in components(values, fixed=fixed, random=random).items():
            sums[name] += variance / studies
    for name, variance in true.items():
        assert sums[name] == pytest.approx(variance, rel=0.2, abs=0.1), name


def test_effects_that_cannot_be_told_apart_are_refused_and_no_variance_is_negative() -> None:
    with pytest.raises(ValueError, match="told apart"):
        components([1.0, 2.0, 4.0], fixed={}, random={"a": [0, 1, 2], "b": [0, 1, 2]})
    found = components([1.0, -1.0, 1.0, -1.0], fixed={}, random={"group": [0, 0, 1, 1]})
    assert found["group"] == 0.0 and found[LEFT] > 0

"""What other validation patients would have chosen: against a plain loop, and where the answer is known."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from common.statistics.optimism import RESAMPLES, choice

Folds = list[dict[str, tuple[float, int]]]


def candidates(routes: int, folds: int, patients: int, *, spread: float, seed: int = 1) -> list[Folds]:
    draw = random.Random(seed)
    slices = [[draw.randint(5, 15) for _ in range(patients)] for _ in range(folds)]
    return [
        [
            {f"{fold}-{case}": (draw.gauss(80 + spread * route, 3), slices[fold][case]) for case in range(patients)}
            for fold in range(folds)
        ]
        for route in range(routes)
    ]


def by_a_plain_loop(given: list[Folds], resamples: int) -> tuple[list[float], float]:
    """Choose again from patients drawn one by one."""
    draw = random.Random(7)

    def score(folds: Folds, drawn: list[list[str]]) -> float:
        return fmean(
            sum(fold[case][0] * fold[case][1] for case in cases) / sum(fold[case][1] for case in cases)
            for fold, cases in zip(folds, drawn, strict=True)
        )

    everybody = [list(fold) for fold in given[0]]
    own = [score(folds, everybody) for folds in given]
    often, above = [0] * len(given), []
    for _ in range(resamples):
        drawn = [[draw.choice(cases) for _ in cases] for cases in everybody]
        scores = [score(folds, drawn) for folds in given]
        best = scores.index(max(scores))
        often[best] += 1
        above.append(scores[best] - own[best])
    return [number / resamples for number in often], fmean(above)


def test_it_is_what_a_plain_loop_finds() -> None:
    given = candidates(4, 3, 5, spread=0.5)
    found = choice(given)
    shares, optimism = by_a_plain_loop(given, RESAMPLES)
    assert found is not None and found.patients == 15
    assert found.shares == pytest.approx(shares, abs=0.05)  # of 2000 each: four standard errors
    assert found.optimism == pytest.approx(optimism, abs=0.08)
    assert found.another == pytest.approx(1 - found.shares[found.chosen]) and sum(found.shares) == pytest.approx(1)


def test_a_route_far_ahead_is_chosen_always_and_its_score_is_hardly_too_good() -> None:
    found = choice(candidates(3, 5, 4, spread=20.0))
    assert found is not None and (found.chosen, found.another) == (2, 0.0)
    assert abs(found.optimism) < 0.1


def test_among_equal_routes_the_first_is_chosen_and_among_like_ones_the_score_is_too_good() -> None:
    same = candidates(1, 2, 4, spread=0)[0]
    equal = choice([same, same, same])
    assert equal is not None and equal.shares == (1.0, 0.0, 0.0) and equal.optimism == pytest.approx(0, abs=0.2)
    like = choice(candidates(6, 2, 4, spread=0.0))
    assert like is not None and like.optimism > 0.3 and like.another > 0.2


def test_without_enough_patients_or_the_same_patients_nothing_is_told() -> None:
    assert choice(candidates(1, 5, 4, spread=0)) is None
    assert choice(candidates(3, 5, 1, spread=0)) is None
    given = candidates(2, 2, 4, spread=0)
    assert choice([given[0], given[1][:1]]) is None
    case, (value, weight) = next(iter(given[1][0].items()))
    assert choice([given[0], [given[1][0] | {case: (value, weight + 1)}, given[1][1]]]) is None
    assert choice([given[0], [{"another": (80.0, 5)}, given[1][1]]]) is None

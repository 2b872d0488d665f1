"""The hierarchical model: against a closed form, quadrature and patients drawn from it; and its shrinkage."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chisquare, t

from common.statistics.hierarchical import Odds, Posterior, Priors, posterior
from common.statistics.intervals import Strata

DEFAULT = Priors()
FLAT = Priors(overall=1e4, between=1e-4)
"""Hospitals that are all alike, about a mean of which nothing is supposed."""
MONTE_CARLO = 0.02
"""Six standard errors of a probability near one half, from 12 000 draws that are nearly independent."""


def of(values: dict[str, list[float]]) -> Strata:
    """A single training of each hospital."""
    return {site: [{str(case): (value, 1) for case, value in enumerate(found)}] for site, found in values.items()}


def found(strata: Strata, *, margin: float = 1.0, priors: Priors = DEFAULT) -> Posterior:
    result = posterior(strata, margin=margin, priors=priors)
    assert result is not None
    return result


GAINS = {
    "A": [2.1, 0.4, 3.3, 1.0, 2.6, -0.2, 1.4],
    "B": [0.3, -1.1, 0.9, 0.2, -0.4],
    "C": [6.0, -5.0, 1.0, 2.5, 0.0, 3.5, -1.5, 4.0],
}


def test_of_one_hospital_about_which_nothing_is_supposed_it_is_students_t() -> None:
    """Normal values whose variance has Jeffreys' prior (Gelman et al., Bayesian Data Analysis, 3rd ed., ch. 3.2)."""
    values = np.array(GAINS["A"])
    number = len(values)
    squares = 0.1**2 + ((values - values.mean()) ** 2).sum()
    exact = t(number - 1, values.mean(), (squares / (number - 1) / number) ** 0.5)
    ((_, odds),) = found(of({"A": GAINS["A"]}), priors=FLAT).at
    assert odds.better == pytest.approx(exact.sf(1), abs=MONTE_CARLO)
    assert odds.worse == pytest.approx(exact.cdf(-1), abs=MONTE_CARLO)
    assert odds.same == pytest.approx(exact.cdf(1) - exact.cdf(-1), abs=MONTE_CARLO)
    assert (odds.low, odds.high) == pytest.approx(exact.interval(0.95), abs=0.08)


def quadrature(values: dict[str, list[float]], margin: float, priors: Priors) -> dict[str, list[float]]:
    """The same probabilities by sums over grids: hospitals' variances by their closed form, all else term by term."""
    grid, overall = np.linspace(-13.975, 16.025, 601), np.linspace(-25.025, 24.975, 501)  # no point on a margin
    scales = np.exp(np.linspace(np.log(0.02), np.log(60), 160))
    likelihoods = []
    for patients in values.values():
        squares = priors.floor**2 + ((np.array(patients)[:, None] - grid) ** 2).sum(axis=0)
        likelihoods.append(squares ** (-len(patients) / 2))
    masses = np.zeros((len(values), len(grid)))
    for scale in scales:
        kernel = np.exp(-((grid[:, None] - overall) ** 2) / (2 * scale**2)) / scale
        kernel /= np.maximum(kernel.sum(axis=0) * (grid[1] - grid[0]) / np.sqrt(2 * np.pi), 1.0)  # where it is narrow
        inner = np.array([likelihood @ kernel for likelihood in likelihoods])
        weight = np.exp(-(overall**2) / (2 * priors.overall**2)) * scale
        weight *= (1 + (scale / priors.between) ** 2 / 4) ** -2.5
        for place, likelihood in enumerate(likelihoods):
            others = np.delete(inner, place, axis=0).prod(axis=0) * weight
            masses[place] += likelihood * (kernel @ others)
    masses /= masses.sum(axis=1, keepdims=True)
    return {
        site: [float(mass[grid > margin].sum()), float(mass[grid < -margin].sum()), float(mass @ grid)]
        for site, mass in zip(values, masses, strict=True)
    }


@pytest.mark.parametrize("priors", [Priors(), Priors(between=0.5), Priors(overall=3, between=6, floor=1)])
def test_of_several_hospitals_it_is_what_quadrature_finds(priors: Priors) -> None:
    exact = quadrature(GAINS, 1.0, priors)
    for site, odds in found(of(GAINS), priors=priors).at:
        better, worse, mean = exact[site]
        assert odds.better == pytest.approx(better, abs=MONTE_CARLO)
        assert odds.worse == pytest.approx(worse, abs=MONTE_CARLO)
        assert odds.mean == pytest.approx(mean, abs=0.06)


def test_hospitals_are_drawn_towards_each_other_and_the_more_so_the_fewer_their_patients() -> None:
    few, many = found(of(GAINS)), found(of({site: values * 5 for site, values in GAINS.items()}))
    mean = np.mean([np.mean(values) for values in GAINS.values()])
    for (site, odds), (_, better_known) in zip(few.at, many.at, strict=True):
        own = np.mean(GAINS[site])
        assert abs(odds.mean - mean) < abs(own - mean)
        assert abs(better_known.mean - own) < abs(odds.mean - own)
    assert few.further and few.further.high - few.further.low > few.together.high - few.together.low


def drawn(
    generator: np.random.Generator, priors: Priors, *, patients: int, trainings: int, hospitals: int
) -> tuple[Strata, np.ndarray]:
    """Patients of hospitals as the model supposes them; each patient is held out of some of the trainings."""
    overall = generator.normal(0, priors.overall)
    between, shared = abs(generator.standard_t(4, size=2)) * (priors.between, priors.trainings)
    true = overall + between * generator.normal(size=hospitals)
    strata = {}
    for place in range(hospitals):
        of_patients, left = np.exp(generator.uniform(-1.2, 1.2, size=2))
        own, every = generator.normal(0, of_patients, patients), generator.normal(0, shared, trainings)
        strata[str(place)] = [
            {
                str(case): (true[place] + own[case] * (trainings > 1) + every[number] * (trainings > 1)
                            + generator.normal(0, left), 1)
                for case in range(patients)
                if trainings == 1 or (case + number) % 3
            }
            for number in range(trainings)
        ]  # fmt: skip
    return strata, true


@pytest.mark.slow
@pytest.mark.parametrize("trainings", [1, 4])
def test_patients_drawn_from_it_have_true_values_anywhere_in_its_intervals(trainings: int) -> None:
    """Cook, Gelman & Rubin, JCGS 15, 2006: the share of draws below the truth is evenly spread over many studies."""
    generator, priors = np.random.default_rng((4, trainings)), Priors(overall=2, between=1)
    held, below = [], []
    for _ in range(70):
        strata, true = drawn(generator, priors, patients=7, trainings=trainings, hospitals=3)
        result = found(strata, margin=abs(float(true[0])), priors=priors)
        held += [odds.low <= value <= odds.high for (_, odds), value in zip(result.at, true, strict=True)]
        first = result.at[0][1]
        below.append(1 - first.better if true[0] > 0 else first.worse)
    assert 0.92 <= np.mean(held) <= 0.98
    counts, _ = np.histogram(below, bins=5, range=(0, 1))
    assert chisquare(counts).pvalue > 0.01


def test_trainings_that_differ_make_less_sure_than_as_many_patients_of_one_training() -> None:
    generator = np.random.default_rng(3)
    own = generator.normal(1.0, 1.0, 20)
    steady = {"A": [{str(case): (own[case] + generator.normal(0, 0.3), 1) for case in range(20)} for _ in range(4)]}
    moved = {
        "A": [
            {case: (value + shift, 1) for case, (value, _) in repeat.items()}
            for repeat, shift in zip(steady["A"], (-2.0, -0.6, 0.6, 2.0), strict=True)
        ]
    }
    one, other = found(steady).together, found(moved).together
    assert other.high - other.low > 1.5 * (one.high - one.low)
    assert other.mean == pytest.approx(one.mean, abs=0.15)


def test_margins_nest_and_a_change_of_sign_turns_the_odds_round() -> None:
    margins = [found(of(GAINS), margin=margin).together for margin in (0.5, 1.0, 2.0)]
    assert all(wide.same >= narrow.same for narrow, wide in pairwise(margins))
    turned = found(of({site: [-value for value in values] for site, values in GAINS.items()})).together
    assert turned.better == pytest.approx(margins[1].worse, abs=MONTE_CARLO)
    assert turned.worse == pytest.approx(margins[1].better, abs=MONTE_CARLO)
    assert all(one.better + one.same + one.worse == pytest.approx(1) for one in margins)


def test_equal_values_give_equal_figures_and_methods_alike_are_the_same() -> None:
    assert found(of(GAINS)) == found(of(GAINS))
    nothing = found(of({site: [0.0] * 6 for site in "ABC"}))
    assert nothing.together.finding == "same" and nothing.together.mean == pytest.approx(0, abs=0.05)


def test_too_few_patients_and_a_single_hospital_say_less() -> None:
    assert posterior(of({"A": [1.0] * 5}), margin=1.0) is None
    assert posterior(of({"A": [1.0] * 6, "B": [1.0] * 3}), margin=1.0) is None
    assert found(of({"A": GAINS["A"]})).further is None


@pytest.mark.parametrize(
    ("better", "same", "finding"),
    [(0.96, 0.03, "better"), (0.0, 0.04, "worse"), (0.02, 0.96, "same"), (0.5, 0.46, "not-worse"),
     (0.04, 0.5, "not-better"), (0.3, 0.5, "")],
)  # fmt: skip
def test_a_finding_needs_a_probability_of_95_per_cent(better: float, same: float, finding: str) -> None:
    assert Odds(0.0, -1.0, 1.0, better, same, 1 - better - same).finding == finding

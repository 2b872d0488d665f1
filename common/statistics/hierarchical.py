"""A hierarchical model of the differences between two methods, and how probable a difference that matters is.

A p value cannot say that two methods are practically the same, and a hospital with few patients learns nothing from the
other hospitals by a test of its own. The model gives the probability that a method is better by more than a margin,
worse by more, or within the margin: the region of practical equivalence (Benavoli, Corani, Demšar & Zaffalon, Journal
of Machine Learning Research 18(77), 2017). The hierarchy is that of Corani, Benavoli, Demšar, Mangili & Zaffalon
(Machine Learning 106, 2017), with hospitals in place of data sets, patients in place of folds, and trainings beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common.statistics.intervals import Repeat, Strata, enough, patients_of

CHAINS, FIRST, KEPT = 100, 50, 120
"""Chains side by side, the draws of each that are thrown away, and the draws that are kept."""
SEED = 2017
SURE = 0.95
"""The probability from which a statement is made."""
GRID = np.exp(np.linspace(np.log(0.02), np.log(40.0), 50))
"""The standard deviations that are tried between hospitals and between trainings, in points, evenly spaced in their
logarithm."""
FREEDOM = 4
"""The degrees of freedom of the half-t priors of these two (Gelman, Bayesian Analysis 1, 2006)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Priors:
    """What is supposed before any result is known, in Dice points; docs/explanation/statistics.md shows the influence.

    The variance between the patients of a hospital, and what is left within a patient, have Jeffreys' prior, one over
    the variance, as behind Student's t interval.
    """

    overall: float = 10.0
    """The standard deviation of the normal prior of the mean over all conceivable hospitals, about 0."""
    between: float = 2.0
    """The scale of the half-t prior of the standard deviation between hospitals."""
    floor: float = 0.1
    """About the least standard deviation between patients, and within a patient; without it methods that are alike to
    the last digit would have none."""
    trainings: float = 1.0
    """The scale of the half-t prior of the standard deviation between trainings, which all patients of a training
    share."""


@dataclass(frozen=True)
class Odds:
    """What is known of a difference, in points: first method minus second."""

    mean: float
    low: float
    """The lower end of the central 95 % credible interval."""
    high: float
    better: float
    """The probability of a difference above the margin."""
    same: float
    """The probability of a difference within the margin."""
    worse: float
    """The probability of a difference below minus the margin."""

    @property
    def finding(self) -> str:
        """What is known with a probability of `SURE`: "better", "same", "worse", "not-worse", "not-better" or "".

        "same": practically equivalent; "not-worse": non-inferior, that is not worse by more than the margin.
        """
        for name in ("better", "worse", "same"):
            if getattr(self, name) >= SURE:
                return name
        if self.better + self.same >= SURE:
            return "not-worse"
        return "not-better" if self.worse + self.same >= SURE else ""


@dataclass(frozen=True)
class Posterior:
    """What is known of the differences between two methods at all hospitals."""

    at: tuple[tuple[str, Odds], ...]
    """The difference at each hospital, in the mean over patients like those tested; shrunken towards the others."""
    together: Odds
    """The mean over these hospitals, in which each counts alike."""
    further: Odds | None
    """The difference at a further hospital like these; None for a single hospital, which says nothing of others."""

    def where(self, site: str) -> Odds | None:
        """Return the difference at a hospital; None where the methods were not compared."""
        return dict(self.at).get(site)


def posterior(strata: Strata, *, margin: float, priors: Priors = Priors()) -> Posterior | None:
    """Return what is known of the differences between two methods, by a Gibbs sampler.

    The difference of patient p of hospital h in training r is d_h + a_hp + b_hr + e_hpr. The hospitals' d_h are normal
    about a mean over all hospitals. a (patients), b (trainings: each repeat of a study trains anew) and e are normal
    about 0, a and e with a variance for each hospital. Without a patient of several trainings, a and e are one; with a
    single training there is no b, and the trained models are taken as they are. Every patient counts once, whatever
    the number of slices. Normal, not Student's t: in its tails a t discounts the patients in whom a method fails, of
    whom a hospital has to know, and estimates another figure than the mean of the page.

    The mean over hospitals, the deviation between hospitals and all d_h are drawn at once, given the variances alone
    (a and b integrated out), so that the draws of a chain hardly depend on each other. Equal values give equal draws.

    Args:
        strata: the differences in points, by site and repeat; the repeats of a site are its trainings.
        margin: differences up to this many points are practically none.
        priors: what is supposed beforehand.

    Returns:
        The probabilities, or None where there are too few patients for an interval (`common.statistics.intervals`).
    """
    sites = [site for site, repeats in strata.items() if patients_of(repeats)]
    if len(sites) < len(strata) or not enough([len(patients_of(strata[site])) for site in sites]):
        return None
    drawn, further = _draws([_Hospital.of(strata[site]) for site in sites], priors)
    return Posterior(
        at=tuple((site, odds(drawn[..., place], margin)) for place, site in enumerate(sites)),
        together=odds(drawn.mean(axis=-1), margin),
        further=odds(further, margin) if len(sites) > 1 else None,
    )


def odds(drawn: Floats, margin: float) -> Odds:
    """Return the odds of a difference, from draws of it."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    better, worse = float(np.mean(drawn > margin)), float(np.mean(drawn < -margin))
    return Odds(float(drawn.mean()), float(low), float(high), better, 1 - better - worse, worse)


@dataclass(frozen=True)
class _Hospital:
    """The differences of a hospital's patients."""

    values: Floats
    """(values,), all patients of all trainings."""
    patient: NDArray[np.intp]
    """(values,), the place of each value's patient."""
    training: NDArray[np.intp]
    """(values,), the place of each value's training."""

    @classmethod
    def of(cls, repeats: Sequence[Repeat]) -> _Hospital:
        """Return the differences of a hospital's patients; a repeat without test patients is left out."""
        held = [{case: value for case, (value, weight) in repeat.items() if weight > 0} for repeat in repeats]
        held = [repeat for repeat in held if repeat]
        place = {case: number for number, case in enumerate(sorted({case for repeat in held for case in repeat}))}
        found = [(repeat[case], place[case], number) for number, repeat in enumerate(held) for case in sorted(repeat)]
        values, patients, trainings = zip(*found, strict=True)
        return cls(np.array(values, dtype=np.float64), np.array(patients), np.array(trainings))

    @cached_property
    def patients(self) -> int:
        return int(self.patient.max()) + 1

    @cached_property
    def trainings(self) -> int:
        return int(self.training.max()) + 1

    @cached_property
    def crossed(self) -> bool:
        """Whether a patient has several values, so that patients and what is left differ."""
        return len(self.values) > self.patients

    @cached_property
    def met(self) -> Floats:
        """(patients, trainings), 1 where the patient was held out of the training."""
        found = np.zeros((self.patients, self.trainings))
        found[self.patient, self.training] = 1.0
        return found

    @cached_property
    def together(self) -> Floats:
        """(patients, trainings × trainings), 1 where the patient was held out of both trainings."""
        return (self.met[:, :, None] * self.met[:, None, :]).reshape(self.patients, -1)

    @cached_property
    def member(self) -> Floats:
        """(values, patients), 1 where the value is of the patient."""
        return np.eye(self.patients)[self.patient]

    @cached_property
    def sums(self) -> Floats:
        """(patients,), the sum of each patient's values."""
        return self.values @ self.member


@dataclass
class _Known:
    """What the chains hold of a hospital's effects, given the variances."""

    mean: Floats
    """(chains,), the best estimate of the hospital's difference."""
    variance: Floats
    inner: Floats
    """(chains, trainings, trainings), the precision of the trainings' effects."""
    towards: Floats
    """(chains, trainings), the values' pull on these effects."""
    shared: Floats
    """(chains, trainings), how much of the hospital's difference the pull contains."""
    share: Floats
    """(chains, patients), the part of a patient's sum of deviations that is the patient's own effect."""


def _known(hospital: _Hospital, patients: Floats, left: Floats, trainings: Floats) -> _Known:
    """Return the estimate of a hospital's difference with all effects integrated out (generalised least squares).

    Args:
        hospital: the hospital's values.
        patients: (chains,), the variance between patients; not used where the patients are not crossed.
        left: (chains,), the variance that is left within a patient.
        trainings: (chains,), the variance between trainings.
    """
    times = hospital.met.sum(axis=1)
    share = patients[:, None] / (left[:, None] + times * patients[:, None]) if hospital.crossed else 0 * times
    share = np.broadcast_to(share, (len(left), hospital.patients))
    kept = 1 - share * times  # (chains, patients)
    total, pull = kept @ times / left, kept @ hospital.sums / left
    shared = kept @ hospital.met / left[:, None]
    direct = np.bincount(hospital.training, hospital.values, hospital.trainings)
    towards = (direct - (share * hospital.sums) @ hospital.met) / left[:, None]
    if hospital.trainings == 1:
        return _Known(pull / total, 1 / total, np.zeros((len(left), 0, 0)), towards, shared, share)
    both = (share @ hospital.together).reshape(-1, hospital.trainings, hospital.trainings)
    inner = (np.diag(hospital.met.sum(axis=0)) - both) / left[:, None, None]
    inner = inner + np.eye(hospital.trainings) / trainings[:, None, None]
    solved = np.linalg.solve(inner, np.stack([shared, towards], axis=-1))
    precision = total - (shared * solved[..., 0]).sum(axis=1)
    mean = (pull - (shared * solved[..., 1]).sum(axis=1)) / precision
    return _Known(mean, 1 / precision, inner, towards, shared, share)


def _draws(hospitals: Sequence[_Hospital], priors: Priors) -> tuple[Floats, Floats]:
    """Return draws of the hospitals' differences (kept, chains, hospitals), and of a further hospital's."""
    generator = np.random.default_rng(SEED)
    patients = np.ones((len(hospitals), CHAINS))
    left, trainings = patients.copy(), np.full(CHAINS, float(priors.trainings**2))
    kept, further = np.empty((KEPT, CHAINS, len(hospitals))), np.empty((KEPT, CHAINS))
    for step in range(-FIRST, KEPT):
        known = [_known(*each, trainings) for each in zip(hospitals, patients, left, strict=True)]
        overall, between, differences = _differences(known, priors, generator)
        effects = []
        for place, (hospital, found) in enumerate(zip(hospitals, known, strict=True)):
            rest = hospital.values - differences[:, place, None]
            if hospital.trainings > 1:
                effects.append(_of_trainings(found, differences[:, place], generator))
                rest = rest - effects[-1][:, hospital.training]
            if hospital.crossed:
                sums = rest @ hospital.member
                spread = np.sqrt(found.share * left[place][:, None])
                own = found.share * sums + spread * generator.standard_normal(sums.shape)
                patients[place] = _variance(own, priors.floor, generator)
                rest = rest - own[:, hospital.patient]
            left[place] = _variance(rest, priors.floor, generator)
        if effects:
            several = np.concatenate(effects, axis=1)
            squares, number = (several**2).sum(axis=1)[:, None], several.shape[1]
            weights = -number * np.log(GRID) - squares / (2 * GRID**2)
            trainings = _from_grid(weights, priors.trainings, generator) ** 2
        if step >= 0:
            kept[step] = differences
            further[step] = overall + between * generator.standard_normal(CHAINS)
    return kept, further


def _differences(
    known: Sequence[_Known], priors: Priors, generator: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Return draws of the mean over all hospitals, of the deviation between them, and of each hospital's difference."""
    means = np.stack([found.mean for found in known], axis=1)  # (chains, hospitals)
    variances = np.stack([found.variance for found in known], axis=1)
    total = variances[..., None] + GRID**2  # (chains, hospitals, grid)
    precision = (1 / total).sum(axis=1) + 1 / priors.overall**2
    pull = (means[..., None] / total).sum(axis=1)
    fits = (np.log(total) + means[..., None] ** 2 / total).sum(axis=1)
    between = _from_grid((pull**2 / precision - np.log(precision) - fits) / 2, priors.between, generator)
    total = variances + between[:, None] ** 2
    precision = (1 / total).sum(axis=1) + 1 / priors.overall**2
    overall = (means / total).sum(axis=1) / precision + generator.standard_normal(CHAINS) / np.sqrt(precision)
    inner = 1 / variances + 1 / between[:, None] ** 2
    centre = (means / variances + (overall / between**2)[:, None]) / inner
    return overall, between, centre + generator.standard_normal(means.shape) / np.sqrt(inner)


def _of_trainings(found: _Known, difference: Floats, generator: np.random.Generator) -> Floats:
    """Return draws of the effects of a hospital's trainings, (chains, trainings)."""
    lower = np.linalg.cholesky(found.inner)
    mean = np.linalg.solve(found.inner, (found.towards - found.shared * difference[:, None])[..., None])
    noise = generator.standard_normal(found.towards.shape)[..., None]
    return np.asarray((mean + np.linalg.solve(lower.transpose(0, 2, 1), noise))[..., 0], dtype=np.float64)


def _variance(effects: Floats, floor: float, generator: np.random.Generator) -> Floats:
    """Return draws of a variance, given normal effects (chains, effects) about 0."""
    squares = floor**2 + (effects**2).sum(axis=1)
    return squares / generator.chisquare(effects.shape[1], size=len(effects))


def _from_grid(logarithms: Floats, scale: float, generator: np.random.Generator) -> Floats:
    """Return draws of a standard deviation from `GRID`, given logarithms of its likelihood (chains, grid)."""
    prior = -(FREEDOM + 1) / 2 * np.log1p((GRID / scale) ** 2 / FREEDOM) + np.log(GRID)
    weights = logarithms + prior
    sums = np.cumsum(np.exp(weights - weights.max(axis=1, keepdims=True)), axis=1)
    below = sums < generator.random(len(sums))[:, None] * sums[:, -1:]
    return GRID[below.sum(axis=1)]

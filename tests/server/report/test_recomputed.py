"""The page's figures again, from results.json alone: numpy and scipy, and not a line of the project.

What is compared: the selected route and the hospital's own model, verdicts and their intervals, the differences to
every other method with intervals, tests and Holm's correction, and the probabilities of the hierarchical model.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test, t

from server.report import read_results
from server.report.verdicts import verdicts
from server.report.view import NetworkView
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

METHODS: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "sequential": {"routes": "all", "max_hops": 2},
    "federated": ({"strategy": "fedavg", "rounds": 10, "batch_norm": "average"},),
}
LABELS = {
    "baseline": "Target alone",
    "longer": "Target alone, longer",
    "fedavg": "FedAvg",
    "fedavg-then-target": "FedAvg, then the target",
}
ALONE = ("baseline", "longer")
Patients = dict[str, tuple[float, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = small_study(sites=("A", "B", "C"), methods=METHODS, training={"epochs": 6})
    results = plausible(study, tmp_path_factory.mktemp("runs"), patients={"A": 38, "B": 30, "C": 52})
    closer(results)
    return put(tmp_path_factory.mktemp("study"), results)


def closer(results: dict[str, Any]) -> None:
    """Bring the methods so close to each other that the probabilities lie between 0 and 1."""
    routes = {row["target"]: row for row in results["rows"] if row["headline"]}
    for row in results["rows"]:
        share = {"baseline": 0.1, "longer": 0.3, "fedavg": 0.03, "fedavg-then-target": 0.4}.get(row["method"])
        if share is not None:
            for key in ("case_dice", "case_dice_volume"):
                ahead = routes[row["target"]][key]
                row[key] = {case: ahead[case] + share * (value - ahead[case]) for case, value in row[key].items()}
            row["dice"] = float(np.average(list(row["case_dice"].values()), weights=list(row["case_slices"].values())))
            row["dice_volume"] = float(np.mean(list(row["case_dice_volume"].values())))


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The selected row of each target and method; of routes, the one with the best mean validation Dice over folds."""
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    key = "validation_dice" if content["study"]["training"]["slices"] == "chosen" else "validation_dice_volume"
    groups = defaultdict(list)
    for row in content["rows"]:
        groups[row["target"], row["method"], tuple(row["route"])].append(row)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    means: dict[tuple[str, str], float] = {}
    for (target, method, _), folds in groups.items():
        mean = float(np.mean([row[key] for row in folds]))
        if mean > means.get((target, method), -1.0):
            means[target, method] = mean
            found[target, method] = max(folds, key=lambda row: (row[key], -row["fold"]))
    for target in ("A", "B", "C"):
        assert found[target, "sequential"]["headline"]
        found[target, "own"] = max((found[target, method] for method in ALONE), key=lambda row: row[key])
    return found


def differences(one: dict[str, Any], other: dict[str, Any], volume: bool) -> Patients:
    key = "case_dice_volume" if volume else "case_dice"
    return {
        case: (value - other[key][case], 1.0 if volume else one["case_slices"][case])
        for case, value in one[key].items()
    }


def mean_of(patients: Patients) -> float:
    values, weights = np.array(list(patients.values())).T
    return float(np.average(values, weights=weights))


def error_of(patients: Patients) -> float:
    """The standard error of a ratio of two sums over patients (Cochran 1977)."""
    values, weights = np.array(list(patients.values())).T
    number, apart = len(values), values - np.average(values, weights=weights)
    return float(np.sqrt(number / (number - 1) * ((weights * apart) ** 2).sum()) / weights.sum())


def bootstrap_t(strata: list[Patients], resamples: int = 20_000) -> tuple[float, float]:
    """Resample by resample, with draws of its own."""
    generator = np.random.default_rng(11)
    mean = np.mean([mean_of(patients) for patients in strata])
    error = np.sqrt(sum(error_of(patients) ** 2 for patients in strata)) / len(strata)
    means, variances = np.zeros(resamples), np.zeros(resamples)
    for patients in strata:
        pairs = np.array(list(patients.values()))
        drawn = pairs[generator.integers(0, len(pairs), size=(resamples, len(pairs)))]
        total = drawn[..., 1].sum(axis=1)
        centre = (drawn[..., 0] * drawn[..., 1]).sum(axis=1) / total
        squares = ((drawn[..., 1] * (drawn[..., 0] - centre[:, None])) ** 2).sum(axis=1)
        means += centre / len(strata)
        variances += squares * len(pairs) / (len(pairs) - 1) / total**2 / len(strata) ** 2
    usable = variances > 1e-18
    ends = np.quantile((means[usable] - mean) / np.sqrt(variances[usable]), [0.975, 0.025])
    low, high = mean - error * ends
    return float(low), float(high)


def interval_of(patients: Patients) -> tuple[float, float]:
    """From the lowest to the highest of six patients, of more a bootstrap-t."""
    values = [value for value, _ in patients.values()]
    return (min(values), max(values)) if len(values) == 6 else bootstrap_t([patients])


def of_opponent(rows: dict[tuple[str, str], dict[str, Any]], method: str, volume: bool) -> dict[str, Patients]:
    return {site: differences(rows[site, "sequential"], rows[site, method], volume) for site in ("A", "B", "C")}


@pytest.fixture(scope="module")
def volume(folder: Path) -> bool:
    return read_results(folder).score.key == "dice_volume"


def test_verdicts_and_their_intervals(folder: Path, rows: dict[tuple[str, str], dict[str, Any]], volume: bool) -> None:
    sentences = verdicts(read_results(folder))
    page = page_of(folder).text
    for site, sentence in zip(("A", "B", "C"), sentences, strict=False):
        patients = differences(rows[site, "sequential"], rows[site, "own"], volume)
        low, high = interval_of(patients)
        said = [float(word.replace("−", "-").replace("±", "")) for word in numbers(sentence)]
        assert said[0] == pytest.approx(mean_of(patients), abs=0.051)
        assert said[1:3] == pytest.approx((low, high), abs=0.051 + 0.05 * (high - low))
        assert f"{len(patients)} test patients)" in sentence
        judged = "helped" if said[1] > 0 else "hurt" if said[2] < 0 else "cannot be told|practically no difference"
        assert any(word in sentence for word in judged.split("|"))
        assert sentence in page


def numbers(sentence: str) -> list[str]:
    return re.findall(r"[+−±]\d+\.\d", sentence)


def test_differences_tests_and_their_correction(
    folder: Path, rows: dict[tuple[str, str], dict[str, Any]], volume: bool
) -> None:
    results = read_results(folder)
    shown = {contrast.opponent: contrast for contrast in NetworkView(results).family.contrasts}
    assert set(shown) == set(LABELS.values())
    raw = {}
    for method, label in LABELS.items():
        strata = list(of_opponent(rows, method, volume).values())
        found = shown[label]
        assert found.together.difference == pytest.approx(np.mean([mean_of(one) for one in strata]), abs=1e-6)
        low, high = bootstrap_t(strata)
        assert found.together.ci95 == pytest.approx((low, high), abs=0.06 * (high - low))
        shares = np.concatenate([
            np.array([value * weight for value, weight in one.values()]) / sum(weight for _, weight in one.values())
            for one in strata
        ])  # fmt: skip
        exact = permutation_test(
            (shares,), np.sum, permutation_type="samples", vectorized=False, n_resamples=20_000, rng=3
        )
        raw[label] = float(exact.pvalue)
        assert found.p == pytest.approx(raw[label], abs=0.012)
        values = np.array([value for one in strata for value, _ in one.values()])
        assert found.standardised == pytest.approx(values.mean() / values.std(ddof=1), abs=1e-6)
        assert (found.together.better, found.together.patients) == (int((values > 0).sum()), len(values))
    order, highest = sorted(shown.values(), key=lambda one: one.p or 0.0), 0.0
    for rank, contrast in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * (contrast.p or 0.0)))
        assert contrast.corrected == pytest.approx(highest)


def probabilities(strata: dict[str, Patients], margin: float = 1.0) -> dict[str, tuple[float, float, float]]:
    """The hierarchical model by importance sampling: deviations from the priors of docs/explanation/statistics.md."""
    generator, draws = np.random.default_rng(5), 400_000
    between = 2.0 * np.abs(t.rvs(4, size=draws, random_state=generator))
    overall = generator.normal(0.0, 10.0, size=draws)
    logs, means, errors = np.zeros(draws), [], []
    for patients in strata.values():
        values = np.array([value for value, _ in patients.values()])
        # A draw of the variance from its posterior under a flat mean; what the flat mean adds is a normal factor.
        squares = 0.1**2 + ((values - values.mean()) ** 2).sum()
        variance = squares / generator.chisquare(len(values) - 1, size=draws) / len(values)
        total = variance + between**2
        logs += -0.5 * np.log(total) - (values.mean() - overall) ** 2 / (2 * total)
        precision = 1 / variance + 1 / between**2
        means.append((values.mean() / variance + overall / between**2) / precision)
        errors.append(1 / np.sqrt(precision))
    weights = np.exp(logs - logs.max())
    kept = generator.choice(draws, size=60_000, p=weights / weights.sum())
    found = np.array(means)[:, kept] + np.array(errors)[:, kept] * generator.standard_normal((len(means), len(kept)))
    of = dict(zip(strata, found, strict=True)) | {"together": found.mean(axis=0)}
    return {
        name: (float((one > margin).mean()), float((np.abs(one) <= margin).mean()), float((one < -margin).mean()))
        for name, one in of.items()
    }


def test_probabilities_of_the_hierarchical_model(
    folder: Path, rows: dict[tuple[str, str], dict[str, Any]], volume: bool
) -> None:
    page = page_of(folder)
    grid = next(grid for grid in page.grids if grid[0][1:2] == ["better by more than 1 point"])
    for row in grid[1:]:
        method = next(key for key, label in LABELS.items() if label == row[0])
        exact = probabilities(of_opponent(rows, method, volume))
        cells = {"together": row[1:4]} | dict(zip("ABC", (cell.split(" · ") for cell in row[5:8]), strict=True))
        for name, texts in cells.items():
            for text, value in zip(texts, exact[name], strict=True):
                said = float(text.strip("<> %")) / 100
                assert said == pytest.approx(value, abs=0.03), (method, name, texts, exact[name])

"""The selected route against every other method: the family fixed beforehand, its figures, when no test is shown."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from server.report import read_results
from server.report.contrasts import Family, family
from server.report.table import comparison
from server.report.view import NetworkView
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

METHODS: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "unadapted": True,
    "sequential": {"routes": "all", "max_hops": 2},
    "cyclic": {"laps": 2},
    "federated": ({"strategy": "fedavg", "rounds": 10},),
    "pooled": True,
    "pooled_then_target": True,
}
OPPONENTS = [
    "Target alone", "Target alone, longer", "2 laps", "FedAvg", "FedAvg, batch norm re-estimated",
    "FedAvg, then the target", "All data", "All data, then the target",
]  # fmt: skip
METHOD_OF = dict(
    zip(
        OPPONENTS,
        (
            "baseline",
            "longer",
            "cyclic",
            "fedavg",
            "fedavg-re-estimated",
            "fedavg-then-target",
            "pooled",
            "pooled-then-target",
        ),
        strict=True,
    )
)


def made(folder: Path, **changes: Any) -> dict[str, Any]:
    patients = changes.pop("patients", None)
    leave = changes.pop("scores_leave", True)
    study = small_study(**{"methods": METHODS, **changes})
    return plausible(study, folder, patients=patients, scores_leave=leave)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made(tmp_path_factory.mktemp("once"), patients={"A": 20, "B": 20, "C": 15})


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    methods = {"baseline": True, "sequential": {"routes": "all", "max_hops": 2}}
    return made(tmp_path_factory.mktemp("repeated"), repeats=3, methods=methods)


def family_of(folder: Path, results: dict[str, Any]) -> Family:
    read = read_results(put(folder, results))
    return family(read, comparison(read))


def pairs(results: dict[str, Any], method: str) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """By target, the headline row and the selected row of a method, a pair a repeat."""
    found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for one, other in itertools.product(results["rows"], results["rows"]):
        alike = (one["target"], one["seed"]) == (other["target"], other["seed"])
        if alike and one["headline"] and other["selected"] and other["method"] == method:
            found.setdefault(one["target"], []).append((one, other))
    return found


def test_every_other_method_is_an_opponent_once_and_routes_are_none(tmp_path: Path, once: dict[str, Any]) -> None:
    assert [contrast.opponent for contrast in family_of(tmp_path, once).contrasts] == OPPONENTS


def test_a_difference_is_that_of_the_two_cells_of_the_table(tmp_path: Path, once: dict[str, Any]) -> None:
    for contrast in family_of(tmp_path, once).contrasts:
        expected = {
            target: fmean(one["dice"] - other["dice"] for one, other in rows)
            for target, rows in pairs(once, METHOD_OF[contrast.opponent]).items()
        }
        assert len(expected) == 3
        for target, effect in contrast.at:
            assert effect.difference == pytest.approx(expected[target], abs=1e-4)
        assert contrast.together.difference == pytest.approx(fmean(expected.values()), abs=1e-4)
        assert contrast.together.ci95 is None  # C has three test patients
        assert contrast.together.patients == 4 + 4 + 3


def test_p_is_that_of_all_patterns_of_signs_corrected_step_by_step(tmp_path: Path, once: dict[str, Any]) -> None:
    found = family_of(tmp_path, once)
    raw = []
    for contrast in found.contrasts:
        shares = []
        for rows in pairs(once, METHOD_OF[contrast.opponent]).values():
            ((one, other),) = rows
            total = sum(one["case_slices"].values())
            shares += [
                (one["case_dice"][case] - other["case_dice"][case]) * slices / total / 3
                for case, slices in one["case_slices"].items()
            ]
        observed = abs(sum(shares))
        patterns = list(itertools.product((1, -1), repeat=len(shares)))
        as_far = sum(
            abs(sum(s * share for s, share in zip(signs, shares, strict=True))) >= observed - 1e-9 for signs in patterns
        )
        raw.append(as_far / len(patterns))
        assert contrast.p == pytest.approx(raw[-1], abs=1e-12)
    highest, corrected = 0.0, {}
    for rank, index in enumerate(sorted(range(len(raw)), key=lambda k: raw[k])):
        highest = max(highest, min(1.0, raw[index] * (len(raw) - rank)))
        corrected[index] = highest
    assert [contrast.corrected for contrast in found.contrasts] == pytest.approx(
        [corrected[k] for k in range(len(raw))]
    )
    text = page_of(put(tmp_path, once)).text
    assert "The smallest p that they could give is 0.00098, times 8 comparisons 0.0078." in text
    assert "p, corrected" in text


@pytest.mark.slow
def test_where_so_few_patients_can_show_nothing_no_test_is_shown(tmp_path: Path) -> None:
    results = made(tmp_path, patients={"A": 10, "B": 10, "C": 10})
    found = family_of(tmp_path, results)
    assert not found.tests
    assert all(contrast.p is None and contrast.corrected is None for contrast in found.contrasts)
    text = page_of(put(tmp_path, results)).text
    assert "The smallest p that they could give is 0.031, times 8 comparisons 0.25." in text
    assert "no corrected p could fall below 0.05" in text
    assert "p, corrected" not in text
    assert not re.search(r"p (=|<) 0\.\d+[;)]", text)
    assert f"{found.contrasts[0].together.better} of 6" in text


@pytest.mark.slow
def test_without_figures_of_single_patients_means_are_compared_and_nothing_else(tmp_path: Path) -> None:
    results = made(tmp_path, scores_leave=False)
    found = family_of(tmp_path, results)
    assert found.without_scores == ("A", "B", "C") and not found.tests
    for contrast in found.contrasts:
        gaps = [
            one["dice"] - other["dice"] for ((one, other),) in pairs(results, METHOD_OF[contrast.opponent]).values()
        ]
        assert contrast.together.difference == pytest.approx(fmean(gaps), abs=1e-4)
        assert contrast.together.ci95 is None and contrast.standardised is None
    page = page_of(put(tmp_path, results))
    assert "A, B and C let no figures of single patients leave" in page.text
    assert not any(attributes.get("class") == "whisker" for _, attributes in page.tags)
    assert "better in" not in page.text


@pytest.mark.parametrize(
    "spoilt", ["other slices", "another patient", "missing slices", "other figures", "a lost patient"]
)
def test_rows_that_were_not_scored_alike_are_not_compared(tmp_path: Path, once: dict[str, Any], spoilt: str) -> None:
    results = {**once, "rows": [dict(row) for row in once["rows"]]}
    row = next(row for row in results["rows"] if row["method"] == "fedavg" and row["target"] == "B")
    case = next(iter(row["case_dice"]))
    row["case_dice"], row["case_slices"] = dict(row["case_dice"]), dict(row["case_slices"])
    if spoilt == "other slices":
        row["case_slices"][case] += 1
        row["dice"] = sum(row["case_dice"][k] * n for k, n in row["case_slices"].items()) / sum(
            row["case_slices"].values()
        )
    elif spoilt == "another patient":
        row["case_dice"]["999"], row["case_slices"]["999"] = row["case_dice"].pop(case), row["case_slices"].pop(case)
    elif spoilt == "missing slices":
        del row["case_slices"][case]
    elif spoilt == "other figures":
        row["case_dice"][case] -= 30
    else:
        row["patients"] -= 1
    found = family_of(tmp_path, results)
    assert len(found.problems) == 1 and found.problems[0].startswith("B is not compared")
    assert all([target for target, _ in contrast.at] == ["A", "C"] for contrast in found.contrasts)
    assert found.problems[0] in page_of(put(tmp_path, results)).text


def test_patients_of_several_repeats_are_matched_and_count_once(tmp_path: Path, repeated: dict[str, Any]) -> None:
    found = family_of(tmp_path, repeated)
    (contrast,) = found.contrasts
    held_out = {(row["target"], case) for row in repeated["rows"] if row["headline"] for case in row["case_dice"]}
    held_out_in_all = sum(len(row["case_dice"]) for row in repeated["rows"] if row["headline"])
    assert contrast.together.patients == len(held_out) < held_out_in_all
    for target, effect in contrast.at:
        gaps = [one["dice"] - other["dice"] for one, other in pairs(repeated, "baseline")[target]]
        assert len(gaps) == 3
        assert effect.difference == pytest.approx(fmean(gaps), abs=1e-4)
        assert effect.same_sign == (sum(gap > 0 for gap in gaps), 3)
    assert (
        f"{len(held_out)} patients stand behind each line, each counted once" in page_of(put(tmp_path, repeated)).text
    )


def test_a_patient_with_other_slices_in_another_repeat_is_not_the_same_patient(
    tmp_path: Path, repeated: dict[str, Any]
) -> None:
    results = {**repeated, "rows": [dict(row) for row in repeated["rows"]]}
    seeds = sorted({row["seed"] for row in results["rows"]})
    of_seed: dict[int, set[str]] = {seed: set() for seed in seeds}
    for row in results["rows"]:
        if row["target"] == "A":
            of_seed[row["seed"]] |= row["case_dice"].keys()
    shared = sorted(of_seed[seeds[0]] & (of_seed[seeds[1]] | of_seed[seeds[2]]))[0]
    for row in results["rows"]:
        if row["target"] == "A" and row["seed"] == seeds[0] and shared in row["case_dice"]:
            row["case_slices"] = {**row["case_slices"], shared: 99}
            row["slices"] = sum(row["case_slices"].values())
            row["dice"] = sum(row["case_dice"][k] * n for k, n in row["case_slices"].items()) / row["slices"]
    assert family_of(tmp_path, results).problems == ("A is not compared: a patient's slices differ between repeats.",)


def test_only_the_network_that_validation_chose_is_tested(tmp_path: Path) -> None:
    results = made(
        tmp_path,
        models={"encoders": ("resnet18", "resnet34")},
        methods={"baseline": True, "sequential": {"routes": "all", "max_hops": 1}},
    )
    text = page_of(put(tmp_path, results)).text
    assert text.count("p: sign-flip permutation test") == 1
    assert text.count("No test is shown: this is not the network that validation chose.") == 1


def test_the_picture_draws_every_difference_once_for_all_and_once_a_hospital(
    tmp_path: Path, once: dict[str, Any]
) -> None:
    read = read_results(put(tmp_path, once))
    picture = NetworkView(read).forest
    assert picture is not None
    for group, contrast in zip(picture.groups, NetworkView(read).family.contrasts, strict=True):
        assert [bar.label for bar in group.bars] == [contrast.opponent, "A", "B", "C"]
        for bar, effect in zip(group.bars, (contrast.together, *(e for _, e in contrast.at)), strict=True):
            right = bar.x > picture.zero
            assert right == ((effect.difference or 0) > 0) or abs(bar.x - picture.zero) < 1
            assert (bar.whisker is not None) == (effect.ci95 is not None)

"""A study whose test rotates: rows over all patients of a site, recomputed from results.json by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.text import signed
from server.report import read_results, remarks, write_report
from server.report.contrasts import family
from server.report.opening import opening
from server.report.table import comparison
from server.report.terminal import text_lines
from server.report.verdicts import verdicts
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

Json = dict[str, Any]
PATIENTS = {"A": 13, "B": 11, "C": 12}
METHODS: Json = {
    "baseline": True,
    "longer_baseline": True,
    "sequential": {"routes": "all", "max_hops": 2},
    "federated": ({"strategy": "fedavg", "rounds": 2},),
    "pooled": True,
    "forgetting": True,
}


def made(folder: Path, **changes: Any) -> Json:
    leave = changes.pop("scores_leave", True)
    changes = {"methods": METHODS, "split": {"test": "rotate", "folds": 2}, **changes}
    return plausible(small_study(**changes), folder, patients=PATIENTS, scores_leave=leave)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Json:
    return made(tmp_path_factory.mktemp("rotated"))


@pytest.fixture(scope="module")
def folder(results: Json, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("page"), results)


def group(row: Json) -> tuple[str, tuple[str, ...], str]:
    return row["method"], tuple(row["route"]), row["target"]


def behind(results: Json, row: Json) -> list[Json]:
    """The selected rows of single rotations behind a row."""
    return [one for one in results["rotation_rows"] if one["selected"] and group(one) == group(row)]


def recompute(parts: list[Json], row: Json) -> None:
    """Hold a pooled row to its parts: sums and weighted means in plain Python."""
    numbers = [case for one in parts for case in one["case_slices"]]
    assert sorted(numbers, key=int) == [str(k) for k in range(1, PATIENTS[row["target"]] + 1)], "each patient once"
    assert row["patients"] == PATIENTS[row["target"]] == sum(one["patients"] for one in parts)
    assert row["slices"] == sum(one["slices"] for one in parts)
    for name in ("case_dice", "case_dice_volume", "case_slices"):
        assert row[name] == {case: value for one in parts for case, value in one[name].items()}
    for name in ("dice", "iou"):
        assert row[name] == pytest.approx(sum(one[name] * one["slices"] for one in parts) / row["slices"], abs=1e-5)
    for name, number in (
        ("dice_volume", "patients"), ("hd95_mm", "surface_patients"), ("assd_mm", "surface_patients"),
        ("volume_error_ml", "volume_patients"), ("absolute_volume_error_ml", "volume_patients"),
        ("dice_apex", "thirds_patients"), ("dice_middle", "thirds_patients"), ("dice_base", "thirds_patients"),
        ("calibration_error", "calibration_patients"),
    ):  # fmt: skip
        total = sum(one[number] for one in parts)
        mean = sum((one[name] or 0.0) * one[number] for one in parts) / total
        assert row[number] == total
        assert row[name] == pytest.approx(mean, abs=1e-5)
    by_case = sum(row["case_dice"][case] * row["case_slices"][case] for case in numbers) / row["slices"]
    assert row["dice"] == pytest.approx(by_case, abs=1e-4), "the patients' figures add up to the row's"
    for name in ("false_slices", "empty_slices", "gradient_steps", "bytes_moved"):
        assert row[name] == sum(one[name] for one in parts)
    assert (row["rotation"], row["fold"], row["weights"], row["stage"]) == (None, None, "", None)


def test_a_row_pools_every_patient_of_its_site_once(results: Json) -> None:
    assert {row["rotation"] for row in results["rotation_rows"]} == set(range(5))
    assert len(results["rows"]) == 3 * (2 + 4 + 3 + 1)
    for row in results["rows"]:
        parts = behind(results, row)
        assert [one["rotation"] for one in parts] == list(range(5))
        assert row["rotations"] == 5
        recompute(parts, row)


def chosen_of(results: Json, target: str) -> tuple[Json, Json]:
    """The pooled rows of the route and of the own model that the rotations chose."""
    route, own = (row for row in results["chosen"] if row["target"] == target)
    return route, own


def test_each_rotation_chooses_by_its_own_validation_patients_alone(results: Json) -> None:
    several = set()
    for target in PATIENTS:
        routes, owns = [], []
        for rotation in range(5):
            here = [row for row in results["rotation_rows"] if row["rotation"] == rotation and row["target"] == target]
            means: dict[tuple[str, ...], list[float]] = {}
            for row in here:
                if row["method"] == "sequential":
                    means.setdefault(tuple(row["route"]), []).append(row["validation_dice"])
            best = max(means, key=lambda route: sum(means[route]))
            routes += [row for row in here if group(row) == ("sequential", best, target) and row["selected"]]
            alone = [row for row in here if row["selected"] and row["method"] in ("baseline", "longer")]
            owns.append(max(alone, key=lambda row: row["validation_dice"]))
        route, own = chosen_of(results, target)
        recompute(routes, route)
        recompute(owns, own)
        assert [one["headline"] for one in routes] == [True] * 5
        several.add(len({tuple(one["route"]) for one in routes}))
    assert max(several) > 1, "the rotations disagree somewhere, or this test shows nothing"


def test_the_page_compares_all_patients(results: Json, folder: Path) -> None:
    read = read_results(folder)
    table = comparison(read)
    assert table.rotations == 5
    assert table.patients == (13, 11, 12)
    found = family(read, table)
    assert not found.problems
    assert found.contrasts
    for contrast in found.contrasts:
        for target, effect in contrast.at:
            opponents = [
                row for row in results["rows"] if row["target"] == target and row["method"] not in ("sequential",)
            ]
            route, _ = chosen_of(results, target)
            gaps = [route["dice"] - row["dice"] for row in opponents]
            assert effect.patients == PATIENTS[target]
            assert any(effect.difference == pytest.approx(gap, abs=1e-4) for gap in gaps)
            assert effect.ci95, "eleven patients have an interval"
    for target, sentence in zip(PATIENTS, verdicts(read), strict=False):
        route, own = chosen_of(results, target)
        assert f"{signed(route['dice'] - own['dice'])} points of Dice" in sentence
        assert f"{PATIENTS[target]} test patients" in sentence


@pytest.mark.slow
def test_the_page_says_whose_figures_these_are(folder: Path) -> None:
    read = read_results(folder)
    assert "13 + 11 + 12 test patients" in opening(read)
    assert "5 rotations of the test" in opening(read)
    write_report(folder)
    text = page_of(folder).text
    for words in (
        "Each figure is one trained model a rotation",
        "every patient is scored once, by the models of the rotation that held the patient out",
        "Patients of one rotation are scored by the same models",
        "The first rotation is drawn.",
        "The split is that of the first of 5 rotations.",
        "5 sets in turn",
    ):
        assert words in text, words
    lines = " ".join(" ".join(text_lines(read)).split())
    assert "Route by validation" in lines
    assert "chosen anew in each rotation" in lines


@pytest.mark.parametrize(
    ("rotations", "words"),
    [
        (2, "The two rotations have no training patient in common."),
        (3, "Two rotations share about half of their training patients."),
        (5, "Two rotations share most of their training patients."),
    ],
)
def test_how_many_training_patients_rotations_share_is_said_as_it_is(rotations: int, words: str) -> None:
    # Worked out: each patient is tested in one rotation, and trains in the others.
    tested = [patient % rotations for patient in range(60)]
    first, second = ({k for k, at in enumerate(tested) if at != rotation} for rotation in (0, 1))
    shared = len(first & second) / len(first)
    assert {2: shared == 0, 3: shared == 0.5, 5: shared > 0.5}[rotations]
    assert remarks._shared(rotations) == words


def test_without_figures_of_single_patients_means_are_pooled_all_the_same(tmp_path: Path) -> None:
    results = made(tmp_path / "run", scores_leave=False, methods={"baseline": True, "sequential": {"max_hops": 1}})
    for row in results["rows"]:
        parts = behind(results, row)
        assert row["case_dice"] is row["ci95"] is None
        assert row["patients"] == PATIENTS[row["target"]]
        assert row["dice"] == pytest.approx(
            sum(one["dice"] * one["slices"] for one in parts) / sum(one["slices"] for one in parts), abs=1e-5
        )
    write_report(put(tmp_path, results))


@pytest.mark.slow
def test_routes_that_grow_and_repeats_are_pooled_for_each_repeat(tmp_path: Path) -> None:
    methods = {"baseline": True, "sequential": {"routes": "greedy", "max_hops": 2}, "forgetting": True}
    results = made(tmp_path / "run", methods=methods, repeats=2)
    kinds = Counter((row["method"], row["target"], row["seed"]) for row in results["rows"])
    assert set(kinds.values()) == {1}
    assert len(kinds) == 2 * 3 * 2
    for row in results["rows"]:
        parts = [
            one
            for one in results["rotation_rows"]
            if one["selected"]
            and (one["method"], one["target"], one["seed"]) == (row["method"], row["target"], row["seed"])
        ]
        recompute(parts, row)
        assert row["headline"] == (row["method"] == "greedy")
    write_report(put(tmp_path, results))


def test_a_rotation_that_is_unfinished_leaves_no_row(tmp_path: Path) -> None:
    results = json.loads(json.dumps(made(tmp_path / "run", methods={"baseline": True, "sequential": {"max_hops": 1}})))

    def without(rows: list[Json]) -> Iterator[Json]:
        yield from (row for row in rows if not (row["target"] == "B" and row["rotation"] == 3))

    from server.results.rotations import pool
    from server.results.schema import Results

    read = Results.model_validate({**results, "rotation_rows": list(without(results["rotation_rows"]))})
    pooled = list(pool(read.rotation_rows, rotations=5, score=read.score))
    assert {row.target for row in pooled} == {"A", "C"}

"""A study of whole volumes selects, compares and reports by volume Dice, and every page says so."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from common.statistics.intervals import case_interval
from server.report import read_results
from server.report.contrasts import family
from server.report.remarks import of_grid
from server.report.table import comparison
from server.report.terminal import text_lines
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

METHODS: dict[str, Any] = {
    "baseline": True,
    "sequential": {"routes": "all", "max_hops": 2},
    "federated": ({"strategy": "fedavg", "rounds": 10},),
}


@pytest.fixture(scope="module", params=["all", "chosen"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    study = small_study(methods=METHODS, training={"slices": request.param, "epochs": 3}, split={"folds": 3})
    return put(folder, plausible(study, folder))


def deciding(folder: Path) -> str:
    return {"all": "dice_volume", "chosen": "dice"}[json.loads(put_text(folder))["study"]["training"]["slices"]]


def put_text(folder: Path) -> str:
    return (folder / "results.json").read_text(encoding="utf-8")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(put_text(folder))["rows"]
    return rows


def test_fold_and_route_are_selected_by_the_validation_score_that_decides(folder: Path) -> None:
    rows, key = rows_of(folder), f"validation_{deciding(folder)}"
    for row in rows:
        rivals = [
            r for r in rows if (r["method"], r["route"], r["target"]) == (row["method"], row["route"], row["target"])
        ]
        assert row["selected"] == (row is max(rivals, key=lambda r: r[key]))
    other = "validation_dice" if deciding(folder) == "dice_volume" else "validation_dice_volume"
    groups = {(r["method"], tuple(r["route"]), r["target"]) for r in rows}
    folds = [[r for r in rows if (r["method"], tuple(r["route"]), r["target"]) == group] for group in groups]
    assert any(max(g, key=lambda r: r[key]) is not max(g, key=lambda r: r[other]) for g in folds), "or nothing is shown"
    for target in "ABC":
        routes = [r for r in rows if r["method"] == "sequential" and r["target"] == target and r["selected"]]
        (headline,) = (r for r in rows if r["headline"] and r["target"] == target)
        assert headline is max(routes, key=lambda r: r[key])


def test_intervals_are_those_of_the_score_that_decides(folder: Path) -> None:
    for row in rows_of(folder):
        if deciding(folder) == "dice_volume":
            values = row["case_dice_volume"]
            assert fmean(values.values()) == pytest.approx(row["dice_volume"], abs=1e-5), "every patient counts alike"
            expected = case_interval(values, dict.fromkeys(values, 1), within=(0.0, 100.0))
        else:
            expected = case_interval(row["case_dice"], row["case_slices"], within=(0.0, 100.0))
        assert (row["ci95"] is None) == (expected is None) == (row["patients"] < 6)
        assert expected is None or row["ci95"] == pytest.approx(expected, abs=1e-3)


def test_the_comparison_is_of_the_score_that_decides_patient_by_patient(folder: Path) -> None:
    results = read_results(folder)
    rows, key = rows_of(folder), deciding(folder)
    found = family(results, comparison(results))
    contrast = next(one for one in found.contrasts if one.opponent == "Target alone")
    for target in "ABC":
        (ours,) = (r for r in rows if r["headline"] and r["target"] == target)
        (alone,) = (r for r in rows if r["method"] == "baseline" and r["selected"] and r["target"] == target)
        gaps = {case: ours[f"case_{key}"][case] - alone[f"case_{key}"][case] for case in ours[f"case_{key}"]}
        weights = [ours["case_slices"][case] if key == "dice" else 1 for case in gaps]
        effect = contrast.where(target)
        assert effect is not None
        assert effect.difference == pytest.approx(np.average(list(gaps.values()), weights=weights), abs=1e-6)
        assert effect.better == sum(gap > 0 for gap in gaps.values())


def test_terminal_and_page_show_the_score_that_decides_and_what_happens_on_whole_volumes(folder: Path) -> None:
    rows, key = rows_of(folder), deciding(folder)
    text = "\n".join(text_lines(read_results(folder)))
    page = " ".join(" ".join(page_of(folder).words).split())
    other = "iou" if key == "dice" else "dice"
    for row in rows:
        if not row["selected"]:
            continue
        cell = f"{row[key]:.1f} / {row[other]:.1f}"
        volume = [f"{row['dice_volume']:.1f}"] if key == "dice" else []
        whole = " · ".join([*volume, f"{row['hd95_mm']:.1f}", f"{row['false_slices']}/{row['empty_slices']}"])
        for told in (text, page):
            assert cell in told and whole in told
    for told in (" ".join(text.split()), page):
        assert "slices without gland in which gland is drawn" in told
        assert ("best validation volume Dice" in told) == (key == "dice_volume")
        assert ("best validation Dice" in told) == (key == "dice")


def test_what_grid_and_rule_take_from_the_glands_stands_under_the_table(folder: Path) -> None:
    page = " ".join(" ".join(page_of(folder).words).split())
    for told in (" ".join("\n".join(text_lines(read_results(folder))).split()), page):
        assert "reach a volume Dice of 97.0 % at A, 97.0 % at B and 97.0 % at C" in told
        assert "reaches beyond the study's grid and is cut off there: 1 at B" in told
        assert "9 slices with gland of at most 200 pixels" in told
        assert ("no model was trained on them" in told) == (deciding(folder) == "dice")


def test_results_of_earlier_versions_are_of_selected_slices(folder: Path, tmp_path: Path) -> None:
    content = json.loads(put_text(folder))
    del content["study"]["training"]["slices"]
    for row in content["rows"]:
        for key in ("case_dice_volume", "false_slices", "empty_slices", "validation_dice_volume"):
            del row[key]
    for site in content["sites"]:
        for key in ("below", "cut_patients", "ceiling"):
            del site[key]
    results = read_results(put(tmp_path, content))
    assert of_grid(results) == []
    assert results.score.key == "dice"
    assert all(cell.whole_volume == "" for cell in comparison(results).cells)

"""Splits crossed with training seeds: each pair is a repeat of its own, and a patient of several counts once."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from server.report import read_results, write_report
from server.report.contrasts import family
from server.report.opening import opening
from server.report.table import comparison
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

METHODS: dict[str, Any] = {"baseline": True, "sequential": {"routes": "all", "max_hops": 1}}
PAIRS = [(7, 4), (7, 1), (8, 4), (8, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crossed")
    study = small_study(methods=METHODS, repeats=2, split={"seed": 7, "folds": 2}, training={"seeds": (4, 1)})
    put(folder, plausible(study, folder / "run", patients={"A": 20, "B": 20, "C": 20}))
    return folder


def test_every_row_names_both_seeds(folder: Path) -> None:
    results = read_results(folder)
    assert {(row.variant, row.split_seed, row.seed) for row in results.rows} == {
        (number, *pair) for number, pair in enumerate(PAIRS)
    }
    assert results.repeats == tuple(PAIRS), "in the study's order, not in that of the seeds"


def test_a_cell_is_the_mean_over_all_pairs_of_seeds(folder: Path) -> None:
    results = read_results(folder)
    table = comparison(results)
    assert table.repeats == 4
    for cell in table.cells:
        same = (cell.row.method, cell.row.route, cell.row.target)
        rows = [row for row in results.rows if row.selected and (row.method, row.route, row.target) == same]
        assert len(rows) == 4
        assert [row.repeat for row in cell.rows] == PAIRS
        assert cell.dice == pytest.approx(fmean(row.dice or 0.0 for row in rows))


def test_a_patient_of_several_pairs_counts_once(folder: Path) -> None:
    results = read_results(folder)
    for contrast in family(results, comparison(results)).contrasts:
        for target, effect in contrast.at:
            held_out = {case for row in results.rows if row.target == target for case in row.case_slices or {}}
            assert effect.patients == len(held_out) <= 8, "two splits of four test patients, each in two trainings"


def test_the_page_says_what_was_drawn_anew(folder: Path) -> None:
    results = read_results(folder)
    assert "in 2 splits, each with 2 training seeds." in opening(results)
    assert "another split and training would take them" in opening(results)
    write_report(folder)
    text = page_of(folder).text
    assert "a mean over 4 repeats (2 splits, each with 2 training seeds)" in text

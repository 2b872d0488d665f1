"""Results of earlier versions are read, with their numbers of rounds counted from the averages behind each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.report import comparison, read_results
from server.report.contrasts import family
from server.report.table import notes
from tests.support.hospitals import small_study
from tests.support.pages import put
from tests.support.plausible import plausible

KEPT = Path(__file__).parents[3] / "docs" / "results"
METHODS: dict[str, Any] = {
    "baseline": True,
    "sequential": {"routes": "all", "max_hops": 1},
    "federated": (
        {"strategy": "fedavg", "rounds": 3},
        {"strategy": "fedprox", "rounds": 12, "local_epochs": (1,), "proximal_mu": (0.1,)},
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    study = small_study(methods=METHODS, training={"epochs": 2}, repeats=2)
    results = plausible(study, tmp_path_factory.mktemp("run"), patients=dict.fromkeys("ABC", 40))
    return json.dumps(results)


def test_rounds_that_an_earlier_version_did_not_write_are_counted(written: str, tmp_path: Path) -> None:
    now = json.loads(written)
    before = json.loads(written)
    for row in before["rows"]:
        del row["rounds"]
    known = [row.rounds for row in read_results(put(tmp_path / "now", now)).rows]
    assert {3, 12, None} == set(known), "or nothing is counted"
    assert [row.rounds for row in read_results(put(tmp_path / "before", before)).rows] == known


def test_results_of_this_version_are_taken_as_they_are(written: str, tmp_path: Path) -> None:
    results = json.loads(written)
    for row in results["rows"]:
        row["rounds"] = row["rounds"] and 99
    assert {row.rounds for row in read_results(put(tmp_path, results)).rows} == {None, 99}


def test_chains_that_never_end_or_lead_nowhere_are_no_trouble(written: str, tmp_path: Path) -> None:
    results = json.loads(written)
    for row in results["rows"]:
        del row["rounds"]
    results["stages"][0]["parent"] = results["stages"][0]["id"]
    results["stages"][-1]["parent"] = "nowhere"
    assert read_results(put(tmp_path, results)).rows


@pytest.mark.parametrize("name", ["prostate3t-five", "table3-synthetic"])
def test_averages_of_the_kept_studies_are_marked_and_not_tested(name: str) -> None:
    results = read_results(KEPT / name)
    table = comparison(results)
    assert any(note.startswith("‡ fewer than 10 rounds") for note in notes(table))
    averages = [contrast for contrast in family(results, table).contrasts if "Fed" in contrast.opponent]
    assert averages and all(contrast.few_rounds and contrast.corrected is None for contrast in averages)

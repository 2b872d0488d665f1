"""How many own patients a hop is worth: the page's tables, recomputed from results.json by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.text import signed
from server.report import read_results, write_report
from server.report.contrasts import family
from server.report.own_patients import own_patients
from server.report.table import comparison
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

Json = dict[str, Any]
METHODS: Json = {
    "baseline": True,
    "longer_baseline": True,
    "sequential": {"routes": "all", "max_hops": 1},
    "train_fraction": (0.25, 0.5, 1.0),
}
SHARES = (0.25, 0.5, None)


def made(folder: Path, **split: Any) -> Json:
    study = small_study(methods=METHODS, split={"folds": 2, **split})
    return plausible(study, folder, patients={"A": 12, "B": 12, "C": 11})


def at(rows: list[Json], target: str, share: float | None) -> list[Json]:
    return [row for row in rows if (row["target"], row["share"]) == (target, share)]


def test_each_share_stands_beside_the_target_alone(tmp_path: Path) -> None:
    results = made(tmp_path / "run")
    tables = {one.target: one for one in own_patients(read_results(put(tmp_path, results)))}
    assert list(tables) == ["A", "B", "C"]
    for target, table in tables.items():
        assert [line.share for line in table.lines] == ["25 %", "50 %", "100 %"]
        for share, line in zip(SHARES, table.lines, strict=True):
            rows = at(results["rows"], target, share)
            alone = next(row for row in rows if row["selected"] and row["method"].startswith("baseline"))
            by_route: dict[tuple[str, ...], list[float]] = {}
            for row in rows:
                if row["method"].startswith("sequential"):
                    by_route.setdefault(tuple(row["route"]), []).append(row["validation_dice"])
            best = max(by_route, key=lambda route: sum(by_route[route]))
            route = next(
                row
                for row in rows
                if row["selected"] and row["method"].startswith("sequential") and tuple(row["route"]) == best
            )
            assert (line.alone, line.handed_on) == (f"{alone['dice']:.1f}", f"{route['dice']:.1f}")
            assert line.gain == signed(route["dice"] - alone["dice"])
            assert " → ".join(best) in line.way


def test_rows_of_a_share_are_in_no_other_comparison(tmp_path: Path) -> None:
    results = made(tmp_path / "run")
    read = read_results(put(tmp_path, results))
    table = comparison(read)
    assert not [cell for cell in table.cells if cell.row.share is not None]
    assert [contrast.opponent for contrast in family(read, table).contrasts] == ["Target alone", "Target alone, longer"]
    assert all(row.share is None for row in read.headlines)
    assert {entry.method for entry in read.spread} == {"baseline", "longer", "sequential"}
    write_report(tmp_path)
    text = page_of(tmp_path).text
    assert "How many own patients a hop is worth" in text
    assert "a larger share holds the patients of a smaller one" in text


@pytest.mark.slow
def test_where_the_test_rotates_shares_are_pooled_too(tmp_path: Path) -> None:
    results = made(tmp_path / "run", test="rotate", test_fraction=0.34)
    for table in own_patients(read_results(put(tmp_path, results))):
        assert [line.share for line in table.lines] == ["25 %", "50 %", "100 %"]
        for share, line in zip(SHARES, table.lines, strict=True):
            routes, alone = [], []
            for rotation in range(3):
                rows = [row for row in at(results["rotation_rows"], table.target, share) if row["rotation"] == rotation]
                routes += [row for row in rows if row["headline"]]
                alone += [row for row in rows if row["selected"] and row["method"].startswith("baseline")]
            assert len(routes) == len(alone) == 3
            for shown, parts in ((line.handed_on, routes), (line.alone, alone)):
                slices = sum(row["slices"] for row in parts)
                mean = sum(row["dice"] * row["slices"] for row in parts) / slices
                assert float(shown) == pytest.approx(mean, abs=0.051)
            assert line.interval != "–", "eleven patients have an interval"
    write_report(tmp_path)


def test_a_study_without_shares_has_no_such_table(tmp_path: Path) -> None:
    study = small_study(methods={"baseline": True, "sequential": {"max_hops": 1}})
    results = plausible(study, tmp_path / "run", patients={"A": 10, "B": 10, "C": 10})
    assert own_patients(read_results(put(tmp_path, results))) == []
    write_report(tmp_path)
    assert "own patients" not in page_of(tmp_path).text

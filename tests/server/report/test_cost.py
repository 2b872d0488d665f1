"""What a study cost, how its routes grew, and what its models forgot, as the page tells it."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from common.scores import DICE
from server.report import read_results
from server.report.budget import growths
from server.report.budget_curves import budget_pictures, track
from server.report.forgetting import matrices
from server.report.table import comparison
from server.results.schema import Results, Row
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

METHODS: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "sequential": {"routes": "all", "max_hops": 2},
    "cyclic": {"laps": 2},
    "federated": ({"strategy": "fedavg", "rounds": 4, "local_epochs": (1, 2)}, {"strategy": "fedprox", "rounds": 2}),
    "pooled": True,
    "pooled_then_target": True,
    "forgetting": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cost")
    study = small_study(methods=METHODS, training={"epochs": 5})
    return put(place / "results", plausible(study, place / "run"))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("grown")
    study = small_study(repeats=2, methods={"baseline": True, "sequential": {"routes": "greedy"}, "forgetting": True})
    return put(place / "results", plausible(study, place / "run"))


def selected(results: Results, method: str, target: str) -> Row:
    rows = [row for row in results.rows if row.selected and (row.method, row.target) == (method, target)]
    return next((row for row in rows if row.headline), rows[0])


def plain(text: str) -> str:
    return text.replace("\u202f", "")


@pytest.mark.slow
def test_the_budget_is_stated_for_the_chain_and_for_everything_run(folder: Path) -> None:
    results = read_results(folder)
    grid = next(
        grid for grid in page_of(folder).grids if any("everything run" in cell for line in grid for cell in line)
    )
    lines = {line[0]: [plain(cell) for cell in line[1:]] for line in grid}
    names = {"Target alone": "baseline", "Target alone, longer": "longer", "Routes": "sequential", "Laps": "cyclic",
             "FedAvg": "fedavg", "FedAvg, batch norm re-estimated": "fedavg-re-estimated",
             "FedAvg, then the target": "fedavg-then-target", "All data": "pooled"}  # fmt: skip
    for label, method in names.items():
        for target, cell in zip("ABC", lines[label], strict=False):
            row = selected(results, method, target)
            assert cell.startswith(f"{row.gradient_steps} steps")
            if method == "sequential":
                assert cell.endswith(" → ".join(row.route))
        budget = next(budget for budget in results.budgets if budget.method == method)
        assert lines[label][3:6] == [str(budget.trainings), str(budget.scorings), str(budget.gradient_steps)]
    whole = next(budget for budget in results.budgets if budget.method == "all")
    assert lines["Everything"][3:6] == [str(whole.trainings), str(whole.scorings), str(whole.gradient_steps)]
    assert "every route, round and candidate that was discarded included" in page_of(folder).text


def test_a_line_of_dice_ends_at_what_its_row_had_spent_and_never_falls(folder: Path) -> None:
    results = read_results(folder)
    stages = {stage.id: stage for stage in results.stages}
    seen = set()
    for row in (row for row in results.rows if row.selected):
        found = track(row, stages, DICE)
        assert found is not None, row.method
        seen.add(row.method)
        assert found.by_steps[-1][0] == row.gradient_steps
        for points in (found.by_steps, found.by_bytes):
            assert all(one[0] <= other[0] and one[1] <= other[1] for one, other in pairwise(points))
        assert found.best == pytest.approx(row.validation_dice, abs=2)  # study's grid and native grid
    assert len(seen) == 12


def test_a_routes_line_begins_when_its_hops_before_are_paid_for(folder: Path) -> None:
    results = read_results(folder)
    stages = {stage.id: stage for stage in results.stages}
    row = next(row for row in results.rows if row.headline and row.target == "A")
    last = stages[str(row.stage)]
    before = (row.gradient_steps or 0) - (last.gradient_steps or 0)
    found = track(row, stages, DICE)
    assert found is not None and len(row.route) == 3 and before > 0
    an_epoch = (last.gradient_steps or 0) / len(last.epochs)
    assert found.by_steps[0] == (before + an_epoch, last.epochs[0].dice)
    moved = sum(stages[parent].bytes_moved or 0 for parent in chain(row, stages))
    assert [x for x, _ in found.by_bytes] == [moved, moved]


def test_a_re_estimated_averages_line_begins_with_its_own_score(folder: Path) -> None:
    """The rounds before have scores at the target too, but of other models."""
    results = read_results(folder)
    stages = {stage.id: stage for stage in results.stages}
    for target in "ABC":
        row = selected(results, "fedavg-re-estimated", target)
        found = track(row, stages, DICE)
        assert found is not None
        assert {(steps, dice) for steps, dice in found.by_steps} == {(row.gradient_steps, row.validation_dice)}
        moved = sum(stages[name].bytes_moved or 0 for name in chain(row, stages))
        assert {x for x, _ in found.by_bytes} == {moved}


def chain(row: Row, stages: dict[str, Any]) -> list[str]:
    found, stage = [], row.stage
    while stage:
        found.append(stage)
        stage = stages[stage].parent
    return found


def test_an_averages_line_has_a_point_a_round_of_the_targets_own_patients(folder: Path) -> None:
    results = read_results(folder)
    stages = {stage.id: stage for stage in results.stages}
    for target in "ABC":
        row = selected(results, "fedavg", target)
        rounds = [stages[name] for name in reversed(chain(row, stages))]
        found = track(row, stages, DICE)
        assert found is not None
        steps, best, expected = 0, -1.0, []
        for stage in rounds:
            assert stage.kind == "average"
            steps += stage.gradient_steps or 0
            if (value := stage.validation[target] or 0.0) > best:
                best = value
                expected.append((steps, best))
        assert found.by_steps[:-1] == expected


def test_a_picture_a_target_draws_every_method_and_names_every_line(folder: Path) -> None:
    results = read_results(folder)
    table = comparison(results)
    pictures = budget_pictures(results, table)
    assert [picture.target for picture in pictures] == ["A", "B", "C"]
    for column, picture in enumerate(pictures):
        names = {line.name for line in picture.charts[0].lines}
        assert len(picture.charts) == 2
        assert len(names) == len([cell for _, cell in table.column(column)])
        assert names == {entry.name for entry in picture.key} | set(picture.others)
        assert [entry.style for entry in picture.key if entry.headline] == ["s-route"]
        assert {entry.style for entry in picture.key} == {"s-route", "s-alone", "s-longer", "s-fedavg", "s-all"}
    text = page_of(folder).text
    assert "gradient steps" in text and "bytes moved (logarithmic)" in text


def test_a_route_found_by_halving_is_shown_with_every_rung(tmp_path: Path) -> None:
    methods = {"baseline": True, "sequential": {"routes": "halving", "max_hops": 2}}
    study = small_study(methods=methods, training={"epochs": 8})
    page = page_of(put(tmp_path / "results", plausible(study, tmp_path / "run")))
    results = read_results(tmp_path / "results")
    assert "How the routes were found" in page.text and "All routes to a target began with a fraction" in page.text
    grid = next(grid for grid in page.grids if grid[0][1] == "epochs a stage")
    lines = [(line[0], *line[1:4]) for line in grid[1:]]
    assert lines == [(site, *rung) for site in "ABC" for rung in (("2", "4", "2"), ("4", "2", "1"), ("8", "1", "1"))]
    for entry in results.grown:
        first = max(entry.steps[0].tried, key=lambda one: one.validation_dice or 0)
        (line,) = (line for line in grid[1:] if line[0] == entry.target and line[1] == "2")
        assert line[4].startswith(f"{' → '.join(first.route)} {first.validation_dice:.1f}")
    (budget,) = (budget for budget in results.budgets if budget.method == "halving")
    assert budget.gradient_steps_of_all_routes is not None
    share = 100 * (1 - budget.gradient_steps / budget.gradient_steps_of_all_routes)
    told = f"({share:.0f} % saved)" if share >= 0 else f"({-share:.0f} % more, so that nothing was saved)"
    assert told in page.text
    said = f"{budget.gradient_steps}, where all routes would have taken {budget.gradient_steps_of_all_routes}"
    assert said.replace(" ", "") in "".join(page.text.split())


def test_a_route_that_grew_says_how_many_trainings_it_took_against_all(grown: Path) -> None:
    results = json.loads((grown / "results.json").read_text())
    page = page_of(grown)
    grid = next(grid for grid in page.grids if "for all routes" in grid[0])
    assert len(grid) == 1 + len(results["grown"]) == 7
    for line, entry in zip(grid[1:], results["grown"], strict=True):
        assert line[0] == entry["target"]
        assert line[2:5] == [" → ".join(entry["route"]), str(entry["trainings"]), str(entry["trainings_of_all_routes"])]
    taken = sum(entry["trainings"] for entry in results["grown"])
    of_all = sum(entry["trainings_of_all_routes"] for entry in results["grown"])
    assert taken < of_all
    assert f"{taken} trainings in place of {of_all}." in page.text


def test_a_route_that_is_not_complete_says_so(grown: Path, tmp_path: Path) -> None:
    results = json.loads((grown / "results.json").read_text())
    results["grown"][0]["route"] = results["grown"][0]["route"][:1]
    first = growths(read_results(put(tmp_path, results)))[0]
    assert first.way.endswith("(not complete)")


def test_after_every_hop_stands_what_every_site_has_and_what_it_lost_or_won(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    page = page_of(folder)
    grids = [grid for grid in page.grids if grid[0][0] == "after the hop to"]
    assert len(grids) == len(results["forgetting"])
    strong = [entry for entry in results["forgetting"] if entry["headline"]]
    assert len(strong) == 3
    for entry, grid in zip(strong, grids, strict=False):  # those of the headline come first, in the order of sites
        assert [line[0] for line in grid[1:]] == entry["route"]
        for number, (line, hop) in enumerate(zip(grid[1:], entry["after"], strict=True)):
            for site, cell in zip("ABC", line[1:], strict=True):
                value = hop["dice"][site]
                change = value - entry["after"][number - 1]["dice"][site]
                sign = "±0.0" if abs(change) < 0.05 else f"{change:+.1f}".replace("-", "−")
                assert cell == f"{value:.1f}" + (sign if number else "")


def test_what_a_site_lost_is_counted_from_its_own_hop_to_the_end(folder: Path, tmp_path: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    results["forgetting"] = [
        {
            **next(entry for entry in results["forgetting"] if entry["headline"]),
            "target": "A",
            "route": ["B", "C", "A"],
            "after": [
                {"site": "B", "dice": {"A": 10.0, "B": 90.0, "C": 20.0}},
                {"site": "C", "dice": {"A": 15.0, "B": 70.0, "C": 80.0}},
                {"site": "A", "dice": {"A": 85.0, "B": 75.5, "C": 82.0}},
            ],
        }
    ]
    (matrix,) = matrices(read_results(put(tmp_path, results)))
    assert matrix.sentence == (
        "B lost 14.5, from 90.0 after its own hop to 75.5; C won 2.0, from 80.0 after its own hop to 82.0;"
        " A won 70.0 with the last hop."
    )


def test_a_study_without_these_has_no_such_sections(tmp_path: Path) -> None:
    study = small_study(methods={"baseline": True, "sequential": {"routes": "all"}})
    folder = put(tmp_path / "results", plausible(study, tmp_path / "run"))
    page_of(folder)
    sections = re.findall(r'<section id="(\w+)">', (folder / "report.html").read_text(encoding="utf-8"))
    assert "forgetting" not in sections and "growth" not in sections and "paper" not in sections
    assert "budget" in sections and "contrasts" in sections

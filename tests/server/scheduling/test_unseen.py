"""Models for an unseen site: the target trains nothing and chooses nothing, and the other sites' patients choose."""

from __future__ import annotations

import html
import statistics
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error

from common.config.study import Study
from common.plan.graph import Best, Evaluate, FineTune, Node, ballot, parents_first
from common.protocol.messages import EvaluateOrder, FineTuneOrder, WireMessage
from server.report.page import write_report
from server.report.table import comparison, notes
from server.results.reading import read_results
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling.state import RunState
from tests.support.fake_sites import Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

LEFT_OUT: dict[str, Any] = {
    "leave_out": True,
    "sequential": {"routes": "all", "max_hops": 2},
    "federated": ({"strategy": "fedavg", "rounds": 3, "then_target": False},),
}
METHODS = {"route-unseen", "fedavg-unseen", "consensus-unseen"}


def unseen_rows(run: RunState) -> list[Any]:
    return [row for row in run.plan.rows if row.method in METHODS]


def found_by(run: RunState) -> bytes:
    return write_json(dump(results_of(run.study, [run])))


def test_no_patient_of_the_target_trains_or_chooses_anything(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**LEFT_OUT)), tmp_path)
    assert not run.parked
    rows = unseen_rows(run)
    assert {(row.method, row.target, row.fold) for row in rows} == {
        (method, target, fold) for method in METHODS for target in "ABC" for fold in (0, 1)
    }
    for row in rows:
        behind = list(parents_first([row.model, row.validation]))
        sites = {node.site for node in behind if isinstance(node, FineTune | Evaluate)}
        assert sites == set("ABC") - {row.target}
        assert all(node.split == "validation" for node in behind if isinstance(node, Evaluate))
        folds = {node.fold for node in behind if isinstance(node, FineTune | Evaluate)}
        assert folds == {row.fold}, "a site's validation patients have trained none of the models they choose among"
        assert row.test == Evaluate(row.target, row.fold, "test", row.model)


def test_the_other_sites_mean_chooses_and_stands_in_the_row(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**LEFT_OUT)), tmp_path)
    shown = {(row.method, row.target, row.fold): row for row in results_of(run.study, [run]).rows}

    def mean(candidate: Node, sites: set[str]) -> float:
        return statistics.fmean(run.records[ballot(candidate, site)].dice for site in sorted(sites))

    several = 0
    for row in unseen_rows(run):
        assert isinstance(row.model, Best)
        others = set("ABC") - {row.target}
        best = max(row.model.candidates, key=lambda one: mean(one, others))
        several += len(row.model.candidates) > 1
        found = shown[row.method, row.target, row.fold]
        assert run.records[row.model].weights == run.records[best].weights == found.weights
        assert found.validation_dice == pytest.approx(100 * mean(best, others), abs=1e-5)
        assert found.dice == pytest.approx(100 * run.records[row.test].dice, abs=1e-5)
        assert row.target not in (found.contributed or ())
        assert not found.headline and not found.absent
    assert several == 2 * 6
    for method in METHODS:
        for target in "ABC":
            folds = [shown[method, target, fold] for fold in (0, 1)]
            chosen = max(folds, key=lambda row: row.validation_dice or 0.0)
            assert [row.selected for row in folds] == [row is chosen for row in folds]
    route = shown["route-unseen", "A", 0]
    assert route.label.endswith(", A unseen") and set(route.label.split(",")[0].split(" → ")) <= {"B", "C"}


@pytest.mark.slow
def test_the_targets_scores_change_nothing_of_what_is_chosen(tmp_path: Path) -> None:
    """Every score of site A turned upside down: the models for A stay what they were."""
    plain = go(FakeGrid(study_of(**LEFT_OUT)), tmp_path / "plain")
    grid = FakeGrid(study_of(**LEFT_OUT))
    score = grid.score
    grid.score = lambda node, weights: 1 - score(node, weights) if node.site == "A" else score(node, weights)
    other = go(grid, tmp_path / "other")

    def models(run: RunState) -> dict[Any, str]:
        return {(r.method, r.fold): run.records[r.model].weights for r in unseen_rows(run) if r.target == "A"}

    assert models(plain) == models(other)
    assert found_by(plain) != found_by(other)


@pytest.mark.slow
@pytest.mark.parametrize("left", [5, 30])
def test_a_study_stopped_anywhere_ends_with_the_same_results(tmp_path: Path, left: int) -> None:
    whole = go(FakeGrid(study_of(**LEFT_OUT)), tmp_path / "whole")
    done: set[str] = set()

    def break_off(site: str, order: WireMessage, answer: Answer) -> Answer:
        assert isinstance(order, FineTuneOrder | EvaluateOrder)
        if order.key in done or len(done) < left:
            done.add(order.key)
            return answer
        return Error(8, "gone")

    assert go(FakeGrid(study_of(**LEFT_OUT), break_off), tmp_path / "broken").parked
    assert found_by(go(FakeGrid(study_of(**LEFT_OUT)), tmp_path / "broken")) == found_by(whole)
    grid = FakeGrid(study_of(**LEFT_OUT))
    assert found_by(go(grid, tmp_path / "broken")) == found_by(whole) and grid.asked == []


def test_a_model_of_an_unseen_site_is_delivered_to_nobody_and_two_sites_are_too_few() -> None:
    from common.plan.methods import METHODS as ALL

    assert not any(method.deliverable or method.adapted for method in ALL if method.key.endswith("-unseen"))
    with pytest.raises(ValueError, match="leave_out needs three sites"):
        Study.model_validate({"sites": ("A", "B"), "methods": {"leave_out": True}})


@pytest.mark.slow
def test_the_rows_stand_in_the_table_and_on_the_page_with_what_they_are(tmp_path: Path) -> None:
    methods = LEFT_OUT | {"baseline": True, "longer_baseline": True, "forgetting": True, "unadapted": True}
    chains = ({"strategy": "feddc", "rounds": 3}, {"strategy": "cyclicfl", "rounds": 2}, {"strategy": "fedadam"})
    run = go(FakeGrid(study_of(**methods | {"federated": chains, "more": ("soup",)})), tmp_path)
    assert not run.parked
    (tmp_path / "results.json").write_bytes(found_by(run))
    results = read_results(tmp_path)
    table = comparison(results)
    assert [line.label for line in table.lines][-5:] == [
        "Best route, target unseen",
        "Other sites' own models, target unseen",
        "FedAdam, target unseen",
        "FedDC, target unseen",
        "CyclicFL, target unseen",
    ]
    assert any(note.startswith("Target unseen: no patient of the target trained the model") for note in notes(table))
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(line.label in html.unescape(page) for line in table.lines)
    assert "averaged every 2 rounds" in page and "the first 1 round, never the last" in page
    assert "Mean of all routes" in page

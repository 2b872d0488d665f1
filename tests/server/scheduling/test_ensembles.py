"""Ensembles: members travel one by one, stay as long as they are needed, and routes are chosen by all their folds."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from common.plan import PlannedRow
from common.plan.graph import Best, Ensemble, Evaluate, FineTune, ensemble_in, fold_of, way_of
from common.protocol.messages import EvaluateOrder, EvaluateReply, FineTuneOrder, WireMessage
from common.protocol.refusals import Refusal, refusal_error
from server.results.rows import results_of
from server.scheduling.state import RunState
from tests.support.fake_sites import Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

ALL: dict[str, Any] = {"more": ("target-folds", "route-folds", "consensus"), "sequential": {"max_hops": 2}}


def rows_of(run: RunState, method: str, target: str) -> list[PlannedRow]:
    return [row for row in run.plan.rows if (row.method, row.target) == (method, target)]


def test_the_members_are_the_folds_and_the_sites_own_models(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**ALL)), tmp_path)
    assert run.parked == {}
    (own,), (route,) = rows_of(run, "target-folds", "A"), rows_of(run, "route-folds", "A")
    assert isinstance(own.model, Ensemble) and isinstance(route.model, Best)
    assert [(way_of(node), fold_of(node)) for node in own.model.members] == [("A", 0), ("A", 1)]
    found = []
    for candidate in route.model.candidates:
        assert isinstance(candidate, Ensemble) and len({way_of(node) for node in candidate.members}) == 1
        assert [fold_of(node) for node in candidate.members] == [0, 1]
        found.append(way_of(candidate.members[0]))
    assert sorted(found) == ["B → A", "B → C → A", "C → A", "C → B → A"]
    for fold, row in enumerate(rows_of(run, "consensus", "A")):
        assert isinstance(row.model, Ensemble) and row.fold == fold
        assert [way_of(node) for node in row.model.members] == ["A", "B", "C"]
        assert row.model.members[0] == own.model.members[fold], "no training of its own"


def test_a_route_is_chosen_by_the_mean_over_its_folds(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**ALL)), tmp_path)
    for target in run.study.sites:
        (row,) = rows_of(run, "route-folds", target)
        means = {}
        for candidate in row.model.parents:
            if isinstance(candidate, Ensemble):
                scores = [run.records[member].dice for member in candidate.members]
                means[candidate] = statistics.mean(scores)
        assert run.winner(row.model) == max(means, key=lambda one: means[one])  # type: ignore[arg-type]
        assert run.records[row.model].parents == tuple(
            run.records[member].weights for member in max(means, key=lambda one: means[one]).members
        )
        (result,) = (
            one for one in results_of(run.study, [run]).rows if (one.method, one.target) == (row.method, target)
        )
        best = max(means, key=lambda one: means[one])
        assert result.label == f"{way_of(best.members[0])}, all folds"
        assert result.members == run.records[row.model].parents and result.selected and result.stage is None


def test_members_travel_one_by_one_and_once_a_scoring(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(**ALL))
    run = go(grid, tmp_path)
    scorings = [node for node in run.plan.nodes if isinstance(node, Evaluate) and ensemble_in(node.weights)]
    assert len(scorings) == 2 * 3 * (1 + 1 + 2), "validation and test, three targets, 1 + 1 + 2 rows"
    for node in scorings:
        orders = [
            (order.member, came)
            for _, order, came in grid.asked
            if isinstance(order, EvaluateOrder) and order.node == node.id
        ]
        members = run.records[node.weights].parents
        brought = [member for member, came in orders if came]
        assert len(brought) == len(set(brought)) and brought == sorted(brought)
        assert 0 < len(orders) <= 1 + len(members)
        assert all(order.members == members for order in grid.orders() if getattr(order, "node", "") == node.id)


def test_all_members_stay_and_a_study_that_is_done_asks_nobody(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**ALL)), tmp_path)
    for row in run.plan.rows:
        for digest in run.records[row.model].files:
            assert (tmp_path / "weights" / f"{digest}.safetensors").exists()
    again = FakeGrid(study_of(**ALL))
    resumed = go(again, tmp_path)
    assert not [order for order in again.orders() if isinstance(order, EvaluateOrder)]
    assert {node.id: record for node, record in resumed.records.items()} == {
        node.id: record for node, record in run.records.items()
    }


def test_a_member_that_was_lost_is_made_again_and_nothing_is_scored_again(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**ALL)), tmp_path)
    (row,) = rows_of(run, "target-folds", "B")
    assert isinstance(row.model, Ensemble)
    lost = row.model.members[1]
    (tmp_path / "weights" / f"{run.records[lost].weights}.safetensors").unlink()
    again = FakeGrid(study_of(**ALL))
    resumed = go(again, tmp_path)
    assert resumed.parked == {} and {order.node for order in again.orders() if hasattr(order, "node")} == {lost.id}
    assert resumed.records[row.model] == run.records[row.model]


@pytest.mark.parametrize("ask", [1, 5], ids=["for what came", "for what is not there"])
def test_a_site_that_asks_for_the_wrong_member_is_parked(tmp_path: Path, ask: int) -> None:
    def change(site: str, order: WireMessage, answer: Answer) -> Answer:
        if isinstance(order, EvaluateOrder) and order.members and order.member == 1:
            return EvaluateReply(study=order.study, key=order.key, state="needs-weights", member=ask), None
        return answer

    run = go(FakeGrid(study_of(more=("consensus",)), change), tmp_path)
    reasons = {reason for node, reason in run.parked.items() if isinstance(node, Evaluate)}
    assert len(reasons) == 3 and all("asks for weights that came along" in reason for reason in reasons)


def test_bytes_are_those_of_the_members_that_travel(tmp_path: Path) -> None:
    """Of a row alone: three trainings come and go, and three models are scored at A, which has put its own away."""
    run = go(FakeGrid(study_of(more=("consensus",))), tmp_path)
    row = next(one for one in results_of(run.study, [run]).rows if (one.method, one.target) == ("consensus", "A"))
    weights = 8 + 6 * 4  # a count and a layer of 2 × 3
    assert row.contributed == ("A", "B", "C")
    trained = [node for node in run.plan.nodes if isinstance(node, FineTune)]
    assert len(trained) == 6, "two folds at three sites"
    assert row.bytes_moved == (3 * 2 + 3) * weights


def test_scores_stand_where_a_lost_member_cannot_be_made_again(tmp_path: Path) -> None:
    """Nothing finished is lost: the site of a lost member is away, and the ensemble's scores are on record."""
    run = go(FakeGrid(study_of(**ALL)), tmp_path)
    before = {(row.method, row.target, row.fold) for row in results_of(run.study, [run]).rows}
    (row,) = rows_of(run, "target-folds", "B")
    for member in row.model.parents:
        (tmp_path / "weights" / f"{run.records[member].weights}.safetensors").unlink()

    def away(site: str, order: WireMessage, answer: Answer) -> Answer:
        return refusal_error(Refusal.LEFT) if isinstance(order, FineTuneOrder) else answer

    resumed = go(FakeGrid(study_of(**ALL), away), tmp_path)
    assert {(row.method, row.target, row.fold) for row in results_of(resumed.study, [resumed]).rows} == before
    assert resumed.not_made_again and not resumed.parked


def test_a_site_that_lost_what_it_had_gets_all_members_again(tmp_path: Path) -> None:
    lost: set[str] = set()

    def change(site: str, order: WireMessage, answer: Answer) -> Answer:
        if isinstance(order, EvaluateOrder) and order.member == 2 and order.key not in lost:
            lost.add(order.key)
            grid.gathered[site, order.key] = 0
            return EvaluateReply(study=order.study, key=order.key, state="needs-weights"), None
        return answer

    grid = FakeGrid(study_of(more=("consensus",)), change)
    run = go(grid, tmp_path)
    assert run.parked == {} and lost
    undisturbed = go(FakeGrid(study_of(more=("consensus",))), tmp_path / "undisturbed")
    assert results_of(run.study, [run]).rows == results_of(undisturbed.study, [undisturbed]).rows


def test_a_site_without_end_is_given_up(tmp_path: Path) -> None:
    def change(site: str, order: WireMessage, answer: Answer) -> Answer:
        if isinstance(order, EvaluateOrder) and order.members:
            return EvaluateReply(study=order.study, key=order.key, state="needs-weights", member=1 - order.member), None
        return answer

    run = go(FakeGrid(study_of(more=("consensus",)), change), tmp_path)
    assert any("asks for weights that came along" in reason for reason in run.parked.values())

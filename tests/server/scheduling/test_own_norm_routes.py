"""Routes whose batch norm stays at the sites, at the coordinator: what travels, whose tensors are named, absence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from flwr.app import Error

from common.config.study import Study
from common.plan import PlannedRow
from common.plan.cost import behind
from common.plan.graph import Best, Completed, Evaluate, FineTune, Node, Refilled, Start, visit_of
from common.protocol.messages import EvaluateOrder, FineTuneOrder
from common.protocol.refusals import Refusal, refusal_error
from server.ledger.ledger import examine
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling.state import RunState
from tests.support.fake_sites import NORM, SHAPES, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

LOCAL: dict[str, Any] = {
    "sequential": {"routes": (("B", "C", "A"), ("A", "B", "A")), "batch_norm": "local", "learning_rate": (1e-3, 1e-4)},
    "cyclic": {"laps": 2, "epochs": 1},
    "forgetting": True,
}
GREEDY: dict[str, Any] = {
    "sequential": {"routes": "greedy", "max_hops": 2, "batch_norm": ("travel", "local")},
    "forgetting": True,
}


def local_trainings(nodes: Any) -> list[FineTune]:
    return [node for node in nodes if isinstance(node, FineTune) and node.stays]


def visited(node: Node) -> list[FineTune]:
    """The trainings behind some weights, the last first; of a choice, the first candidate's."""
    found = []
    while not isinstance(node, Start):
        if isinstance(node, FineTune):
            found.append(node)
        node = node.parents[0]
    return found


def found_by(run: RunState) -> bytes:
    return write_json(dump(results_of(run.study, [run])))


def test_a_second_visit_names_the_sites_own_and_a_first_begins_with_the_first_weights(tmp_path: Path) -> None:
    study = study_of(**LOCAL)
    grid = FakeGrid(study)
    run = go(grid, tmp_path, keep_weights=True)
    assert not run.parked
    orders = {order.node: order for order in grid.orders(FineTuneOrder) if isinstance(order, FineTuneOrder)}
    norm = safetensors.torch.load_file(tmp_path / "weights" / f"{run.start.weights}.safetensors")
    first = second = 0
    for node in local_trainings(run.plan.nodes):
        order, record = orders[node.id], run.records[node]
        earlier = [one for one in visited(node.parent) if one.site == node.site]
        if earlier:
            second += 1
            assert order.own == run.records[earlier[0]].own and order.shared == run.records[node.parent].shared
            assert visit_of(node) == len(earlier)
        else:
            first += 1
            assert (order.own, order.shared) == ("", "")
            came = safetensors.torch.load_file(tmp_path / "weights" / f"{order.weights}.safetensors")
            assert all(came[name].equal(norm[name]) for name in NORM) and set(came) == set(SHAPES)
        left = safetensors.torch.load_file(tmp_path / "weights" / f"{record.shared}.safetensors")
        assert set(left) == set(SHAPES) - NORM
        assert record.own in grid.kept[node.site]
    assert first > 10 and second > 10
    results = results_of(study, [run])
    assert {row.method for row in results.rows} == {"sequential-local", "cyclic-local"}
    (choice,) = (choice for choice in results.choices if choice[0] == "batch normalisation on routes")
    assert choice[1] == "local" and "put back at a second visit" in choice[2]


def test_a_first_visit_that_refuses_its_weights_names_the_site_before_it(tmp_path: Path) -> None:
    """The coordinator puts the first weights' batch norm into them, and does not make them its own by that."""
    study = study_of(sequential={"routes": (("B", "C"),), "batch_norm": "local"})
    grid = FakeGrid(study)

    def change(site: str, order: Any, answer: Any) -> Any:
        first = isinstance(order, FineTuneOrder) and isinstance(
            getattr(grid.planned(order.choices).by_id[order.node], "parent", None), Refilled
        )
        return refusal_error(Refusal.UNFIT_START) if first and site == "C" else answer

    grid.change = change
    run = go(grid, tmp_path)
    assert run.parked and all("they came from site B" in str(why) for why in run.parked.values())


def test_what_a_hop_forgot_is_scored_with_the_sites_own_of_its_last_visit(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**LOCAL)), tmp_path)
    results = results_of(run.study, [run])
    assert {entry.method for entry in results.forgetting} == {"sequential-local", "cyclic-local"}
    rows: dict[Any, PlannedRow] = {(row.method, row.route, row.target, row.fold): row for row in run.plan.rows}
    for entry in results.forgetting:
        model = rows[entry.method, entry.route, entry.target, entry.fold].model
        way = [node for node in behind(model, run.winner) if isinstance(node, FineTune)][::-1]
        assert [node.site for node in way] == [hop.site for hop in entry.after] == list(entry.route)
        for place, (node, hop) in enumerate(zip(way, entry.after, strict=True)):
            for site in "ABC":
                own = [one for one in way[:place] if one.site == site]
                if site == node.site:
                    seen: Node = node
                elif not own:
                    seen = Refilled(node)
                else:  # of the source's folds, the one that was handed on
                    (seen,) = (
                        one.weights
                        for one in run.plan.nodes
                        if isinstance(one, Evaluate)
                        and (one.site, one.fold, one.split) == (site, node.fold, "test")
                        and isinstance(one.weights, Completed)
                        and one.weights.weights == node
                    )
                    assert isinstance(seen, Completed)
                    chosen = run.winner(seen.own) if isinstance(seen.own, Best) else seen.own
                    assert chosen == own[-1]
                    assert run.records[seen].own == run.records[own[-1]].own
                scored = run.records[Evaluate(site, node.fold, "test", seen)]
                assert hop.dice[site] == pytest.approx(100 * scored.dice, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [LOCAL, GREEDY], ids=["listed", "growing"])
@pytest.mark.parametrize("left", [7, 40])
def test_a_run_that_was_cut_off_ends_like_an_undisturbed_one(
    tmp_path: Path, methods: dict[str, Any], left: int
) -> None:
    whole = go(FakeGrid(study_of(**methods)), tmp_path / "whole")
    assert not whole.parked
    answers = 0

    def fails_for_a_while(site: str, order: Any, answer: Any) -> Any:
        nonlocal answers
        answers += 1
        return Error(8, "") if answers > left else answer

    failing, healed = FakeGrid(study_of(**methods), fails_for_a_while), FakeGrid(study_of(**methods))
    assert go(failing, tmp_path / "cut").parked
    healed.kept = failing.kept  # the sites' private folders
    again = go(healed, tmp_path / "cut")
    assert not again.parked and found_by(again) == found_by(whole)
    for folder in ("ledger", "weights"):
        names = [{path.name for path in (tmp_path / out / folder).iterdir()} for out in ("whole", "cut")]
        assert names[0] == names[1]
    assert not examine(tmp_path / "cut").faults
    third = FakeGrid(study_of(**methods))
    go(third, tmp_path / "cut")
    assert not third.asked, "nothing finished is asked for again"


def test_a_grown_route_has_a_row_with_own_batch_norm(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**GREEDY)), tmp_path)
    rows = results_of(run.study, [run]).rows
    for target in "ABC":
        routes = {row.route for row in rows if (row.method, row.target) == ("sequential-local", target)}
        assert routes == {run.choices[target]}


def test_a_site_that_is_away_for_its_second_visit_goes_on_with_its_last_tensors(tmp_path: Path) -> None:
    away: set[Node] = set()

    def gone(site: str, order: Any, answer: Any) -> Any:
        node = grid.plan.by_id.get(getattr(order, "node", ""))
        if site == "C" and isinstance(node, FineTune) and visit_of(node) == 1:
            away.add(node)
            return refusal_error(Refusal.LEFT)
        return answer

    route = study_of(sequential={"routes": (("C", "B", "C", "A", "C", "B"),), "batch_norm": "local"})
    study = Study.model_validate(
        route.model_dump() | {"absence": {"then": "skip", "wait_hours": 0.0}, "split": {"folds": 2, "use_folds": 1}}
    )
    grid = FakeGrid(study, gone)
    run = go(grid, tmp_path, keep_weights=True)
    assert away and away == run.skipped, run.parked
    orders = {order.node: order for order in grid.orders(FineTuneOrder) if isinstance(order, FineTuneOrder)}
    third = [node for node in local_trainings(run.plan.nodes) if node.site == "C" and visit_of(node) == 2]
    assert third
    for node in third:
        assert isinstance(node.before, FineTune) and node.before in away and node.before.before is not None
        assert getattr(orders[node.id], "own", "") == run.records[node.before.before].own
    for node in local_trainings(run.plan.nodes):
        if node.parent in away:  # what the site before sent goes on past the absent site
            assert isinstance(node.parent, FineTune)
            assert getattr(orders[node.id], "shared", "") == run.records[node.parent.parent].shared
    rows = results_of(study, [run]).rows
    assert [(row.target, row.absent) for row in rows] == [("B", ("C",))]


def test_a_first_visit_waits_for_its_site(tmp_path: Path) -> None:
    def gone(site: str, order: Any, answer: Any) -> Any:
        return refusal_error(Refusal.LEFT) if site == "C" else answer

    study = study_of(sequential={"routes": (("C", "B", "A"), ("B", "A")), "batch_norm": ("travel", "local")})
    study = Study.model_validate(study.model_dump() | {"absence": {"then": "skip", "wait_hours": 0.0}})
    run = go(FakeGrid(study, gone), tmp_path)
    rows = {(row.method, row.route) for row in results_of(study, [run]).rows}
    assert ("sequential-local", ("B", "A")) in rows and ("sequential", ("C", "B", "A")) in rows
    assert ("sequential-local", ("C", "B", "A")) not in rows and run.parked


@pytest.mark.slow
def test_scorings_travel_without_what_stays(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(**LOCAL))
    run = go(grid, tmp_path)
    for order in grid.orders(EvaluateOrder):
        assert isinstance(order, EvaluateOrder)
        node = run.plan.by_id[order.node]
        assert isinstance(node, Evaluate)
        assert bool(order.own) == (not isinstance(node.weights, Refilled))


def test_a_search_needs_routes_whose_batch_norm_travels() -> None:
    with pytest.raises(ValueError, match='finds its routes with batch_norm "travel"'):
        study_of(sequential={"routes": "greedy", "batch_norm": "local"})
    with pytest.raises(ValueError, match="has no batch normalisation that could stay at a site"):
        Study.model_validate(
            {
                "sites": ("A", "B"),
                "model": {"architecture": "BasicUNet", "encoder": "", "encoder_weights": "none"},
                "methods": {"sequential": {"batch_norm": "local"}, "federated": (), "pooled": False},
            }
        )

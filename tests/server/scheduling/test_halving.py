"""Successive halving over routes, run on a grid: survivors by hand from the recorded scores, absence, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.plan.graph import FineTune, way_of
from common.protocol.messages import FineTuneOrder, WireMessage
from common.protocol.refusals import REFUSALS, Refusal, refusal_error
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling.state import RunState
from tests.support.fake_sites import Answer, FakeGrid, batches, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

HALVING: dict[str, Any] = {"sequential": {"routes": "halving", "max_hops": 2}, "baseline": True, "forgetting": True}


def study(epochs: int = 8) -> Any:
    plain = study_of(**HALVING)
    return plain.model_copy(update={"training": plain.training.model_copy(update={"epochs": epochs})})


def found_by(run: RunState) -> dict[str, Any]:
    return json.loads(write_json(dump(results_of(run.study, [run]))))


@pytest.mark.parametrize("epochs", [1, 2, 3, 8])
def test_the_survivors_are_those_of_the_recorded_scores(tmp_path: Path, epochs: int) -> None:
    """From the ledger's stages alone, by numpy."""
    results = found_by(go(FakeGrid(study(epochs)), tmp_path))
    stages = results["stages"]
    assert not results["parked"]
    for target in "ABC":
        b, c = (site for site in "ABC" if site != target)
        routes = [f"{b} → {target}", f"{c} → {target}", f"{b} → {c} → {target}", f"{c} → {b} → {target}"]
        rungs = {1: [1], 2: [1, 2], 3: [1, 2, 3], 8: [2, 4, 8]}[epochs]
        for number, rung in enumerate(rungs):
            means = []
            for route in routes:
                scores = [
                    stage["validation_dice"]
                    for stage in stages
                    if stage["label"] == route and len(stage["epochs"]) == rung
                ]
                assert len(scores) == 2, "a score for each fold"
                means.append(np.mean(scores))
            keep = 1 if number == len(rungs) - 1 else -(-len(routes) // 2)
            left = [routes[place] for place in sorted(np.argsort(-np.array(means), kind="stable")[:keep])]
            (entry,) = (entry for entry in results["grown"] if entry["target"] == target)
            step = entry["steps"][number]
            assert step["epochs"] == rung
            assert [" → ".join(tried["route"]) for tried in step["tried"]] == routes
            assert [tried["validation_dice"] for tried in step["tried"]] == pytest.approx(means, abs=1e-5)
            assert [" → ".join(tried["route"]) for tried in step["tried"] if tried["goes_on"]] == left
            # A shorter route that was dropped may be the beginning of another target's.
            dropped = {route for route in routes if route not in left and route.count("→") == 2}
            later = {stage["label"] for stage in stages if len(stage["epochs"]) in rungs[number + 1 :]}
            assert not dropped & later, "a route that was dropped was trained on"
            routes = left
        (row,) = {
            tuple(row["route"]) for row in results["rows"] if (row["method"], row["target"]) == ("halving", target)
        }
        assert routes == [" → ".join(row)] and " → ".join(entry["route"]) == routes[0]
        assert [row["headline"] for row in results["rows"] if row["target"] == target].count(True) == 1


def test_what_halving_took_is_told_beside_all_routes(tmp_path: Path) -> None:
    run = go(FakeGrid(study()), tmp_path)
    (budget,) = (entry for entry in found_by(run)["budgets"] if entry["method"] == "halving")
    took = {node for node in run.plan.nodes if isinstance(node, FineTune) and way_of(node)}
    steps = sum(node.schedule.epochs * batches({"A": 10, "B": 20, "C": 33}[node.site] + node.fold) for node in took)
    # The target alone has all epochs and is the beginning of a route that is left, or of none.
    alone = {node for node in took if node.schedule.epochs == 8 and "→" not in way_of(node)}
    first = {node for node in took if any(other.parents and node in _parents(other) for other in took)}
    unused = sum(8 * batches({"A": 10, "B": 20, "C": 33}[node.site] + node.fold) for node in alone - first)
    assert budget["gradient_steps"] == steps - unused
    of_all = 8 * 5 * sum(batches(slices) for slices in (10, 11, 20, 21, 33, 34))
    assert budget["gradient_steps_of_all_routes"] == of_all


def _parents(node: FineTune) -> set[Any]:
    return {node.parent, *node.parent.parents}


def test_a_halving_broken_off_between_rungs_asks_for_no_stage_twice(tmp_path: Path) -> None:
    whole = found_by(go(FakeGrid(study()), tmp_path / "whole"))
    left = 17

    def break_off(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal left
        left -= isinstance(order, FineTuneOrder)
        return answer if left >= 0 else refusal_error(Refusal.DIVERGED)

    go(FakeGrid(study(), break_off), tmp_path / "cut")
    done = {path.stem for path in (tmp_path / "cut" / "ledger").glob("*.json")}
    grid = FakeGrid(study())
    assert found_by(go(grid, tmp_path / "cut")) == whole
    assert not done & {order.key for order in grid.orders(FineTuneOrder) if isinstance(order, FineTuneOrder)}
    asked = FakeGrid(study())
    assert found_by(go(asked, tmp_path / "cut")) == whole and asked.asked == []


def test_without_a_site_every_target_waits_and_says_so(tmp_path: Path) -> None:
    def refuse(site: str, order: WireMessage, answer: Answer) -> Answer:
        return refusal_error(Refusal.DIVERGED) if site == "C" and isinstance(order, FineTuneOrder) else answer

    results = found_by(go(FakeGrid(study(), refuse), tmp_path))
    parked = [entry for entry in results["parked"] if entry["method"] == "halving"]
    assert {(entry["label"], entry["target"]) for entry in parked} == {(f"route to {x} by halving", x) for x in "ABC"}
    assert {entry["reason"] for entry in parked} == {
        f"site C: {REFUSALS[Refusal.DIVERGED]}; a repeat could only end the same"
    }
    assert not [row for row in results["rows"] if row["method"] == "halving"]
    assert all(not entry["route"] for entry in results["grown"])
    assert {tried["goes_on"] for entry in results["grown"] for step in entry["steps"] for tried in step["tried"]} == {
        None
    }

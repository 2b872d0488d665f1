"""Free predictors of the routes: what is scored, Kendall's τ counted by pairs, and what the page says of it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.study import Study
from common.plan.graph import Best, Evaluate, FineTune
from common.protocol.messages import EvaluateOrder, FineTuneOrder, WireMessage
from common.protocol.refusals import Refusal, refusal_error
from server.report.page import write_report
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling.state import RunState
from tests.support.fake_sites import Answer, FakeGrid, go, quick, study_of
from tests.support.pages import page_of, put

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")


def asking(routes: object = "all", **more: Any) -> Study:
    return study_of(sequential={"routes": routes, "max_hops": 2, "predictors": True}, **more)


def found_by(run: RunState) -> dict[str, Any]:
    return json.loads(write_json(dump(results_of(run.study, [run]))))


def tau_b(x: list[float], y: list[float]) -> float:
    """Counted pair by pair: pairs in the same order less pairs in the reverse, over those that are not equal."""
    above = below = only_x = only_y = 0
    for (a, b), (c, d) in itertools.combinations(zip(x, y, strict=True), 2):
        product = np.sign(a - c) * np.sign(b - d)
        above, below = above + (product > 0), below + (product < 0)
        only_x, only_y = only_x + (a != c), only_y + (b != d)
    return (above - below) / np.sqrt(only_x * only_y)


def test_every_route_is_scored_as_it_arrives_and_tau_is_that_of_all_pairs(tmp_path: Path) -> None:
    run = go(FakeGrid(asking()), tmp_path)
    results = found_by(run)
    assert not results["parked"] and len(results["predictions"]) == 3

    def mean(nodes: list[Any]) -> float:
        assert len(nodes) == 2, "a score for each fold"
        return 100 * float(np.mean([run.records[node].dice for node in nodes]))

    for entry in results["predictions"]:
        target = entry["target"]
        models = {row.route: [] for row in run.plan.rows if row.target == target}
        for row in run.plan.rows:
            if row.target == target:
                models[row.route].append(row.model)
        assert [tuple(one["route"]) for one in entry["routes"]] == list(models) and len(models) == 4
        for one in entry["routes"]:
            finished = models[tuple(one["route"])]
            assert all(isinstance(model, FineTune) and isinstance(model.parent, Best) for model in finished)
            arriving = [
                node
                for node in run.plan.nodes
                if isinstance(node, Evaluate)
                and (node.split, node.site) == ("validation", target)
                and any(node.weights == model.parent for model in finished)
            ]
            estimated = [
                node
                for node in run.plan.nodes
                if isinstance(node, FineTune)
                and (node.trains, node.site) == (False, target)
                and any(node.parent == model.parent for model in finished)
            ]
            tested = [row.test for row in run.plan.rows if row.model in finished]
            assert one["unadapted"] == pytest.approx(mean(arriving), abs=1e-5)
            assert one["re_estimated"] == pytest.approx(mean(estimated), abs=1e-5)
            assert one["validation"] == pytest.approx(mean(finished), abs=1e-5)
            assert one["test"] == pytest.approx(mean(tested), abs=1e-5)
        for agreement in entry["agreement"]:
            x = [one[agreement["predictor"]] for one in entry["routes"]]
            y = [one[agreement["outcome"]] for one in entry["routes"]]
            assert agreement["tau"] == pytest.approx(tau_b(x, y), abs=1e-6) and agreement["routes"] == 4
        assert {(one["predictor"], one["outcome"]) for one in entry["agreement"]} == set(
            itertools.product(("unadapted", "re_estimated"), ("validation", "test"))
        )


def test_predictors_take_no_gradient_step_and_leave_no_weights(tmp_path: Path) -> None:
    plain = study_of(sequential={"routes": "all", "max_hops": 2})
    without, run = go(FakeGrid(plain), tmp_path / "without"), go(FakeGrid(asking()), tmp_path / "with")
    before, after = ({entry["method"]: entry for entry in found_by(one)["budgets"]}["all"] for one in (without, run))
    assert after["gradient_steps"] == before["gradient_steps"] and after["trainings"] == before["trainings"]
    # For three targets, four routes and two folds, one scoring and one estimate.
    assert after["scorings"] - before["scorings"] == 3 * 4 * 2 * 2
    kept = [{path.stem for path in (tmp_path / one / "weights").iterdir()} for one in ("without", "with")]
    assert kept[0] == kept[1]
    assert found_by(run)["rows"] == found_by(without)["rows"]


@pytest.mark.parametrize(("routes", "epochs"), [("greedy", {2}), ("halving", {1, 2})])
def test_routes_that_are_searched_for_are_predicted_at_the_epochs_at_which_they_were_compared(
    tmp_path: Path, routes: str, epochs: set[int]
) -> None:
    results = found_by(go(FakeGrid(asking(routes)), tmp_path))
    assert {entry["epochs"] for entry in results["predictions"]} == epochs
    for entry in results["predictions"]:
        steps = next(one for one in results["grown"] if one["target"] == entry["target"])["steps"]
        tried = {
            tuple(one["route"]): one for step in steps if step["epochs"] == entry["epochs"] for one in step["tried"]
        }
        assert {tuple(one["route"]) for one in entry["routes"]} == set(tried)
        for one in entry["routes"]:
            assert one["validation"] == tried[tuple(one["route"])]["validation_dice"]
            assert (one["test"] is None) or one["route"] in [row["route"] for row in results["rows"]]


def test_a_resumed_study_has_the_same_and_asks_nobody(tmp_path: Path) -> None:
    left = 30

    def break_off(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal left
        left -= isinstance(order, FineTuneOrder | EvaluateOrder)
        return answer if left >= 0 else refusal_error(Refusal.DIVERGED)

    whole = found_by(go(FakeGrid(asking()), tmp_path / "whole"))
    assert len(found_by(go(FakeGrid(asking(), break_off), tmp_path / "cut"))["predictions"]) < 3
    assert found_by(go(FakeGrid(asking()), tmp_path / "cut")) == whole
    again = FakeGrid(asking())
    assert found_by(go(again, tmp_path / "cut")) == whole and again.asked == []


def test_the_page_prints_each_routes_scores_and_tau_with_the_number_of_routes(tmp_path: Path) -> None:
    results = found_by(go(FakeGrid(asking()), tmp_path / "run"))
    folder = put(tmp_path / "page", results)
    write_report(folder)
    page = page_of(folder)
    grids = [grid for grid in page.grids if grid[0][:2] == ["route", "as it arrives"]]
    assert len(grids) == 3
    for grid, entry in zip(grids, results["predictions"], strict=True):
        shown = {line[0]: line[1:] for line in grid[1:]}
        for one in entry["routes"]:
            values = [f"{one[name]:.1f}" for name in ("unadapted", "re_estimated", "validation", "test")]
            assert shown[" → ".join(one["route"])] == values
        tau = next(one["tau"] for one in entry["agreement"])
        assert f"as it arrives: τ {tau:.2f} with validation (4 routes)".replace("-", "−") in page.text
    assert "Of 4 routes, one order in 24 has a τ of 1 by chance." in page.text


def test_a_study_that_asks_for_none_has_the_digest_of_before() -> None:
    settings = study_of().model_dump(mode="json")["methods"]["sequential"]
    assert "predictors" not in settings
    assert asking().digest != study_of(sequential={"routes": "all", "max_hops": 2}).digest

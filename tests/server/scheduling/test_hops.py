"""Settings of later trainings and brakes through a whole run: chosen by validation, resumed, never left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error

from common.config.study import Study
from common.plan.graph import Best, FineTune, way_of
from server.results.rows import results_of, write_json
from server.results.schema import Results, dump
from server.scheduling.absence import Absences
from server.scheduling.state import RunState
from tests.support.fake_sites import FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

METHODS: dict[str, Any] = {
    "baseline": True,
    "sequential": {"routes": "all", "max_hops": 1, "learning_rate": (1e-3, 1e-4)},
    "lwf": {"weight": (0.5, 2.0)},
    "l2_sp": {"weight": 0.1},
    "cyclic": {"laps": 1},
    "more": ("restarts", "longest", "route-folds"),
    "federated": ({"strategy": "fedavg", "rounds": 1},),
}
FEW: dict[str, Any] = {"sequential": {"routes": (("B", "C", "A"), ("C", "A"))}, "l2_sp": {"weight": 0.1}}
GREEDY = {"sequential": {"routes": "greedy", "max_hops": 2, "learning_rate": (1e-3, 1e-4)}, "lwf": {"weight": 2.0}}
ONE_COSINE = {"sequential": FEW["sequential"] | {"annealing": "route"}, "more": ("restarts",)}


def found_by(run: RunState) -> Results:
    return results_of(run.study, [run])


@pytest.mark.slow
def test_each_row_is_its_best_setting_and_one_route_is_the_headline(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**METHODS)), tmp_path)
    found = found_by(run)
    assert not found.parked
    choices = {subject: (setting, remark) for subject, setting, remark in found.choices}
    setting, remark = choices["second and later trainings"]
    assert setting == "rate 0.001 or 0.0001, 0 epochs of warm-up, encoder trained"
    assert remark.startswith("of 2 settings each target's validation patients choose; for routes, laps,")
    assert choices["annealing"][0] == "stage" and "moments begin at zero" in choices["optimizer"][1]
    assert choices["learning without forgetting"][0] == "weight 0.5 or 2, temperature 2"
    assert choices["L2-SP"][0] == "weight 0.1"
    several = [row for row in run.plan.rows if isinstance(row.model, Best) and row.method != "fedavg"]
    weights = {(row.method, row.route, row.target, row.fold): row.weights for row in found.rows}
    tried = {"sequential": 2, "lwf": 4, "l2-sp": 2, "cyclic": 2, "restarts": 2, "fedavg-then-target": 2}
    assert {row.method for row in several} >= set(tried)
    for row in several:
        if row.method in tried:
            assert isinstance(row.model, Best) and len(row.model.candidates) == tried[row.method]
            scores = [run.records[candidate].dice for candidate in row.model.candidates]
            best = row.model.candidates[scores.index(max(scores))]
            key = (row.method, row.route, row.target, row.fold)
            assert weights[key] == run.records[best].weights
            (stage,) = {one.stage for one in found.rows if (one.method, one.route, one.target, one.fold) == key}
            (made,) = (one for one in found.stages if one.id == stage)
            assert made.label == way_of(best)
    for target in "ABC":
        rows = [row for row in found.rows if row.target == target and row.kind.routed]
        (headline,) = (row for row in rows if row.headline)
        means = {
            (row.method, row.route): sum(
                one.validation_dice or 0.0 for one in rows if (one.method, one.route) == (row.method, row.route)
            )
            for row in rows
        }
        assert means[headline.method, headline.route] == max(means.values())
        assert len(means) == 3 * 2


@pytest.mark.parametrize("methods", [FEW, GREEDY, ONE_COSINE], ids=["listed", "growing", "one cosine"])
def test_a_run_that_was_cut_off_ends_like_an_undisturbed_one(tmp_path: Path, methods: dict[str, Any]) -> None:
    whole = go(FakeGrid(study_of(**methods)), tmp_path / "whole")
    answers = 0

    def fails_for_a_while(site: str, order: Any, answer: Any) -> Any:
        nonlocal answers
        answers += 1
        return Error(8, "") if answers > 20 else answer

    cut = go(FakeGrid(study_of(**methods), fails_for_a_while), tmp_path / "cut")
    assert cut.parked
    again = go(FakeGrid(study_of(**methods)), tmp_path / "cut")
    assert not again.parked
    assert write_json(dump(found_by(again))) == write_json(dump(found_by(whole)))
    third = FakeGrid(study_of(**methods))
    go(third, tmp_path / "cut")
    assert not third.asked, "nothing finished is asked for again"


@pytest.mark.parametrize(
    ("sequential", "all_routes"),
    [
        # Of three sites, for a target and fold: two sources; two ends of one hop; two middles; two ends of two hops.
        ({}, 2 + 2 + 2 + 2),
        ({"learning_rate": (1e-3, 1e-4)}, 2 + 2 * (2 + 2 + 2)),
        ({"annealing": "route"}, 2 + 2 + (2 + 2 + 2)),
    ],
)
def test_a_grown_route_says_how_many_trainings_all_routes_would_take(
    tmp_path: Path, sequential: dict[str, Any], all_routes: int
) -> None:
    study = study_of(sequential={"routes": "greedy", "max_hops": 2, **sequential})
    run = go(FakeGrid(study), tmp_path)
    for grown in found_by(run).grown:
        assert grown.trainings_of_all_routes == 2 * all_routes
        assert grown.trainings <= grown.trainings_of_all_routes
        assert grown.route[-1] == grown.target


def test_the_braked_rows_of_a_grown_route_follow_it(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**GREEDY)), tmp_path)
    found = found_by(run)
    assert not found.parked
    for target in "ABC":
        for method in ("greedy", "lwf"):
            rows = [row for row in found.rows if (row.method, row.target) == (method, target)]
            assert {row.route for row in rows} == {run.choices[target]} and len(rows) == 2
        assert sum(row.headline for row in found.rows if row.target == target) == 1


def test_no_candidate_for_a_row_is_left_out_with_its_site() -> None:
    hops = METHODS["sequential"] | {"max_hops": 2}
    content = study_of(**METHODS | {"sequential": hops}).model_dump()
    study = Study.model_validate({**content, "absence": {"then": "skip"}})
    grid = FakeGrid(study)
    absences = Absences(study, grid.plan)
    ends = [
        candidate
        for row in grid.plan.rows
        if isinstance(row.model, Best) and row.method in ("sequential", "lwf", "l2-sp")
        for candidate in row.model.candidates
    ]
    only_ends = [end for end in ends if isinstance(end, FineTune) and way_of(end).count("→") == 2]
    assert only_ends and not any(absences.may_skip(end) for end in only_ends)
    middles = [end.parent for end in only_ends]
    sources = [one for middle in middles for one in (middle.candidates if isinstance(middle, Best) else (middle,))]
    assert all(absences.may_skip(one) for one in sources)

"""Successive halving over routes, against the rule written out with numpy alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.study import Study
from common.errors import RelayError
from common.plan import Census, Choices, Plan, grown, plan, route_found, steps_to
from common.plan.cost import all_behind, planned_steps, steps_of_all_routes
from common.plan.graph import FineTune, Node, way_of


def study_of(sites: int, epochs: int, hops: int, folds: int = 2, routes: str = "halving") -> Study:
    return Study.model_validate(
        {
            "sites": tuple("ABCDE"[:sites]),
            "split": {"folds": folds},
            "training": {"epochs": epochs},
            "methods": {
                "sequential": {"routes": routes, "max_hops": hops},
                "baseline": False,
                "longer_baseline": False,
                "pooled": False,
                "federated": (),
            },
        }
    )


def census_of(study: Study) -> Census:
    return {site: (50 + 7 * number,) * study.split.folds for number, site in enumerate(study.sites)}


def survivors(routes: list[tuple[str, ...]], epochs: int, dice: dict[tuple[int, int, int], float], folds: int):
    """The rule: rungs counted down from all epochs by halves, the better half of each goes on, the first among equals.

    `dice` is by rung, place of the route among all routes, and fold.
    """
    halvings = math.ceil(math.log2(len(routes)))
    budgets = sorted({math.ceil(epochs / 2**k) for k in range(halvings + 1)})
    left = np.arange(len(routes))
    rungs = []
    for rung, budget in enumerate(budgets):
        rungs.append((budget, [routes[place] for place in left]))
        if len(left) > 1:
            means = np.array([sum(dice[rung, place, fold] for fold in range(folds)) / folds for place in left])
            keep = 1 if rung == len(budgets) - 1 else (len(left) + 1) // 2
            left = np.sort(left[np.argsort(-means, kind="stable")[:keep]])
    return rungs, routes[left[0]]


def to_the_end(study: Study, dice) -> tuple[Plan, Choices]:
    choices: Choices = {}
    while (found := plan(study, census_of(study), choices)).growing:
        further = grown(study, found.growing, choices, dice)
        assert further != choices
        choices = further
    return found, choices


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(1, 40), st.integers(1, 3), st.integers(2, 3), st.data())
def test_the_better_half_of_every_rung_goes_on_with_twice_the_epochs(
    sites: int, epochs: int, hops: int, folds: int, data: st.DataObject
) -> None:
    study = study_of(sites, epochs, hops, folds)
    target = study.sites[-1]
    others = study.sites[:-1]
    routes = [(*way, target) for n in range(1, min(hops, len(others)) + 1) for way in itertools.permutations(others, n)]
    draw = np.random.default_rng(data.draw(st.integers(0, 2**20), label="scores"))
    # Few values, so that many are equal.
    scores = {
        (rung, place, fold): float(draw.integers(0, 4)) / 4
        for rung in range(12)
        for place in range(len(routes))
        for fold in range(folds)
    }
    expected, winner = survivors(routes, epochs, scores, folds)
    rung_of = {budget: rung for rung, (budget, _) in enumerate(expected)}
    place_of = {" → ".join(route): place for place, route in enumerate(routes)}

    def dice(node: Node) -> float:
        assert isinstance(node, FineTune)
        if node.site != target:
            return 0.5
        return scores[rung_of[node.schedule.epochs], place_of[way_of(node)], node.fold]

    found, choices = to_the_end(study, dice)
    steps = steps_to(study, target, choices)
    assert [(step.epochs, list(step.routes)) for step in steps] == expected
    assert steps[-1].epochs == epochs
    for before, after in itertools.pairwise(steps):
        assert before.epochs < after.epochs <= 2 * before.epochs
        assert len(after.routes) == -(-len(before.routes) // 2)
    assert route_found(study, target, choices) == winner
    rows = [row for row in found.rows if row.target == target]
    assert {row.route for row in rows} == {winner} and {row.fold for row in rows} == set(range(folds))


def test_the_route_that_is_left_is_the_very_chain_that_a_study_of_all_routes_has() -> None:
    found, _ = to_the_end(study_of(4, 7, 2), lambda node: float(len(way_of(node))))
    every = plan(study_of(4, 7, 2, routes="all"), census_of(study_of(4, 7, 2)))
    models = {(row.route, row.fold): row.model for row in every.rows}
    assert len(found.rows) == 4 * 2
    assert all(row.model == models[row.route, row.fold] for row in found.rows)


def test_every_stage_of_a_rung_has_the_rungs_epochs_and_prefixes_are_shared() -> None:
    study = study_of(3, 200, 2)
    found, choices = to_the_end(study, lambda node: float(len(way_of(node))))
    first = plan(study, census_of(study))
    stages = [node for node in first.nodes if isinstance(node, FineTune)]
    # The 15 trainings of three sites and two hops, in each fold, all with a quarter of the epochs.
    assert len(stages) == 15 * 2 and {node.schedule.epochs for node in stages} == {50}
    assert [(step.epochs, len(step.routes)) for step in steps_to(study, "A", choices)] == [(50, 4), (100, 2), (200, 1)]
    # The longest routes are left: at 100 epochs all six of two hops with what is before them, at 200 one a target.
    later = [node for node in all_behind(found.tried) if isinstance(node, FineTune) and node.schedule.epochs == 100]
    assert len(later) == (6 + 6 + 3) * 2
    for node in all_behind(found.tried):
        parents = [node.parent] if isinstance(node, FineTune) else []
        before = [one for parent in parents for one in (parent, *parent.parents) if isinstance(one, FineTune)]
        assert all(isinstance(node, FineTune) and one.schedule == node.schedule for one in before)


def test_all_routes_are_counted_once_beside_what_a_search_takes() -> None:
    study = study_of(3, 200, 2)
    census = census_of(study)
    steps = planned_steps(study, census)
    batches = {site: math.ceil(census[site][0] / 16) for site in study.sites}
    assert all(census[site][0] % 16 != 1 for site in study.sites)
    # Every site ends one way of one site, two of two and two of three.
    assert steps_of_all_routes(study, census) == 2 * 200 * 5 * sum(batches.values())
    every = plan(study_of(3, 200, 2, routes="all"), census)
    assert steps_of_all_routes(study, census) == sum(steps(n) for n in every.nodes if isinstance(n, FineTune))
    many = study.model_copy(update={"sites": tuple(f"S{k}" for k in range(60))})
    assert steps_of_all_routes(many, census_of(many)) is None


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(1, 9), st.integers(1, 3), st.data())
def test_a_sites_own_plan_has_all_its_stages(sites: int, epochs: int, hops: int, data: st.DataObject) -> None:
    study = study_of(sites, epochs, hops)
    scores: dict[str, float] = {}

    def dice(node: Node) -> float:
        return scores.setdefault(node.id, data.draw(st.integers(0, 3)) / 3)

    choices: Choices = {}
    while (found := plan(study, census_of(study), choices)).growing:
        for site in study.sites:
            its = plan(study, census_of(study), choices, at=site)
            assert its.rows == found.rows
            own = {node for node in found.nodes if getattr(node, "site", "") == site}
            assert own == {node for node in its.nodes if getattr(node, "site", "") == site}
        choices = grown(study, found.growing, choices, dice)


@pytest.mark.parametrize(
    "choices",
    [
        {"X": ("1100",)},
        {"A": ("11",)},
        {"A": ("1110",)},
        {"A": ("1200",)},
        {"A": ("1100", "11")},
        {"A": ("1100", "10", "1")},
        {"A": ("B", "A")},
        {"A": ("1100", "1000")},
    ],
)
def test_choices_that_halving_cannot_come_to_are_refused(choices: Choices) -> None:
    study = study_of(3, 200, 2)
    plan(study, census_of(study), {"A": ("1100", "01"), "B": ("0110",)})
    with pytest.raises(RelayError, match="is no choice of routes to"):
        plan(study, census_of(study), choices)
    with pytest.raises(RelayError, match="is no choice of routes to"):
        plan(study_of(3, 200, 2, routes="all"), census_of(study), {"A": ("1100",)})

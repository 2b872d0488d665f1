"""What is as long as the longest route: laps, and rounds by all their steps or by those one after another.

Steps are counted by hand: batches of four, where a single slice left over joins the batch before it.
"""

from __future__ import annotations

from typing import Any

import pytest

from common.config.study import Study
from common.plan import plan
from common.plan.cost import depths, planned_steps
from common.plan.graph import Average, Best, Completed, FineTune, Node, rounds_tried

CENSUS = {"A": (10, 11), "B": (20, 21), "C": (33, 34)}
BATCHES = {"A": (3, 3), "B": (5, 5), "C": (8, 9)}
EPOCHS = 6
BOTH = ("steps", "depth")


def study_of(sequential: dict[str, Any] | None = None, **methods: Any) -> Study:
    none = {"baseline": False, "longer_baseline": False, "pooled": False, "federated": (), "forgetting": False}
    return Study.model_validate(
        {
            "sites": ("A", "B", "C"),
            "split": {"folds": 2},
            "training": {"epochs": EPOCHS, "batch": 4},
            "methods": {**none, "sequential": sequential or {}, **methods},
        }
    )


def rounds_in(study: Study) -> dict[str, set[int]]:
    """By method, the rounds of each setting, counted in the graph of A's first fold."""
    found: dict[str, set[int]] = {}
    for row in plan(study, CENSUS).rows:
        if row.target == "A" and row.fold == 0 and isinstance(row.model, Best):
            ends = {node_of(one).total_epochs // node_of(one).epochs for one in row.model.candidates}
            found[row.method] = ends
            assert rounds_tried(row.model) == max(ends)
    return found


def node_of(candidate: Node) -> Any:
    if isinstance(candidate, FineTune) and not candidate.trains:
        candidate = candidate.parent
    if isinstance(candidate, Completed):
        candidate = candidate.weights
    return (candidate.parts[0] if isinstance(candidate, Average) else candidate).schedule  # type: ignore[attr-defined]


def test_rounds_by_all_steps_and_by_those_one_after_another() -> None:
    """Of both folds: a route has 6 × (16 + 17) steps, a round 16 + 17, and its largest site 8 + 9: 6 rounds, or 12."""
    part = {
        "strategy": "fedavg",
        "budget": BOTH,
        "batch_norm": ("average", "re-estimate", "local"),
        "ditto_lambda": 0.5,
    }
    found = rounds_in(study_of(federated=(part,)))
    names = ("fedavg", "fedavg-re-estimated", "fedavg-local", "fedavg-ditto")
    assert found == {name: {6} for name in names} | {f"{name}-depth": {12} for name in names}


def test_depth_is_the_steps_of_the_longest_chain() -> None:
    study = study_of(federated=({"strategy": "fedavg", "budget": BOTH},))
    planned = plan(study, CENSUS)
    deep = depths(planned.nodes, steps=planned_steps(study, CENSUS))
    rows = {(row.method, row.route): deep[row.model] for row in planned.rows if (row.target, row.fold) == ("A", 0)}
    assert rows["sequential", ("B", "A")] == EPOCHS * (5 + 3)
    # A source's best fold is handed on: of C's two folds, the second has the more steps.
    assert rows["sequential", ("B", "C", "A")] == EPOCHS * (5 + 9 + 3)
    everybody = ("A", "B", "C")
    assert rows["fedavg", everybody] == 6 * 8 and rows["fedavg-depth", everybody] == 12 * 8
    assert rows["fedavg-then-target", (*everybody, "A")] == 6 * 8 + EPOCHS * 3


@pytest.mark.parametrize(
    ("part", "methods"),
    [
        ({"rounds": 5, "budget": BOTH}, {"fedavg"}),
        ({"budget": "depth"}, {"fedavg-depth"}),
        ({"budget": ("depth", "steps")}, {"fedavg-depth", "fedavg"}),
        # Of 60 epochs a round, both budgets come to a single round, and there is one row.
        ({"budget": BOTH, "local_epochs": 60}, {"fedavg"}),
    ],
)
def test_budgets_that_come_to_the_same_have_one_row(part: dict[str, Any], methods: set[str]) -> None:
    given = {"strategy": "fedavg", "batch_norm": "average", "then_target": False} | part
    study = study_of({"routes": "none"}, federated=(given,))
    assert {row.method for row in plan(study, CENSUS).rows} == methods


def test_laps_of_cyclicfl_have_no_depth_of_their_own() -> None:
    study = study_of(federated=({"strategy": "cyclicfl", "budget": BOTH, "then_target": False},))
    assert not [row for row in plan(study, CENSUS).rows if row.method.endswith("depth")]


@pytest.mark.parametrize(
    ("laps", "hops", "epochs"),
    [
        (1, 2, [6]),
        (2, 2, [3, 3]),
        (4, 2, [2, 2, 1, 1]),
        (9, 2, [1] * 9),
        # One hop: C → A has 6 × 11 steps, an epoch of all sites 16: 4.1 epochs a site.
        (2, 1, [2, 2]),
        (3, 1, [2, 1, 1]),
    ],
)
def test_laps_have_the_steps_of_the_longest_route(laps: int, hops: int, epochs: list[int]) -> None:
    study = study_of({"max_hops": hops}, cyclic={"laps": laps})
    (row,) = [row for row in plan(study, CENSUS).rows if (row.method, row.target, row.fold) == ("cyclic", "A", 0)]
    visits: list[int] = []
    node: Node = row.model
    while isinstance(node, FineTune):
        visits.append(node.schedule.epochs)
        node = node.parent
    assert visits[::-1] == [of_lap for of_lap in epochs for _ in range(3)]
    steps = sum(epochs) * sum(BATCHES[site][0] for site in "ABC")
    longest = EPOCHS * (BATCHES["A"][0] + BATCHES["C"][0] + (BATCHES["B"][0] if hops == 2 else 0))
    assert abs(steps - longest) <= 8 or laps == 9, "half an epoch of all sites, unless every visit has but one"

"""What stages cost is counted from the graph, each stage once."""

from __future__ import annotations

import pytest

from common.config.study import Study
from common.plan.cost import Cost, all_behind, behind, cost_of, made_at, planned_steps
from common.plan.graph import Average, Best, Evaluate, FineTune, Schedule, Start

EPOCHS = Schedule(6, 0, 6, "best")
START = Start()
A = FineTune("A", 0, START, EPOCHS)
OTHER_FOLD = FineTune("A", 1, START, EPOCHS)
B = FineTune("B", 0, START, EPOCHS)
AB = FineTune("B", 0, A, EPOCHS)
MEAN = Average((A, B), "fedavg")
BEST = Best((A, OTHER_FOLD), "A", "validation")
MIXED = Best((A, AB), "A", "validation")


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([], Cost(0, 0, 0, 0)),
        ([START, MEAN, BEST], Cost(0, 0, 0, 0)),
        ([A], Cost(1, 0, 7, 20)),
        ([A, A], Cost(1, 0, 7, 20)),
        ([A, AB], Cost(2, 0, 14, 40)),
        # A site that scores what it made need not be sent it.
        ([Evaluate("A", 0, "test", A)], Cost(0, 1, 0, 0)),
        ([Evaluate("B", 0, "test", A)], Cost(0, 1, 0, 10)),
        ([Evaluate("A", 0, "test", MEAN)], Cost(0, 1, 0, 10)),
        ([Evaluate("A", 0, "test", BEST)], Cost(0, 1, 0, 0)),
        ([Evaluate("A", 0, "test", MIXED)], Cost(0, 1, 0, 10)),
        ([FineTune("A", 0, A, EPOCHS)], Cost(1, 0, 7, 10)),
    ],
)
def test_the_cost_of_stages(nodes: list[FineTune], expected: Cost) -> None:
    assert cost_of(nodes, steps=lambda _: 7, weight_bytes=10) == expected


def test_who_made_weights() -> None:
    assert [made_at(node) for node in (START, A, AB, MEAN, BEST, MIXED)] == [None, "A", "B", None, "A", None]


def test_planned_steps_are_batches_times_epochs() -> None:
    study = Study.model_validate({"sites": ("A", "B"), "training": {"batch": 4}})
    # 9 slices: two batches of four, and one slice that joins the second.
    assert planned_steps(study, {"A": (9, 10), "B": (1, 1)})(A) == 2 * 6
    assert planned_steps(study, {"A": (9, 10), "B": (1, 1)})(OTHER_FOLD) == 3 * 6


def test_behind_weights_stands_what_was_selected_and_with_the_rest_what_was_not() -> None:
    last = FineTune("B", 0, BEST, EPOCHS)
    assert set(behind(last, lambda _: OTHER_FOLD)) == {last, BEST, OTHER_FOLD, START}
    assert set(all_behind([last])) == {last, BEST, A, OTHER_FOLD, START}

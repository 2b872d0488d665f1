"""FedBN and Ditto at the coordinator: what it never has, whose tensors an order names, and a site that was away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import RelayError
from common.model.weights import save
from common.plan.graph import Average, Completed, FineTune, Node, Start
from common.protocol.messages import EvaluateOrder, FineTuneOrder, FineTuneReply, WireMessage
from common.protocol.refusals import Refusal, refusal_error
from server.aggregation import Contribution, aggregate
from server.results.rows import results_of
from tests.support.fake_sites import NORM, SHAPES, Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

ROUNDS = 4


def study_with(absence: Any = None, **settings: Any) -> Any:
    part = {"strategy": "fedavg", "rounds": ROUNDS, "batch_norm": "local", "then_target": False} | settings
    study = study_of(federated=(part,))
    split = {"split": {"folds": 2, "use_folds": 1}} if absence else {}
    return type(study).model_validate(study.model_dump() | {"absence": absence or {}} | split)


def trainings(nodes: Any, site: str = "") -> list[FineTune]:
    return [node for node in nodes if isinstance(node, FineTune) and site in ("", node.site)]


def test_every_round_goes_on_from_the_sites_own_tensors_of_the_round_before(tmp_path: Path) -> None:
    study = study_with()
    grid = FakeGrid(study)
    run = go(grid, tmp_path, keep_weights=True)
    assert not run.parked
    orders = {order.node: order for order in grid.orders(FineTuneOrder)}
    for node in trainings(run.plan.nodes):
        order, record = orders[node.id], run.records[node]
        assert isinstance(order, FineTuneOrder)
        if isinstance(node.parent, Start):
            assert (order.own, order.shared) == ("", "")
            continue
        (before,) = (part for part in node.parent.parents if isinstance(part, FineTune) and part.site == node.site)
        assert order.own == run.records[before].own != record.own
        assert order.shared == run.records[node.parent].weights
    for node in run.plan.nodes:
        if isinstance(node, Average):
            with (tmp_path / "weights" / f"{run.records[node].weights}.safetensors").open("rb") as file:
                assert b'"count"' not in file.read() and "count" in NORM
    found = results_of(study, [run])
    rows = [row for row in found.rows if row.target == "B"]
    assert {row.method for row in found.rows} == {"fedavg-local"} and len(rows) == 2
    stages = {stage.id: stage for stage in found.stages}
    for row in rows:
        assert row.label == "FedBN"
        scores = [stage.validation["B"] for stage in found.stages if (stage.kind, stage.fold) == ("average", row.fold)]
        assert len(scores) == ROUNDS and row.validation_dice == max(value or 0.0 for value in scores)
        stage = stages[row.stage or ""]
        assert stage.kind == "average" and stage.label.startswith("FedBN, round ")
    # The layer's six numbers travel, the counter never: three sites train and score, each round and fold.
    size = 6 * 4
    (budget,) = (budget for budget in found.budgets if budget.method == "fedavg-local")
    there = 2 * 3 * (32 + (ROUNDS - 1) * size) + 2 * 3 * ROUNDS * size
    # The best round's validation, which is known from the round's own, counts as a scoring beside its test.
    back, of_the_best = 2 * 3 * ROUNDS * size, 2 * 2 * 3 * size
    assert budget.bytes_moved == there + back + of_the_best


def test_of_a_personal_model_the_coordinator_has_a_digest_alone(tmp_path: Path) -> None:
    study = study_with(batch_norm="average", ditto_lambda=(0.1, 1.0))
    grid = FakeGrid(study)
    run = go(grid, tmp_path, keep_weights=True)
    assert not run.parked
    personal = [node for node in trainings(run.plan.nodes) if node.stays == "everything"]
    assert len(personal) == 2 * 2 * 3 * ROUNDS
    there = {path.stem for path in (tmp_path / "weights").iterdir()}
    for node in personal:
        record = run.records[node]
        assert record.files == () and record.weights == record.own and record.own not in there
    scored = [order for order in grid.orders(EvaluateOrder) if getattr(order, "own", "")]
    assert scored and all(not getattr(order, "shared", "") for order in scored), "nothing travels for their test"
    rows = [row for row in results_of(study, [run]).rows if row.method == "fedavg-ditto"]
    assert len(rows) == 2 * 3
    for row in rows:
        rivals = [node for node in personal if (node.site, node.fold) == (row.target, row.fold)]
        best = max(rivals, key=lambda node: run.records[node].dice)
        assert row.weights == run.records[best].own and row.label == "Ditto"
        assert row.contributed == ("A", "B", "C")


@pytest.mark.parametrize("word", ["local", "ditto"])
def test_a_coordinator_refuses_what_should_have_stayed(tmp_path: Path, word: str) -> None:
    settings = {"batch_norm": "local"} if word == "local" else {"batch_norm": "average", "ditto_lambda": 0.5}

    def too_much(site: str, order: WireMessage, answer: Answer) -> Answer:
        reply = answer[0] if isinstance(answer, tuple) else None
        if site == "B" and isinstance(reply, FineTuneReply) and reply.own:
            held = {name: value for values in grid.kept["B"].values() for name, value in values.items()}
            return reply, {**(answer[1] or {}), **held}  # type: ignore[index]
        return answer

    study = study_with(**settings)
    grid = FakeGrid(study, too_much)
    run = go(grid, tmp_path)
    assert {"refused" in reason or "stay" in reason for reason in run.parked.values()} == {True}
    assert {path.stem for path in (tmp_path / "weights").iterdir()}.isdisjoint(grid.kept["B"])


def test_a_site_that_is_away_for_a_round_goes_on_with_its_last_tensors(tmp_path: Path) -> None:
    away: set[Node] = set()

    def gone(site: str, order: WireMessage, answer: Answer) -> Answer:
        node = grid.plan.by_id.get(getattr(order, "node", ""))
        if site == "C" and isinstance(node, FineTune) and node.schedule.first == 1:
            away.add(node)
            return refusal_error(Refusal.LEFT)
        return answer

    study = study_with({"then": "skip", "wait_hours": 0.0})
    grid = FakeGrid(study, gone)
    run = go(grid, tmp_path)
    assert away and away == run.skipped, run.parked
    orders = {order.node: order for order in grid.orders(FineTuneOrder)}
    for node in trainings(run.plan.nodes, "C"):
        if node.schedule.first == 2:
            assert node.before in away and node.before is not None and node.before.before is not None
            assert getattr(orders[node.id], "own", "") == run.records[node.before.before].own
    for node in run.plan.nodes:
        if isinstance(node, Completed) and node.own in away:
            assert node.own.before is not None
            assert run.records[node].own == run.records[node.own.before].own


def test_the_first_round_and_a_personal_model_wait_for_their_site(tmp_path: Path) -> None:
    """Its own tensors begin there, and nobody else has them."""

    def gone(site: str, order: WireMessage, answer: Answer) -> Answer:
        node = grid.plan.by_id.get(getattr(order, "node", ""))
        first = isinstance(node, FineTune) and node.before is None and node.stays != ""
        return refusal_error(Refusal.LEFT) if site == "C" and first else answer

    study = study_with({"then": "skip", "wait_hours": 0.0}, batch_norm=("average", "local"), ditto_lambda=0.5)
    grid = FakeGrid(study, gone)
    run = go(grid, tmp_path)
    assert run.parked and not any(node.stays for node in run.skipped if isinstance(node, FineTune))
    rows = {(row.method, row.target) for row in results_of(study, [run]).rows}
    assert ("fedavg-ditto", "A") in rows
    assert not rows & {("fedavg-local", "A"), ("fedavg-local", "C"), ("fedavg-ditto", "C")}


def test_the_average_has_no_tensor_that_stays(tmp_path: Path) -> None:
    """Even if parts had one, the average would be refused rather than made."""

    whole = {"count": torch.tensor(3), "layer": torch.ones(2, 3)}
    without = {"layer": torch.full((2, 3), 3.0)}
    names = [save(weights, tmp_path) for weights in (whole, without, {"layer": torch.full((2, 3), 6.0)})]
    start, one, other = (tmp_path / f"{name}.safetensors" for name in names)
    parts = {"A": Contribution(one, 1), "B": Contribution(other, 2)}
    made = aggregate("fedavg", parts, expected=frozenset(parts), parent=start, without=NORM)
    assert set(made) == set(SHAPES) - NORM and torch.equal(made["layer"], torch.full((2, 3), 5.0))
    parts["A"] = Contribution(start, 1)
    with pytest.raises(RelayError, match="the part of A has other tensors than its parent"):
        aggregate("fedavg", parts, expected=frozenset(parts), parent=start, without=NORM)

"""Weights stay as long as a row, a choice or a stage may still need them, and no longer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error

from common.plan.graph import Average, Best, FineTune, Node, Schedule, Start
from common.protocol.messages import EvaluateOrder, FineTuneOrder, WireMessage
from server.ledger.ledger import Ledger, StageRecord
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling.retention import live_inputs
from server.scheduling.state import RunState
from tests.support.fake_sites import Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

EVERYTHING: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "unadapted": True,
    "sequential": {"routes": (("B", "C", "A"), ("C", "B"))},
    "federated": ({"strategy": "fedavg", "rounds": 6},),
    "cyclic": {"laps": 2},
    "forgetting": True,
}
GROWING: dict[str, Any] = {**EVERYTHING, "sequential": {"routes": "greedy", "max_hops": 2}}
HALVING: dict[str, Any] = {**EVERYTHING, "sequential": {"routes": "halving", "max_hops": 2}}
ALL_KINDS = pytest.mark.parametrize("methods", [EVERYTHING, GROWING, HALVING], ids=["listed", "growing", "halving"])


def files(out: Path) -> set[str]:
    return {path.stem for path in (out / "weights").glob("*.safetensors")}


def found_by(run: RunState) -> bytes:
    return write_json(dump(results_of(run.study, [run])))


@pytest.mark.slow
@ALL_KINDS
def test_at_the_end_the_rows_weights_are_there_and_no_others(tmp_path: Path, methods: dict[str, Any]) -> None:
    run = go(FakeGrid(study_of(**methods)), tmp_path)
    rows = {run.records[row.model].weights for row in run.plan.rows}
    start = run.records[Start()].weights
    assert files(tmp_path) == rows | {start}
    made = {record.weights for record in run.records.values() if record.weights}
    assert len(made) > len(rows) + 5, "something was taken away"


@pytest.mark.slow
@ALL_KINDS
def test_what_was_taken_away_is_asked_for_by_nobody(tmp_path: Path, methods: dict[str, Any]) -> None:
    expected = found_by(go(FakeGrid(study_of(**methods)), tmp_path, keep_weights=True))
    assert found_by(go(FakeGrid(study_of(**methods)), tmp_path / "pruned")) == expected
    grid = FakeGrid(study_of(**methods))
    assert found_by(go(grid, tmp_path / "pruned")) == expected
    assert grid.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
@ALL_KINDS
def test_a_study_broken_off_anywhere_asks_for_what_is_missing_alone(
    tmp_path: Path, methods: dict[str, Any], seed: int
) -> None:
    """Also of what was taken away before: none of it is trained again."""
    whole = FakeGrid(study_of(**methods))
    expected = found_by(go(whole, tmp_path / "whole"))
    stages = {order.key for order in whole.orders() if isinstance(order, FineTuneOrder | EvaluateOrder)}
    left = random.Random(seed).randrange(len(stages))
    done: set[str] = set()

    def break_off(site: str, order: WireMessage, answer: Answer) -> Answer:
        assert isinstance(order, FineTuneOrder | EvaluateOrder)
        if order.key in done or len(done) < left:
            done.add(order.key)
            return answer
        return Error(8, "gone")

    go(FakeGrid(study_of(**methods), break_off), tmp_path / "broken")
    before = {path.stem for path in (tmp_path / "broken" / "ledger").glob("*.json")}
    again = FakeGrid(study_of(**methods))
    assert found_by(go(again, tmp_path / "broken")) == expected
    asked = {order.key for order in again.orders() if isinstance(order, FineTuneOrder | EvaluateOrder)}
    assert not asked & before
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_weights_that_are_lost_and_needed_are_made_again_and_nothing_else(tmp_path: Path, seed: int) -> None:
    """Against the rule, written out: a lost row's model, and what it takes to make it, back to what is there."""
    study = study_of(**EVERYTHING)
    run = go(FakeGrid(study), tmp_path)
    expected, kept = found_by(run), files(tmp_path)
    rows = sorted({run.records[row.model].weights for row in run.plan.rows})
    chance = random.Random(seed)
    lost = set(chance.sample(rows, chance.randint(1, 4)))
    for digest in lost:
        (tmp_path / "weights" / f"{digest}.safetensors").unlink()

    needed: set[str] = set()

    def make(node: Node) -> None:
        """Make a node's weights again, and before them what they are made from."""
        while isinstance(node, Best):
            node = run.winner(node)
        weights = run.records[node].weights
        if weights in files(tmp_path) or weights in needed:
            return
        needed.add(weights)
        for parent in (*node.parents, *([node.parts[0].parent] if isinstance(node, Average) else [])):
            make(parent)

    for row in run.plan.rows:
        make(row.model)
    grid = FakeGrid(study)
    assert found_by(go(grid, tmp_path)) == expected
    trained = {run.records[node].weights for node in run.plan.nodes if isinstance(node, FineTune)}
    by_key = {record.key: record.weights for record in run.records.values()}
    asked = [by_key[order.key] for order in grid.orders(FineTuneOrder) if isinstance(order, FineTuneOrder)]
    assert set(asked) == needed & trained
    assert not grid.orders(EvaluateOrder)
    assert files(tmp_path) == kept


def test_a_choice_needs_the_leader_and_those_without_a_score() -> None:
    candidates = [FineTune("A", fold, Start(), Schedule(2, 0, 2, "best")) for fold in range(4)]
    best = Best(tuple(candidates), "A", "validation")
    scores = {candidates[0]: 0.5, candidates[1]: 0.7, candidates[2]: 0.7}
    assert list(live_inputs(best, scores.get)) == [candidates[1], candidates[3]]
    assert list(live_inputs(best, {}.get)) == candidates


def test_few_weights_lie_on_the_disk_at_any_time(tmp_path: Path) -> None:
    """Of forty rounds the leading average of each target and fold, what a round is made of, and the rows."""
    study = study_of(federated=({"strategy": "fedavg", "rounds": 40, "then_target": False},))
    most = 0

    def look(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal most
        most = max(most, len(files(tmp_path)))
        return answer

    run = go(FakeGrid(study, look), tmp_path)
    assert not run.parked
    folds, targets, sites = 2, 3, 3
    # A leader a target, the round before and the one at work, its parts; scores come after the next round begins.
    assert most <= folds * (targets + 3 * (1 + sites)) + 1
    assert len({node for node in run.plan.nodes if isinstance(node, Average)}) == 80


def test_weights_that_vanish_under_a_run_are_told_and_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(sequential={"routes": (("B", "A"),)})
    put = Ledger.put

    def put_and_spoil(self: Ledger, record: StageRecord) -> None:
        put(self, record)
        if record.site == "B":
            path = self.path_of(record.weights)
            path.write_bytes(path.read_bytes()[:-1] + b"!")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "put", put_and_spoil)
        run = go(FakeGrid(study), tmp_path)
    assert run.parked and all("are gone or damaged; start again" in reason for reason in run.parked.values())
    assert results_of(study, [run]).rows == ()
    clean = go(FakeGrid(study), tmp_path / "clean")
    assert found_by(go(FakeGrid(study), tmp_path)) == found_by(clean)

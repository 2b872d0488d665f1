"""Averages with batch-norm statistics of the target: one stage a round and target, scored there and soon taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error

from common.plan.graph import Best, FineTune, Node, Start
from common.protocol.messages import EvaluateOrder, FineTuneOrder, FineTuneReply, WireMessage
from server.ledger.ledger import StageRecord
from server.results.choices import open_choices
from server.results.rows import results_of
from server.results.schema import Results
from tests.support.fake_sites import Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

ROUNDS = 5


def rounds_of(batch_norm: Any = ("average", "re-estimate"), **settings: Any) -> Any:
    part = {"strategy": "fedavg", "rounds": ROUNDS, "batch_norm": batch_norm, "then_target": False}
    return study_of(federated=(part | settings,))


def estimates(nodes: Any) -> list[FineTune]:
    return [node for node in nodes if isinstance(node, FineTune) and node.schedule.epochs == 0]


def test_the_row_is_the_best_by_the_targets_own_scores(tmp_path: Path) -> None:
    study = rounds_of()
    run = go(FakeGrid(study), tmp_path)
    found: Results = results_of(study, [run])
    assert not run.parked
    stages = {stage.id: stage for stage in found.stages}
    rows = [row for row in found.rows if row.method == "fedavg-re-estimated"]
    assert len(rows) == 3 * 2 and len([row for row in found.rows if row.method == "fedavg"]) == 3 * 2
    for row in rows:
        rivals = [
            stage
            for stage in found.stages
            if (stage.kind, stage.site, stage.fold) == ("re-estimate", row.target, row.fold)
        ]
        assert len(rivals) == ROUNDS
        best = max(rivals, key=lambda stage: stage.validation_dice or 0.0)
        assert row.weights == best.weights and row.stage == best.id
        assert row.validation_dice == best.validation_dice
        parent = stages[best.parent or ""]
        assert parent.kind == "average" and best.label == f"{parent.label}, batch norm re-estimated"
        assert (best.gradient_steps, best.kept_epoch, best.epochs) == (0, None, ())
        assert row.label == "FedAvg, batch norm re-estimated" and row.contributed == ("A", "B", "C")
    budgets = {budget.method: budget for budget in found.budgets}
    cheap, plain = budgets["fedavg-re-estimated"], budgets["fedavg"]
    assert (cheap.trainings, cheap.gradient_steps) == (plain.trainings, plain.gradient_steps)
    assert cheap.bytes_moved > plain.bytes_moved, "an estimate's weights go back"


@pytest.mark.parametrize("batch_norm", [("average",), ("re-estimate",), ("average", "re-estimate")])
def test_what_is_not_asked_for_is_not_done(tmp_path: Path, batch_norm: tuple[str, ...]) -> None:
    study = rounds_of(batch_norm)
    grid = FakeGrid(study)
    run = go(grid, tmp_path)
    found = results_of(study, [run])
    wanted = {"average": "fedavg", "re-estimate": "fedavg-re-estimated"}
    assert {row.method for row in found.rows} == {wanted[word] for word in batch_norm}
    assert len(estimates(run.plan.nodes)) == (3 * 2 * ROUNDS if "re-estimate" in batch_norm else 0)
    ordered = {order.node for order in grid.orders() if isinstance(order, FineTuneOrder)}
    assert {node.id for node in estimates(run.plan.nodes)} <= ordered
    (choice,) = (entry for entry in open_choices(study, run.plan) if entry[0] == "batch normalisation of averages")
    assert choice[1] == " and ".join(batch_norm)
    assert ("without the variance between sites" in choice[2]) == ("average" in batch_norm)
    assert ("at each target from its training slices" in choice[2]) == ("re-estimate" in batch_norm)


@pytest.mark.slow
def test_losing_models_are_taken_away_while_the_study_runs(tmp_path: Path) -> None:
    """Of forty rounds, the leading model of each kind, target and fold stays, besides what a round is made of."""
    study, most = rounds_of(rounds=40), 0

    def look(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal most
        most = max(most, len(list((tmp_path / "weights").glob("*.safetensors"))))
        return answer

    run = go(FakeGrid(study, look), tmp_path)
    folds, targets, sites = 2, 3, 3
    assert not run.parked and len(estimates(run.plan.nodes)) == 40 * folds * targets
    assert most <= folds * (2 * targets + targets + 3 * (1 + sites)) + 1
    left = {path.stem for path in (tmp_path / "weights").glob("*.safetensors")}
    assert left == {run.records[node].weights for node in (Start(), *(row.model for row in run.plan.rows))}


def test_a_lost_winner_is_made_again_from_its_round(tmp_path: Path) -> None:
    study = rounds_of("re-estimate")
    run = go(FakeGrid(study), tmp_path)
    row = next(row for row in run.plan.rows if row.target == "B")
    assert isinstance(row.model, Best)
    won = run.winner(row.model)
    (tmp_path / "weights" / f"{run.records[won].weights}.safetensors").unlink()
    grid = FakeGrid(study)
    again = go(grid, tmp_path)
    ordered = {order.node for order in grid.orders() if isinstance(order, FineTuneOrder)}
    assert won.id in ordered and again.records[won] == run.records[won]
    assert [node for node in estimates(again.plan.nodes) if node.id in ordered] == [won]
    assert not grid.orders(EvaluateOrder)


def test_an_estimate_that_says_it_trained_is_parked(tmp_path: Path) -> None:
    def trained(site: str, order: WireMessage, answer: Answer) -> Answer:
        reply = answer[0] if isinstance(answer, tuple) else None
        if site == "B" and isinstance(reply, FineTuneReply) and reply.state == "done" and not reply.epoch:
            once = {"epoch": 1, "losses": (0.5,), "learning_rates": (0.1,), "dices": (0.5,), "kept_epoch": 1}
            return reply.model_copy(update=once), answer[1]  # type: ignore[index]
        return answer

    study = rounds_of()
    run = go(FakeGrid(study, trained), tmp_path)
    reasons = [reason for node, reason in run.parked.items() if isinstance(node, FineTune)]
    assert reasons and all("another number of epochs" in reason for reason in reasons)
    rows = {(row.method, row.target) for row in results_of(study, [run]).rows}
    assert ("fedavg-re-estimated", "B") not in rows
    assert {("fedavg", "B"), ("fedavg-re-estimated", "A"), ("fedavg-re-estimated", "C")} <= rows


def test_an_absent_target_has_no_row_and_its_estimates_are_never_left_out(tmp_path: Path) -> None:
    """A candidate that is left out would be the plain average under another name."""
    away: set[Node] = set()

    def gone(site: str, order: WireMessage, answer: Answer) -> Answer:
        node = next((one for one in estimates(grid.plan.nodes) if one.id == getattr(order, "node", "")), None)
        if site == "C" and node is not None:
            away.add(node)
            return Error(8, "gone")
        return answer

    content = rounds_of().model_dump()
    content["absence"] = {"then": "skip", "wait_hours": 0.0}
    study = type(rounds_of()).model_validate(content)
    grid = FakeGrid(study, gone)
    run = go(grid, tmp_path)
    assert away <= run.parked.keys() and not run.skipped
    rows = {(row.method, row.target) for row in results_of(study, [run]).rows}
    assert ("fedavg-re-estimated", "A") in rows and ("fedavg-re-estimated", "C") not in rows
    kinds = {record.kind for record in run.records.values() if isinstance(record, StageRecord)}
    assert "absent" not in kinds and "re-estimate" in kinds

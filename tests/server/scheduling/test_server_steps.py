"""Rounds with a server's optimizer: the state goes from round to round through the ledger, and no further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Error

from common.plan.graph import Average, ServerStep, Start
from common.protocol.messages import EvaluateOrder, FineTuneOrder, WireMessage
from server.ledger.ledger import Ledger, StageRecord
from server.results.choices import open_choices
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling.state import RunState
from tests.support.fake_sites import SLICES, Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

ROUNDS = 4
FEDADAM: dict[str, Any] = {"strategy": "fedadam", "rounds": ROUNDS, "then_target": False}
BOTH: dict[str, Any] = {
    "federated": (
        FEDADAM | {"server_learning_rate": (0.01, 0.1)},
        {"strategy": "fedavgm", "rounds": ROUNDS, "batch_norm": "average", "then_target": True},
    )
}


def found_by(run: RunState) -> bytes:
    return write_json(dump(results_of(run.study, [run])))


def steps_of(run: RunState) -> list[ServerStep]:
    return [node for node in run.plan.nodes if isinstance(node, ServerStep)]


def layer(out: Path, digest: str, name: str = "layer") -> Any:
    return safetensors.numpy.load_file(out / "weights" / f"{digest}.safetensors")[name].astype(np.float64)


def test_adams_moments_go_on_from_round_to_round(tmp_path: Path) -> None:
    """All rounds of a fold worked out again from the sites' weights in the ledger: one Adam over them."""
    rate = 0.01
    run = go(FakeGrid(study_of(federated=(FEDADAM | {"server_learning_rate": rate},))), tmp_path, keep_weights=True)
    assert not run.parked
    for fold in (0, 1):
        w = layer(tmp_path, run.records[Start()].weights)
        m, v = np.zeros_like(w), np.full_like(w, 0.001**2)
        steps = [step for step in steps_of(run) if step.fold == fold]
        assert len(steps) == ROUNDS and [step.before for step in steps] == [None, *steps[:-1]]
        for step in steps:
            slices = {part.site: SLICES[part.site][fold] for part in step.parts}
            mean = sum(layer(tmp_path, run.records[part].weights) * slices[part.site] for part in step.parts)
            change = mean / sum(slices.values()) - w
            m, v = 0.9 * m + 0.1 * change, 0.99 * v + 0.01 * change**2
            w = w + rate * m / (np.sqrt(v) + 0.001)
            np.testing.assert_allclose(layer(tmp_path, run.records[step].weights), w, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(layer(tmp_path, run.records[step].state, "first/layer"), m, rtol=1e-5, atol=1e-7)
            w = layer(tmp_path, run.records[step].weights)


def test_rounds_of_other_settings_are_other_rounds_and_validation_chooses(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**BOTH)), tmp_path, keep_weights=True)
    assert not run.parked
    adams = [step for step in steps_of(run) if step.strategy == "fedadam"]
    assert len(adams) == 2 * 2 * ROUNDS and len({run.records[step].weights for step in adams}) == len(adams)
    choices = {entry[0]: entry for entry in open_choices(run.study, run.plan)}
    assert choices["server's optimizer of FedAdam"][1] == "η 0.01 and 0.1; β 0.9; β₂ 0.99; τ 0.001"
    assert choices["server's optimizer of FedAdam"][2].startswith("chosen by each target's validation patients")
    assert choices["server's optimizer of FedAvgM"][1] == "η 1; β 0.9"
    assert "statistics of batch normalisation are the plain mean" in choices["server's optimizer of FedAvgM"][2]


def test_at_the_end_no_state_is_left_and_nothing_is_done_again(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**BOTH)), tmp_path)
    states = {run.records[step].state for step in steps_of(run)}
    assert "" not in states
    assert len(states) == 2 * (3 * ROUNDS - 1), "the first round's moments do not depend on FedAdam's rate"
    files = {path.stem for path in (tmp_path / "weights").glob("*.safetensors")}
    assert not files & states
    assert files == {run.records[row.model].weights for row in run.plan.rows} | {run.records[Start()].weights}
    grid = FakeGrid(study_of(**BOTH))
    assert found_by(go(grid, tmp_path)) == found_by(run) and grid.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 7, 19, 32, 46])
def test_a_coordinator_stopped_anywhere_ends_with_the_same_bits(tmp_path: Path, left: int) -> None:
    whole = go(FakeGrid(study_of(**BOTH)), tmp_path / "whole")
    done: set[str] = set()

    def break_off(site: str, order: WireMessage, answer: Answer) -> Answer:
        assert isinstance(order, FineTuneOrder | EvaluateOrder)
        if order.key in done or len(done) < left:
            done.add(order.key)
            return answer
        return Error(8, "gone")

    assert go(FakeGrid(study_of(**BOTH), break_off), tmp_path / "broken").parked
    grid = FakeGrid(study_of(**BOTH))
    again = go(grid, tmp_path / "broken")
    assert found_by(again) == found_by(whole)
    orders = [order.key for order in grid.orders() if isinstance(order, FineTuneOrder)]
    assert not {key for key in orders if key in done}, "a training was made twice"
    for step in steps_of(whole):
        assert again.records[step] == whole.records[step]


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 3])
def test_killed_between_a_rounds_state_and_its_record_the_round_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    whole = go(FakeGrid(study_of(federated=(FEDADAM,))), tmp_path / "whole")
    put, averages = Ledger.put, 0

    def killed(self: Ledger, record: StageRecord) -> None:
        nonlocal averages
        averages += record.kind == "average"
        if record.kind == "average" and averages == nth:
            raise KeyboardInterrupt
        put(self, record)

    monkeypatch.setattr(Ledger, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        go(FakeGrid(study_of(federated=(FEDADAM,))), tmp_path / "killed")
    monkeypatch.setattr(Ledger, "put", put)
    again = go(FakeGrid(study_of(federated=(FEDADAM,))), tmp_path / "killed")
    assert found_by(again) == found_by(whole)


def test_a_lost_state_is_made_again_where_a_round_still_needs_it(tmp_path: Path) -> None:
    study = study_of(federated=(FEDADAM | {"server_learning_rate": 0.1},))
    whole = go(FakeGrid(study), tmp_path / "whole", keep_weights=True)
    second = [step for step in steps_of(whole) if step.fold == 0][1]
    out = tmp_path / "lost"

    def without_third_round(site: str, order: WireMessage, answer: Answer) -> Answer:
        node = whole.plan.by_id[order.node] if isinstance(order, FineTuneOrder) else None
        late = node is not None and node.parents[0] == second
        return Error(8, "gone") if late else answer

    broken = go(FakeGrid(study, without_third_round), out)
    state = broken.records[second].state
    (out / "weights" / f"{state}.safetensors").unlink()
    again = go(FakeGrid(study), out)
    assert found_by(again) == found_by(whole)
    assert again.records[second] == whole.records[second]


@pytest.mark.slow
def test_the_record_names_the_state_and_a_plain_averages_does_not(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(federated=(FEDADAM, {"strategy": "fedavg", "rounds": 2}))), tmp_path)
    for node, record in run.records.items():
        if isinstance(node, Average):
            content = json.loads((tmp_path / "ledger" / f"{record.key}.json").read_text(encoding="utf-8"))
            assert ("state" in content) == isinstance(node, ServerStep)

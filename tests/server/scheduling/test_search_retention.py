"""Weights of routes that lost in a search go from the ledger; records stay, and nothing that went is made again."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import server.disk_space
import server.study_run
from common.config.study import Study
from common.errors import DiskFull
from common.plan.graph import FineTune, Start
from common.protocol.messages import EvaluateOrder, FineTuneOrder, WireMessage
from common.protocol.refusals import Refusal, refusal_error
from server.disk_space import most_of_a_search
from server.ledger.ledger import examine
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling.state import RunState
from server.study_run import run_study
from tests.support import fake_sites
from tests.support.fake_sites import START, Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

MANY = tuple("ABCDEFGH")


def study(routes: str, *, sites: int = len(MANY), hops: int = 1, **more: Any) -> Study:
    plain = study_of(sequential={"routes": routes, "max_hops": hops}, **more)
    training = plain.training.model_copy(update={"epochs": 4})
    return plain.model_copy(update={"sites": MANY[:sites], "training": training})


@pytest.fixture(autouse=True)
def many_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, site in enumerate(MANY):
        monkeypatch.setitem(fake_sites.SLICES, site, ((10, 11), (20, 21), (33, 34))[place % 3])


def files(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "weights").glob("*.safetensors")}


def found_by(run: RunState) -> bytes:
    return write_json(dump(results_of(run.study, [run])))


@pytest.mark.slow
@pytest.mark.parametrize("routes", ["greedy", "halving"])
def test_few_weights_lie_on_the_disk_at_any_time(tmp_path: Path, routes: str) -> None:
    most = 0

    def look(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal most
        most = max(most, len(files(tmp_path)))
        return answer

    run = go(FakeGrid(study(routes), look), tmp_path)
    assert not run.parked
    made = {record.weights for node, record in run.records.items() if isinstance(node, FineTune)}
    sites, folds = len(MANY), 2
    assert len(made) >= sites * folds * sites, "every source was tried for every target"
    # Of every target the leader and the one at work, and what all begin with, on each rung; one more is on its way.
    rungs = {"greedy": 1, "halving": 3}[routes]
    assert most <= folds * sites * (2 + rungs) + sites
    assert most < len(made) / 2
    rows = {run.records[row.model].weights for row in run.plan.rows}
    assert files(tmp_path) == rows | {run.records[Start()].weights}


@pytest.mark.slow
@pytest.mark.parametrize("routes", ["greedy", "halving"])
@pytest.mark.parametrize("more", [{}, {"forgetting": True}, {"lwf": {"weight": (1.0,)}}], ids=["", "scored", "brake"])
def test_what_went_is_made_by_nobody_again_and_the_ledger_is_sound(
    tmp_path: Path, routes: str, more: dict[str, Any]
) -> None:
    small = study(routes, sites=4, hops=2, **more)
    whole = go(FakeGrid(small), tmp_path / "whole", keep_weights=True)
    asked = FakeGrid(small)
    assert found_by(go(asked, tmp_path / "pruned")) == found_by(whole)
    keys = [order.key for order in asked.orders(FineTuneOrder) if isinstance(order, FineTuneOrder)]
    assert len(keys) == len(set(keys)), "a stage was trained twice"
    ledger = examine(tmp_path / "pruned")
    assert not ledger.faults and len(ledger.gone) > len(ledger.weights)
    assert ledger.records.keys() == examine(tmp_path / "whole").records.keys()
    again = FakeGrid(small)
    assert found_by(go(again, tmp_path / "pruned")) == found_by(whole) and again.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("routes", ["greedy", "halving"])
@pytest.mark.parametrize("seed", range(3))
def test_a_search_broken_off_anywhere_asks_for_nothing_twice(tmp_path: Path, routes: str, seed: int) -> None:
    small = study(routes, sites=4, hops=2, forgetting=bool(seed % 2))
    expected = found_by(go(FakeGrid(small), tmp_path / "whole"))
    left = random.Random(seed).randrange(10, 90)

    def break_off(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal left
        left -= isinstance(order, FineTuneOrder | EvaluateOrder)
        return answer if left >= 0 else refusal_error(Refusal.DIVERGED)

    go(FakeGrid(small, break_off), tmp_path / "cut")
    before = {path.stem for path in (tmp_path / "cut" / "ledger").glob("*.json")}
    grid = FakeGrid(small)
    assert found_by(go(grid, tmp_path / "cut")) == expected
    asked = [order.key for order in grid.orders() if isinstance(order, FineTuneOrder | EvaluateOrder)]
    assert not before & set(asked)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("routes", ["greedy", "halving"])
def test_a_disk_with_room_for_what_is_needed_at_once_is_large_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, routes: str
) -> None:
    many = study(routes)
    free = most_of_a_search(many) + 1
    monkeypatch.setattr(server.disk_space, "declared_bytes", lambda _: 10**6)
    monkeypatch.setattr(server.study_run, "start_weights", lambda *_: START)
    disk = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=free * 10**6))
    monkeypatch.setattr(server.disk_space, "shutil", disk)
    most = 0

    def look(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal most
        most = max(most, len(files(tmp_path / "out")))
        return answer

    grid = FakeGrid(many, look)
    results: dict[str, Any] = run_study(grid, many, tmp_path / "out", beside=tmp_path)
    assert len({row["target"] for row in results["rows"]}) == len(MANY)
    trainings = sum(isinstance(order, FineTuneOrder) for order in grid.orders())
    assert most <= free < trainings / 1.5
    monkeypatch.setattr(server.disk_space, "most_of_a_search", lambda _: free + 1)
    with pytest.raises(DiskFull, match="make room"):
        run_study(FakeGrid(many), many, tmp_path / "other", beside=tmp_path)

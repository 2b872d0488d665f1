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
    monkeypatch.setattr(server.disk_space, "most_of_a_search", lambda *_, **__: free + 1)
    with pytest.raises(DiskFull, match="make room"):
        run_study(FakeGrid(many), many, tmp_path / "other", beside=tmp_path)


SCARCE: tuple[dict[str, Any], ...] = (
    {"sites": 8},
    {"sites": 4, "hops": 3},
    {"sites": 5, "forgetting": True},
    {"sites": 5, "lwf": {"weight": (1.0, 0.5)}},
    {"sites": 5, "source": "same-fold"},
    {"sites": 5, "annealing": "route"},
)


def two_hops(routes: str = "greedy", **more: Any) -> Study:
    """A study of two hops, or more; settings of the routes among those of the study."""
    of_routes = {name: more.pop(name) for name in ("source", "annealing") if name in more}
    found = study(routes, **{"hops": 2, **more})
    sequential = found.methods.sequential.model_copy(update=of_routes)
    return found.model_copy(update={"methods": found.methods.model_copy(update={"sequential": sequential})})


def used_by(grid: FakeGrid) -> set[str]:
    """The weights with which a training begins, or that are scored."""
    return {order.weights for order in grid.orders() if isinstance(order, FineTuneOrder | EvaluateOrder)}


@pytest.mark.parametrize("more", SCARCE, ids=lambda more: ", ".join(f"{name} {value}" for name, value in more.items()))
def test_where_the_disk_is_scarce_the_results_are_the_same_and_few_weights_lie_on_it(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    many = two_hops(**more)
    whole = go(FakeGrid(many), tmp_path / "whole")
    most = 0

    def look(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal most
        most = max(most, len(files(tmp_path / "scarce")))
        return answer

    grid = FakeGrid(many, look)
    run = go(grid, tmp_path / "scarce", scarce=True)
    assert not run.parked and found_by(run) == found_by(whole)
    assert files(tmp_path / "scarce") == files(tmp_path / "whole")
    ledgers = [examine(tmp_path / name) for name in ("whole", "scarce")]
    assert not ledgers[1].faults and ledgers[0].records == ledgers[1].records
    assert most <= most_of_a_search(many, scarce=True) + len(many.sites) + 1
    keys = [order.key for order in grid.orders(FineTuneOrder) if isinstance(order, FineTuneOrder)]
    # Where a route has one cosine, no route begins with another's weights.
    assert (len(keys) > len(set(keys))) == ("annealing" not in more)
    begun_with = used_by(grid)
    twice = {key for key in keys if keys.count(key) > 1}
    assert {ledgers[1].records[key].weights for key in twice} <= begun_with, "what nothing begins with was made again"
    again = FakeGrid(many)
    assert found_by(go(again, tmp_path / "scarce", scarce=True)) == found_by(whole) and again.asked == []


@pytest.mark.parametrize("seed", range(6))
def test_a_search_on_a_scarce_disk_that_is_broken_off_ends_the_same(tmp_path: Path, seed: int) -> None:
    """Whether the next start finds more room or not, and what it asks for again is what some hop begins with."""
    small = two_hops(**(SCARCE[1:][seed % 5] | {"sites": 4}))
    expected = go(FakeGrid(small), tmp_path / "whole")
    left = random.Random(seed).randrange(30, 150)

    def break_off(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal left
        left -= isinstance(order, FineTuneOrder | EvaluateOrder)
        return answer if left >= 0 else refusal_error(Refusal.DIVERGED)

    go(FakeGrid(small, break_off), tmp_path / "cut", scarce=True)
    before = {path.stem for path in (tmp_path / "cut" / "ledger").glob("*.json")}
    grid = FakeGrid(small)
    run = go(grid, tmp_path / "cut", scarce=bool(seed % 2))
    assert not run.parked and found_by(run) == found_by(expected)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    orders = [order for order in grid.orders(FineTuneOrder) if isinstance(order, FineTuneOrder)]
    begun_with = used_by(grid)
    ledger = examine(tmp_path / "cut")
    assert all(ledger.records[order.key].weights in begun_with for order in orders if order.key in before)


def test_a_study_that_fits_only_where_weights_are_made_again_runs_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = two_hops()
    free = most_of_a_search(many, scarce=True) + 1
    assert free < most_of_a_search(many)
    monkeypatch.setattr(server.disk_space, "declared_bytes", lambda _: 10**6)
    monkeypatch.setattr(server.study_run, "start_weights", lambda *_: START)
    disk = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=free * 10**6))
    monkeypatch.setattr(server.disk_space, "shutil", disk)
    said: list[str] = []
    monkeypatch.setattr(server.study_run.log, "warning", lambda text, *_: said.append(text))
    most = 0

    def look(site: str, order: WireMessage, answer: Answer) -> Answer:
        nonlocal most
        most = max(most, len(files(tmp_path / "out")))
        return answer

    results: dict[str, Any] = run_study(FakeGrid(many, look), many, tmp_path / "out", beside=tmp_path)
    assert len({row["target"] for row in results["rows"]}) == len(MANY) and most <= free
    assert any("trained again if a hop does begin with them" in sentence for sentence in said)

"""The graph on a grid: channels side by side, tries again, nothing believed, nothing done twice."""

from __future__ import annotations

import dataclasses
import json
import statistics
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Error, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.config.study import Study
from common.digest import digest_of
from common.errors import RelayError
from common.model.weights import Weights, serialised
from common.plan import grown
from common.plan.graph import Average, Best, Evaluate, FineTune, Node, Schedule, way_of
from common.protocol.messages import (
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    WireMessage,
)
from common.protocol.refusals import REFUSALS, Refusal, refusal_error, refusal_text
from common.seeds import seed_of
from server.descriptions import describe_all
from server.progress.events import Event
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling import state
from server.scheduling.dispatch import Dispatcher
from server.scheduling.state import RunState
from server.transport.site_channel import SiteChannel, Traffic
from tests.support.fake_sites import SLICES, START, Answer, FakeGrid, batches, go, quick, study_of
from tests.support.federation import wait_for

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")


def found_by(run: RunState) -> dict[str, Any]:
    return dump(results_of(run.study, [run]))


EVERYTHING: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "unadapted": True,
    "sequential": {"routes": "all"},
    "federated": ({"strategy": "fedavg"},),
    "cyclic": {"laps": 2},
    "forgetting": True,
}
ONE_HOP: dict[str, Any] = {"sequential": {"routes": (("B", "A"),)}}


def test_every_stage_is_asked_for_once_and_one_at_a_time_at_a_site(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(**EVERYTHING))
    run = go(grid, tmp_path)
    assert run.parked == {}
    assert grid.most_at_a_site == 1
    assert set(run.records) == set(run.plan.nodes)
    keys = [order.key for order in grid.orders() if isinstance(order, FineTuneOrder | EvaluateOrder)]
    answered = [(o.key, c) for _, o, c in grid.asked if isinstance(o, FineTuneOrder | EvaluateOrder)]
    assert len(set(keys)) == len(list((tmp_path / "ledger").glob("*.json"))) - len(
        {run.records[node].key for node in run.plan.nodes if not isinstance(node, FineTune | Evaluate)} - set(keys)
    )
    # A stage is asked for twice only where the site was found to lack its weights: then they come along.
    for key in set(keys):
        assert [came for k, came in answered if k == key] in ([True], [False], [False, True])


def test_stages_of_different_sites_run_at_the_same_time(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=20)
    first: set[str] = set()

    def wait(site: str, order: WireMessage, answer: Answer) -> Answer:
        if site not in first:
            first.add(site)
            together.wait()
        return answer

    assert go(FakeGrid(study_of(baseline=True), wait), tmp_path).parked == {}
    assert first == {"A", "B", "C"}


def test_weights_are_not_sent_where_they_are(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(**ONE_HOP))
    go(grid, tmp_path)
    came = [(site, type(order).__name__, with_weights) for site, order, with_weights in grid.asked]
    # Both folds start at B from the first weights and go to A with the best; A scores what it has just made.
    assert came.count(("B", "FineTuneOrder", True)) == 2
    assert [weights for site, kind, weights in came if (site, kind) == ("A", "FineTuneOrder")] == [True, True]
    assert [weights for site, kind, weights in came if (site, kind) == ("A", "EvaluateOrder")] == [False, False]


def test_a_site_is_told_what_is_safe_and_never_before_it_is(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(**EVERYTHING))
    safe_when_told: list[bool] = []

    def look(site: str, order: WireMessage, answer: Answer) -> Answer:
        assert isinstance(order, FineTuneOrder | EvaluateOrder)
        for key in order.acknowledged:
            record = json.loads((tmp_path / "ledger" / f"{key}.json").read_bytes())
            safe_when_told.append((tmp_path / "weights" / f"{record['weights']}.safetensors").exists())
            assert record["weights"] != order.weights, "it needs these"
        return answer

    grid.change = look
    assert go(grid, tmp_path, keep_weights=True).parked == {}
    assert len(safe_when_told) > 10 and all(safe_when_told)


def test_what_the_coordinator_could_not_keep_stays_at_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = FakeGrid(study_of(baseline=True))

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    def put(self: Any, weights: Weights) -> str:
        return full() if grid.asked else kept(self, weights)

    from server.ledger.ledger import Ledger

    kept = Ledger.put_weights
    monkeypatch.setattr(Ledger, "put_weights", put)
    run = go(grid, tmp_path)
    assert all("No space left on device" in reason for reason in run.parked.values())
    assert not any(order.acknowledged for order in grid.orders() if isinstance(order, FineTuneOrder | EvaluateOrder))
    monkeypatch.setattr(Ledger, "put_weights", kept)
    assert go(grid, tmp_path).parked == {}


@pytest.mark.parametrize("fails", [1, 2])
def test_what_fails_in_passing_is_asked_for_again(tmp_path: Path, fails: int) -> None:
    counts: dict[str, int] = {}

    def stumble(site: str, order: WireMessage, answer: Answer) -> Answer:
        assert isinstance(order, FineTuneOrder | EvaluateOrder)
        counts[order.key] = counts.get(order.key, 0) + 1
        return answer if counts[order.key] > fails else Error(8, "the worker ended")

    run = go(FakeGrid(study_of(**ONE_HOP), stumble), tmp_path)
    assert run.parked == {}
    undisturbed = go(FakeGrid(study_of(**ONE_HOP)), tmp_path / "undisturbed")
    assert found_by(run) == found_by(undisturbed)


def test_what_keeps_failing_is_parked_after_three_tries(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(baseline=True), lambda site, order, answer: Error(8, "x") if site == "B" else answer)
    run = go(grid, tmp_path)
    assert len([site for site, _, _ in grid.asked if site == "B"]) == 2 * 3
    assert set(run.parked.values()) == {f"site B: {refusal_text(Error(8, ''))}"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        Refusal.NOT_IN_STUDY,
        Refusal.DATA_CHANGED,
        Refusal.DISK_FULL,
        Refusal.BLOCKED,
        Refusal.BEYOND_APPROVAL,
        Refusal.RESTARTED,
    ],
)
def test_a_final_refusal_parks_what_descends_from_it_and_nothing_else(tmp_path: Path, code: Refusal) -> None:
    def refuse(site: str, order: WireMessage, answer: Answer) -> Answer:
        return refusal_error(code) if site == "B" and isinstance(order, FineTuneOrder) else answer

    grid = FakeGrid(study_of(**EVERYTHING), refuse)
    run = go(grid, tmp_path)
    asked = [order.key for site, order, _ in grid.asked if site == "B" and isinstance(order, FineTuneOrder)]
    assert len(asked) == len(set(asked)), "a final refusal is not argued with"
    assert set(run.parked.values()) == {f"site B: {REFUSALS[code]}"}
    results = found_by(run)

    def is_from_b(row: dict[str, Any]) -> bool:
        return row["method"].startswith("fedavg") or "B" in row["route"]

    for row in results["rows"]:
        assert row["contributed"] and "B" not in row["contributed"]
    everything = found_by(go(FakeGrid(study_of(**EVERYTHING)), tmp_path / "all"))["rows"]
    assert sum(not is_from_b(row) for row in everything) == len(results["rows"])
    assert len(results["parked"]) + len(results["rows"]) == len(everything)
    assert {entry["reason"] for entry in results["parked"]} == set(run.parked.values())


def test_the_best_of_some_folds_is_not_taken_for_the_best_of_all(tmp_path: Path) -> None:
    study = study_of(baseline=True, sequential={"routes": "all", "max_hops": 1}, federated=())
    grid = FakeGrid(study)

    def refuse(site: str, order: WireMessage, answer: Answer) -> Answer:
        assert isinstance(order, FineTuneOrder | EvaluateOrder)
        node = grid.plan.by_id[order.node]
        last = isinstance(node, FineTune) and node.site == "A" and node.fold == 1 and node.parent.parents
        return refusal_error(Refusal.DIVERGED) if last else answer

    grid.change = refuse
    rows = found_by(go(grid, tmp_path))["rows"]
    to_a = [row for row in rows if row["target"] == "A" and row["method"] == "sequential"]
    assert {row["fold"] for row in to_a} == {0}
    assert not any(row["selected"] or row["headline"] for row in to_a)
    for target in "BC":
        of_target = [row for row in rows if row["target"] == target and row["method"] == "sequential"]
        assert sum(row["selected"] for row in of_target) == 2
        assert sum(row["headline"] for row in of_target) == 1


def spoil(kind: type[WireMessage], how: Any) -> Any:
    """A change to the answers of site B to orders of a kind."""

    def change(site: str, order: WireMessage, answer: Answer) -> Answer:
        if site != "B" or not isinstance(order, kind) or isinstance(answer, Error):
            return answer
        reply, weights = answer
        spoilt: Answer = how(reply, weights)
        return spoilt

    return change


def with_weights(change: dict[str, Any], *, honest: bool = True) -> Any:
    def how(reply: FineTuneReply, weights: Weights) -> Answer:
        other = {name: tensor for name, tensor in {**weights, **change}.items() if tensor is not None}
        return reply.model_copy(update={"weights": digest_of(serialised(other))} if honest else {}), other

    return how


def replaced(**fields: Any) -> Any:
    return lambda reply, weights: (reply.model_copy(update=fields), weights)


LIES: dict[str, tuple[type[WireMessage], Any, str]] = {
    "another key": (FineTuneOrder, replaced(key="0" * 64), "answered another stage"),
    "another key of a score": (EvaluateOrder, replaced(key="0" * 64), "answered another stage"),
    "other weights than named": (
        FineTuneOrder,
        with_weights({"layer": torch.ones(2, 3)}, honest=False),
        "not those that it named",
    ),
    "one tensor more": (FineTuneOrder, with_weights({"patient": torch.ones(3)}), "weights were refused"),
    "one tensor less": (FineTuneOrder, with_weights({"count": None}), "weights were refused"),
    "a larger tensor": (FineTuneOrder, with_weights({"layer": torch.ones(3, 3)}), "weights were refused"),
    "another type": (FineTuneOrder, with_weights({"layer": torch.ones(2, 3).double()}), "weights were refused"),
    "not a number": (FineTuneOrder, with_weights({"layer": torch.full((2, 3), torch.nan)}), "weights were refused"),
    "no weights": (FineTuneOrder, lambda reply, _: (reply, None), "sent no weights"),
    "too few epochs": (
        FineTuneOrder,
        replaced(epoch=1, losses=(0.5,), learning_rates=(0.1,), dices=(0.5,), kept_epoch=1),
        "another number of epochs",
    ),
    "no epoch at all": (
        FineTuneOrder,
        replaced(epoch=0, losses=(), learning_rates=(), dices=(), kept_epoch=0, gradient_steps=0),
        "another number of epochs",
    ),
    "an epoch without a loss": (FineTuneOrder, replaced(losses=(0.5,)), "not one of the declared messages"),
    "more slices than it has": (FineTuneOrder, replaced(train_slices=10**9), "another number of slices"),
    "a Dice above 1": (FineTuneOrder, replaced(validation_dice=1.5), "not one of the declared messages"),
    "a Dice that is none": (EvaluateOrder, replaced(dice=float("nan")), "not one of the declared messages"),
    "half the cases": (EvaluateOrder, replaced(case_dices=(0.5,)), "not one of the declared messages"),
    "another message": (
        FineTuneOrder,
        lambda reply, _: (EvaluateReply(study=reply.study, key=reply.key, state="done"), None),
        "not one of the declared messages",
    ),
    "it never gets weights": (
        FineTuneOrder,
        lambda reply, _: (FineTuneReply(study=reply.study, key=reply.key, state="needs-weights"), None),
        "asks for weights that came along",
    ),
    "it never gets a score's weights": (
        EvaluateOrder,
        lambda reply, _: (EvaluateReply(study=reply.study, key=reply.key, state="needs-weights"), None),
        "asks for weights that came along",
    ),
    "it never gets further": (
        FineTuneOrder,
        lambda reply, _: (FineTuneReply(study=reply.study, key=reply.key, state="running"), None),
        "gets no further",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_parked_with_what_is_wrong_and_stays_out_of_the_ledger(tmp_path: Path, lie: str) -> None:
    kind, how, reason = LIES[lie]
    run = go(FakeGrid(study_of(baseline=True), spoil(kind, how)), tmp_path)
    assert run.parked
    for node, told in run.parked.items():
        assert isinstance(node, FineTune | Evaluate) and node.site == "B"
        assert told.startswith("site B: ") and reason in told, told
    results = found_by(run)
    assert {row["target"] for row in results["rows"]} == {"A", "C"}
    assert {entry["target"] for entry in results["parked"]} == {"B"}
    for path in (tmp_path / "ledger").glob("*.json"):
        record = json.loads(path.read_bytes())
        assert record.get("site") != "B" or record["kind"] != ("fine-tune" if kind is FineTuneOrder else "evaluate")
    # An honest site later: what is missing is done.
    assert go(FakeGrid(study_of(baseline=True)), tmp_path).parked == {}


def test_legs_are_asked_for_until_the_stage_is_done(tmp_path: Path) -> None:
    legs: dict[str, int] = {}

    def in_legs(site: str, order: WireMessage, answer: Answer) -> Answer:
        if not isinstance(order, FineTuneOrder) or isinstance(answer, Error):
            return answer
        legs[order.key] = legs.get(order.key, 0) + 1
        if legs[order.key] == 1:
            reply = answer[0].model_copy(
                update={
                    "state": "running",
                    "epoch": 1,
                    "losses": (0.5,),
                    "learning_rates": (1e-3,),
                    "dices": (0.25,),
                    "kept_epoch": 1,
                }
            )
            return reply, None
        return answer

    class Keeping(FakeGrid):
        def train(self, node: FineTune, order: WireMessage, weights: Weights) -> Answer:
            assert isinstance(order, FineTuneOrder)
            self.held[node.site][f"start of {order.key}"] = weights
            return super().train(node, order, weights)

    grid = Keeping(study_of(baseline=True), in_legs)
    run = go(grid, tmp_path)
    assert run.parked == {} and set(legs.values()) == {2}
    # The weights came along with the first leg alone.
    for key in legs:
        assert [came for _, o, came in grid.asked if isinstance(o, FineTuneOrder) and o.key == key] == [True, False]


def test_a_study_that_is_done_asks_nobody_anything(tmp_path: Path) -> None:
    first = go(FakeGrid(study_of(**EVERYTHING)), tmp_path)
    grid = FakeGrid(study_of(**EVERYTHING))
    second = go(grid, tmp_path)
    assert grid.asked == []
    assert write_json(found_by(second)) == write_json(found_by(first))
    assert set(second.stored) == {node for node in second.plan.nodes if isinstance(node, FineTune | Evaluate)}


def test_a_study_that_was_broken_off_asks_for_what_is_missing_alone(tmp_path: Path) -> None:
    whole = FakeGrid(study_of(**EVERYTHING))
    expected = write_json(found_by(go(whole, tmp_path / "whole")))
    lost = FakeGrid(study_of(**EVERYTHING), lambda site, order, answer: Error(8, "") if site == "C" else answer)
    go(lost, tmp_path / "broken")
    before = {path.stem for path in (tmp_path / "broken" / "ledger").glob("*.json")}
    again = FakeGrid(study_of(**EVERYTHING))
    run = go(again, tmp_path / "broken")
    assert write_json(found_by(run)) == expected
    keys = {order.key for order in again.orders() if isinstance(order, FineTuneOrder | EvaluateOrder)}
    assert keys and not keys & before


def test_a_record_whose_weights_are_gone_or_damaged_is_made_again(tmp_path: Path) -> None:
    expected = write_json(found_by(go(FakeGrid(study_of(**ONE_HOP)), tmp_path)))
    paths = sorted((tmp_path / "weights").iterdir())
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"!")
    (tmp_path / "ledger" / next((tmp_path / "ledger").iterdir()).name).write_bytes(b'{"key"')
    assert write_json(found_by(go(FakeGrid(study_of(**ONE_HOP)), tmp_path))) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stage_version": 99}, "another version of this program is installed there"),
        ({"site": "X"}, "it is set up as X; correct the name in its site file"),
        (
            {"train_slices": (1,), "train_patients": (1,), "validation_patients": (1,)},
            "another number of folds",
        ),
    ],
)
def test_a_site_that_cannot_take_part_is_named_before_anything_is_trained(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    class Odd(FakeGrid):
        def describe(self, site: str) -> Description:
            plain = super().describe(site)
            return plain.model_copy(update=change) if site == "B" else plain

    grid = Odd(study_of(baseline=True))
    with pytest.raises(RelayError, match=f"The study cannot begin – site B: .*{reason}"):
        go(grid, tmp_path)
    assert grid.asked == []


def test_a_study_whose_sites_would_compute_in_different_precisions_is_refused(tmp_path: Path) -> None:
    class Odd(FakeGrid):
        def describe(self, site: str) -> Description:
            plain = super().describe(site)
            return plain.model_copy(update={"precision": "bfloat16"}) if site == "B" else plain

    grid = Odd(study_of(baseline=True))
    with pytest.raises(RelayError, match=r"\(float32 at A and C; bfloat16 at B\); write precision = \"float32\""):
        go(grid, tmp_path)
    assert grid.asked == []


def test_a_site_that_cannot_answer_at_a_later_start_keeps_nobody_else_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(baseline=True)
    before = {site: FakeGrid(study).describe(site) for site in study.sites}

    class Full(FakeGrid):
        def answer(self, site: str, kind: str, record: RecordDict) -> Answer:
            return refusal_error(Refusal.DISK_FULL) if site == "B" else super().answer(site, kind, record)

    grid = Full(study)
    channels = {site: SiteChannel(grid, site, number, Traffic()) for number, site in grid.sites.items()}
    told: list[Event] = []
    assert describe_all(study, channels, told.append, kept=before) == before
    assert [(event.kind, event.site) for event in told if event.kind == "parked"] == [("parked", "B")]
    with pytest.raises(RelayError, match="The study cannot begin – site B: "):
        describe_all(study, channels, told.append)


def test_a_site_still_preparing_is_asked_again(tmp_path: Path) -> None:
    calls: list[int] = []

    class Slow(FakeGrid):
        def describe(self, site: str) -> Description:
            if site == "A" and len(calls) < 3:
                calls.append(0)
                return Description(study=self.study.digest, site=site, patients_found=9, prepared=len(calls))
            return super().describe(site)

    assert go(Slow(study_of(baseline=True)), tmp_path).parked == {}
    assert len(calls) == 3


def test_steps_bytes_and_sites_of_a_row_are_those_of_its_graph(tmp_path: Path) -> None:
    study = study_of(
        baseline=True,
        sequential={"routes": (("B", "C", "A"),)},
        federated=({"strategy": "fedavg", "rounds": 2, "then_target": False},),
    )
    grid = FakeGrid(study)
    run = go(grid, tmp_path)
    rows = found_by(run)["rows"]
    size = 8 + 4 * 6  # one int64, six float32
    (end,) = (row.model for row in run.plan.rows if row.method == "sequential" and row.fold == 0)
    best, choice = {}, end.parents[0]
    for site in ("C", "B"):
        assert isinstance(choice, Best) and choice.at == site
        winner = max(choice.candidates, key=lambda node: run.records[node].dice)
        assert isinstance(winner, FineTune)
        best[site], choice = winner.fold, winner.parent
    for row in rows:
        fold = row["fold"]
        if row["method"] == "baseline":
            assert row["gradient_steps"] == 2 * batches(SLICES[row["target"]][fold])
            assert row["bytes_moved"] == 2 * size and row["contributed"] == [row["target"]]
        elif row["method"] == "sequential":
            folds = {"B": best["B"], "C": best["C"], "A": fold}
            assert row["gradient_steps"] == sum(2 * batches(SLICES[site][k]) for site, k in folds.items())
            assert row["bytes_moved"] == 6 * size and row["contributed"] == ["A", "B", "C"]
            assert row["route"] == ["B", "C", "A"]
        else:
            estimated = row["method"] == "fedavg-re-estimated"
            scored = {
                node.parents[0]: node
                for node in run.plan.nodes
                if isinstance(node, FineTune if estimated else Evaluate)
                and isinstance(node.parents[0], Average)
                and (node.site, node.fold) == (row["target"], fold)
                and (node.schedule.epochs == 0 if isinstance(node, FineTune) else node.split == "validation")
            }
            assert len(scored) == 2
            selected = max(scored, key=lambda average: run.records[scored[average]].dice)
            assert isinstance(selected, Average)
            rounds = selected.parts[0].schedule.last
            each = sum(batches(slices[fold]) for slices in SLICES.values())
            assert row["gradient_steps"] == rounds * each
            # The average goes to the target to be scored; for an estimate its weights also come back.
            assert row["bytes_moved"] == (2 * 3 * rounds + 1 + estimated) * size
            assert row["contributed"] == ["A", "B", "C"]
            assert row["weights"] == run.records[scored[selected] if estimated else selected].weights


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_nothing_is_selected_by_a_test_score(
    tmp_path_factory: pytest.TempPathFactory, validation_seed: int, test_seed: int
) -> None:
    def results(seed: int) -> dict[str, Any]:
        grid = FakeGrid(study_of(baseline=True, sequential={"routes": "all", "max_hops": 1}))
        grid.score = lambda node, weights: (
            seed_of(seed if isinstance(node, Evaluate) and node.split == "test" else validation_seed, node.id) % 7 / 7
        )
        return found_by(go(grid, tmp_path_factory.mktemp("run")))

    first, second = results(test_seed), results(test_seed + 1)
    told = ("method", "route", "target", "fold", "selected", "headline", "validation_dice", "weights")
    assert [[row[key] for key in told] for row in first["rows"]] == [
        [row[key] for key in told] for row in second["rows"]
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in first["rows"]:
        groups.setdefault((row["method"], tuple(row["route"]), row["target"]), []).append(row)
    for rows in groups.values():
        (selected,) = (row for row in rows if row["selected"])
        assert selected["validation_dice"] == max(row["validation_dice"] for row in rows)
    for target in "ABC":
        (headline,) = (row for row in first["rows"] if row["target"] == target and row["headline"])
        assert headline["selected"]
        means = {key: statistics.mean(row["validation_dice"] for row in rows) for key, rows in groups.items()}
        routes = {key: mean for key, mean in means.items() if key[0] == "sequential" and key[2] == target}
        chosen = routes["sequential", tuple(headline["route"]), target]
        assert chosen == pytest.approx(max(routes.values()), abs=1e-5), "or of equal routes the first, but for rounding"


def test_results_json_holds_what_others_rely_on(tmp_path: Path) -> None:
    results = json.loads(write_json(found_by(go(FakeGrid(study_of(**EVERYTHING)), tmp_path))))
    assert {"study", "sites", "rows", "stages", "parked", "versions"} <= set(results)
    assert [site["name"] for site in results["sites"]] == ["A", "B", "C"]
    methods = {"baseline", "longer", "sequential", "cyclic", "unadapted", "fedavg", "fedavg-then-target"}
    methods |= {"fedavg-re-estimated"}
    assert {row["method"] for row in results["rows"]} == methods
    for row in results["rows"]:
        assert row["route"][-1] == row["target"] or row["method"] in ("unadapted", "fedavg", "fedavg-re-estimated")
        assert row["target"] in "ABC" and row["fold"] in (0, 1) and isinstance(row["selected"], bool)
        for share in ("dice", "iou", "dice_volume", "validation_dice"):
            assert 0 <= row[share] <= 100
        assert row["iou"] == pytest.approx(row["dice"] / 2, abs=1e-5)
        assert row["ci95"] is None, "an interval needs six patients"
        assert (row["patients"], row["slices"]) == (5, 6)
        assert (tmp_path / "weights" / f"{row['weights']}.safetensors").exists()
        assert row["gradient_steps"] > 0 and row["bytes_moved"] > 0
        assert set(row["contributed"]) <= set("ABC")
        assert row["stage"] in {stage["id"] for stage in results["stages"]}


def test_the_first_weights_are_those_that_were_given(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(baseline=True))
    run = go(grid, tmp_path)
    (start,) = (run.records[node].weights for node in run.plan.nodes if not node.parents)
    assert start == digest_of(serialised(START))
    assert {order.weights for order in grid.orders(FineTuneOrder) if isinstance(order, FineTuneOrder)} == {start}


def test_after_every_hop_every_site_says_what_it_has_of_the_model(tmp_path: Path) -> None:
    study = study_of(sequential={"routes": (("B", "C", "A"),)}, forgetting=True)
    run = go(FakeGrid(study), tmp_path)
    (told,) = found_by(run)["forgetting"]
    assert told["route"] == ["B", "C", "A"] and [entry["site"] for entry in told["after"]] == ["B", "C", "A"]
    (row,) = (row for row in run.plan.rows if row.fold == told["fold"])
    node = row.model
    for entry in reversed(told["after"]):
        while isinstance(node, Best):
            node = run.winner(node)
        assert isinstance(node, FineTune) and node.site == entry["site"]
        for site in "ABC":
            record = run.records[Evaluate(site, node.fold, "test", node)]
            assert entry["dice"][site] == pytest.approx(100 * record.dice, abs=1e-5)
        node = node.parent
    # At the target it is the very figure of the table.
    (selected,) = (r for r in found_by(run)["rows"] if r["selected"])
    assert told["after"][-1]["dice"]["A"] == selected["dice"]


GREEDY: dict[str, Any] = {"sequential": {"routes": "greedy", "max_hops": 2}, "forgetting": True}


def by_route(scores: dict[str, float]) -> Any:
    """A validation Dice by the way of the weights; every other score is 0.1."""

    def score(node: Evaluate | FineTune, weights: str) -> float:
        return scores.get(way_of(node), 0.1) if isinstance(node, FineTune) else 0.1

    return score


@pytest.mark.parametrize(
    ("scores", "route", "trainings"),
    [
        ({"C → A": 0.8, "C → B → A": 0.9}, ["C", "B", "A"], 2 + 2 + 2),
        ({"C → A": 0.8, "C → B → A": 0.7}, ["C", "A"], 2 + 2 + 2),
        ({"C → A": 0.8, "C → B → A": 0.8}, ["C", "A"], 2 + 2 + 2),
        ({"B → A": 0.8, "C → B → A": 0.9}, ["B", "A"], 2 + 2 + 2),
        ({}, ["B", "A"], 2 + 2 + 2),
    ],
)
def test_a_route_grows_by_the_best_source_while_it_gains(
    tmp_path: Path, scores: dict[str, float], route: list[str], trainings: int
) -> None:
    grid = FakeGrid(study_of(**GREEDY))
    grid.score = by_route(scores)
    run = go(grid, tmp_path)
    results = found_by(run)
    rows = [row for row in results["rows"] if row["target"] == "A"]
    assert [row["route"] for row in rows] == [route] * 2
    assert [row["headline"] for row in rows] == [row["selected"] for row in rows]
    (told,) = (entry for entry in results["grown"] if entry["target"] == "A")
    assert told["route"] == route
    # Trained for A in two folds: B, C, B → A, C → A, then one more source and the route through it.
    assert told["trainings"] == trainings * 2
    assert told["trainings_of_all_routes"] == (2 + 2 + 2 + 2) * 2
    assert not results["parked"]
    # Discarded routes are never scored on test patients at the target.
    scored = {way_of(node.weights) for node in run.plan.nodes if isinstance(node, Evaluate) and node.site == "A"}
    assert not {way for way in scored if way.endswith("→ A") and way != " → ".join(route) and way.count("→") == 2}


def test_a_route_that_grew_is_found_again_without_asking_anybody(tmp_path: Path) -> None:
    first = go(FakeGrid(study_of(**GREEDY)), tmp_path)
    grid = FakeGrid(study_of(**GREEDY))
    second = go(grid, tmp_path)
    assert grid.asked == []
    assert write_json(found_by(second)) == write_json(found_by(first))


def test_a_hop_is_looked_for_only_where_something_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hundred targets, each of which chooses from a hundred sources, all of them at every answer is a minute."""
    looked_at: list[str] = []

    def watched(study: Study, growing: Mapping[str, Any], *rest: Any) -> dict[str, tuple[str, ...]]:
        looked_at.extend(growing)
        return grown(study, growing, *rest)

    monkeypatch.setattr(state, "grown", watched)
    run = go(FakeGrid(study_of(**GREEDY)), tmp_path)
    trained = sum(isinstance(node, FineTune) for node in run.records)
    selected = sum(len(route) for route in run.choices.values())
    assert set(looked_at) == set("ABC")
    assert len(looked_at) <= 3 + trained + selected


def test_a_route_that_cannot_grow_is_told(tmp_path: Path) -> None:
    def refuse(site: str, order: WireMessage, answer: Answer) -> Answer:
        return refusal_error(Refusal.DIVERGED) if site == "C" and isinstance(order, FineTuneOrder) else answer

    results = found_by(go(FakeGrid(study_of(**GREEDY), refuse), tmp_path))
    assert {(entry["method"], entry["target"]) for entry in results["parked"]} == {("greedy", site) for site in "ABC"}
    assert {entry["reason"] for entry in results["parked"]} == {
        f"site C: {REFUSALS[Refusal.DIVERGED]}; a repeat could only end the same"
    }
    assert results["rows"] == []


def test_what_was_spent_counts_every_stage_once_and_discarded_ones_too(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**EVERYTHING)), tmp_path)
    budgets = {entry["method"]: entry for entry in found_by(run)["budgets"]}
    trainings = [node for node in run.plan.nodes if isinstance(node, FineTune) and node.schedule.epochs]
    everything = budgets["all"]
    assert everything["trainings"] == len(trainings)
    assert everything["gradient_steps"] == sum(run.records[node].gradient_steps for node in trainings)
    # Table III's 15 trainings a fold, and each baseline alone; the routes to all targets share them.
    assert budgets["sequential"]["trainings"] == 15 * 2 and budgets["baseline"]["trainings"] == 3 * 2
    size, size_moved = 32, 0
    for node in run.plan.nodes:
        if isinstance(node, FineTune):
            size_moved += 2 * size  # no route here hands a model to the site that has it
        elif isinstance(node, Evaluate):
            makers = node.weights.candidates if isinstance(node.weights, Best) else (node.weights,)
            there = all(isinstance(maker, FineTune) and maker.site == node.site for maker in makers)
            size_moved += 0 if there else size
    assert everything["bytes_moved"] == size_moved
    assert everything["gradient_steps"] < sum(
        entry["gradient_steps"] for method, entry in budgets.items() if method != "all"
    )


def test_the_spread_is_that_of_all_folds(tmp_path: Path) -> None:
    results = found_by(go(FakeGrid(study_of(**EVERYTHING)), tmp_path))
    for entry in results["spread"]:
        values = [
            row["dice"]
            for row in results["rows"]
            if (row["method"], row["route"], row["target"]) == (entry["method"], entry["route"], entry["target"])
        ]
        assert entry["runs"] == len(values) == 2
        assert entry["dice_mean"] == pytest.approx(np.mean(values), abs=1e-5)
        assert entry["dice_std"] == pytest.approx(np.std(values, ddof=1), abs=1e-5)


def test_a_study_that_looks_at_no_test_patient_asks_for_none(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(**{**EVERYTHING, "scored_on": "validation"}))
    run = go(grid, tmp_path)
    assert not [node for node in run.plan.nodes if isinstance(node, Evaluate) and node.split == "test"]
    results = found_by(run)
    assert results["rows"] and all("dice" not in row and row["validation_dice"] >= 0 for row in results["rows"])
    assert sum(row["headline"] for row in results["rows"]) == 3


def test_weights_that_a_stage_has_just_brought_are_not_taken_away_with_those_of_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A's own model may be the very weights of its part in a round, which nobody needs once the average is there."""
    stored = threading.Event()
    outcome = Dispatcher.outcome

    def held_up(dispatcher: Dispatcher, node: FineTune | Evaluate) -> Any:
        found = outcome(dispatcher, node)
        if isinstance(node, FineTune) and node.site == "A" and node.schedule.keep == "best":
            stored.set()
            wait_for(
                lambda: any(isinstance(settled, Average) for settled in list(dispatcher.state.records)), seconds=20
            )
        return found

    def wait_for_it(site: str, order: WireMessage, answer: Answer) -> Answer:
        if site != "A" and isinstance(order, FineTuneOrder):
            assert stored.wait(20)
        return answer

    monkeypatch.setattr(Dispatcher, "outcome", held_up)
    rounds = {"rounds": 1, "local_epochs": 3, "batch_norm": "average", "then_target": False}
    study = study_of(baseline=True, federated=(rounds,))
    study = study.model_copy(update={"split": study.split.model_copy(update={"use_folds": 1})})
    grid = FakeGrid(study, wait_for_it)
    train = grid.train

    def one_result(node: FineTune, order: WireMessage, weights: Weights) -> Answer:
        reply, _ = train(node, order, weights)
        same, moved = train(dataclasses.replace(node, schedule=Schedule(1, 0, 1, "best")), order, weights)
        assert isinstance(reply, FineTuneReply) and isinstance(same, FineTuneReply)
        return reply.model_copy(update={"weights": same.weights}), moved

    monkeypatch.setattr(grid, "train", one_result)
    run = go(grid, tmp_path)
    assert run.parked == {}
    own = {record.weights for node, record in run.records.items() if isinstance(node, FineTune) and node.site == "A"}
    assert len(own) == 1, "the two stages end with the same weights, or this shows nothing"
    assert (tmp_path / "weights" / f"{own.pop()}.safetensors").exists()


def test_weights_that_went_with_another_stage_of_the_same_work_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strategies that come to the same average go on with the same work: what one has done with, another needs."""
    rounds = {"rounds": 2, "batch_norm": "average", "then_target": False}
    study = study_of(federated=tuple({"strategy": name, **rounds} for name in ("fedavg", "fedmedian")))
    study = study.model_copy(update={"split": study.split.model_copy(update={"use_folds": 1})})
    grid = FakeGrid(study)
    train, next_of, outcome = grid.train, RunState.next_of, Dispatcher.outcome

    def second_round_of(node: Node, strategy: str) -> bool:
        return isinstance(node, FineTune) and isinstance(node.parent, Average) and node.parent.strategy == strategy

    def fedavg_first(run: RunState, nodes: list[Node], held: str) -> Node:
        return next_of(run, [node for node in nodes if second_round_of(node, "fedavg")] or nodes, held)

    def fedmedian_late(dispatcher: Dispatcher, node: FineTune | Evaluate) -> Any:
        if second_round_of(node, "fedmedian"):
            last = [
                one for one in dispatcher.state.plan.nodes if isinstance(one, Average) and one.strategy == "fedavg"
            ][-1]
            wait_for(lambda: last in list(dispatcher.state.records), seconds=20)
        return outcome(dispatcher, node)

    def alike(node: FineTune, order: WireMessage, weights: Weights) -> Answer:
        reply, moved = train(node, order, weights)
        assert isinstance(reply, FineTuneReply) and moved is not None
        moved |= {"layer": weights["layer"] + 1.0}
        return reply.model_copy(update={"weights": digest_of(serialised(moved))}), moved

    monkeypatch.setattr(RunState, "next_of", fedavg_first)
    monkeypatch.setattr(Dispatcher, "outcome", fedmedian_late)
    monkeypatch.setattr(grid, "train", alike)
    run = go(grid, tmp_path)
    first, second = (
        {record.weights for node, record in run.records.items() if second_round_of(node, strategy)}
        for strategy in ("fedavg", "fedmedian")
    )
    assert first == second, "the work is the same, or this shows nothing"
    assert run.parked == {}


@pytest.mark.parametrize("change", [{"patients": 10**9}, {"slices": 10**9}])
def test_a_site_that_scores_more_than_it_has_parks_its_own_rows_alone(tmp_path: Path, change: dict[str, int]) -> None:
    def boast(site: str, order: WireMessage, answer: Answer) -> Answer:
        if isinstance(answer, Error) or site != "B" or not isinstance(answer[0], EvaluateReply):
            return answer
        return answer[0].model_copy(update=change), answer[1]

    run = go(FakeGrid(study_of(baseline=True), boast), tmp_path)
    assert set(run.parked.values()) == {"site B: it scored on more patients or slices than it described"}
    assert {node.site for node in run.parked} == {"B"}
    assert {record.site for record in run.records.values() if record.kind == "evaluate"} == {"A", "C"}

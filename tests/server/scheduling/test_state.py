"""What a run knows and what follows from it, over plain values: no thread, no grid, no disk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection
from typing import Any

import pytest

from common.config.study import Study
from common.plan import plan
from common.plan.graph import Average, Best, Evaluate, FineTune, Node, Schedule, Start
from common.protocol.messages import Description
from server.ledger.ledger import StageRecord
from server.scheduling.state import RunState, census_of, parts_of, slices_shown

SITES = ("A", "B", "C")
DESCRIPTIONS = {
    site: Description(
        study="a" * 64,
        site=site,
        patients_found=9,
        prepared=9,
        patients=9,
        test_patients=2,
        test_slices=6,
        slices=50,
        train_slices=slices,
        train_patients=(4, 4),
        validation_patients=(3, 3),
        fingerprint=str(number) * 64,
        torch="2.13.0",
        device="cpu",
        precision="float32",
    )
    for number, (site, slices) in enumerate({"A": (10, 11), "B": (20, 21), "C": (33, 34)}.items())
}
START = StageRecord(key="start", kind="start", weights=hashlib.sha256(b"start").hexdigest())
ROUTE: dict[str, Any] = {"sequential": {"routes": (("B", "A"),)}}
ROUNDS: dict[str, Any] = {"federated": ({"strategy": "fedavg", "rounds": 2, "local_epochs": 1, "then_target": False},)}


def study_of(*, absence: dict[str, Any] | None = None, **methods: Any) -> Study:
    none = {"baseline": False, "longer_baseline": False, "pooled": False, "federated": (), "forgetting": False}
    return Study.model_validate(
        {
            "sites": SITES,
            "split": {"folds": 2},
            "training": {"epochs": 2, "batch": 4},
            "methods": {**none, "sequential": {"routes": "none"}, **methods},
            **({"absence": absence} if absence else {}),
        }
    )


def state_of(
    study: Study, kept: dict[str, StageRecord] | None = None, has: Callable[[str], bool] | None = None
) -> RunState:
    """Return the state of a run that finds some records in its ledger, by default with all their weights."""
    found = kept or {}
    return RunState(
        study, plan(study, census_of(DESCRIPTIONS)), DESCRIPTIONS, START, found.get, has or (lambda digest: True)
    )


def record_of(state: RunState, node: Node) -> StageRecord:
    """Return a record as a stage would leave it; weights and Dice follow from the key."""
    known = state.known(node)
    if known is not None:
        return known
    assert isinstance(node, FineTune | Evaluate | Average)
    key = state.average_key(node, state.records) if isinstance(node, Average) else state.key(node, state.records)
    makes = not isinstance(node, Evaluate)
    return StageRecord(
        key=key,
        kind="fine-tune" if isinstance(node, FineTune) else "average" if makes else "evaluate",
        site="" if isinstance(node, Average) else node.site,
        weights=hashlib.sha256(key.encode()).hexdigest() if makes else "",
        train_slices=10,
        dice=int(key[:4], 16) / 2**16,
    )


def work_out(state: RunState, *, but: Collection[Node] = ()) -> list[Node]:
    """Settle all that can be begun but some nodes; returns the others in the order in which they were settled."""
    order, ready = [], state.startable(state.plan.nodes)
    while ready:
        node = ready.pop()
        if node not in but and node not in state.parked:
            state.settle(node, record_of(state, node))
            order.append(node)
            ready += state.free(node)
    return order


@pytest.mark.parametrize("methods", [{"baseline": True}, ROUTE, ROUNDS, {**ROUTE, **ROUNDS, "forgetting": True}])
def test_every_node_becomes_free_once_and_after_its_parents(methods: dict[str, Any]) -> None:
    state = state_of(study_of(**methods))
    order = work_out(state)
    assert len(order) == len(set(order)) and set(order) == set(state.plan.nodes)
    place = {node: number for number, node in enumerate(order)}
    assert all(place[parent] < place[node] for node in order for parent in node.parents)


@pytest.mark.parametrize("methods", [{"baseline": True}, {**ROUTE, **ROUNDS}])
def test_what_a_ledger_holds_is_known_before_anything_is_begun(methods: dict[str, Any]) -> None:
    first = state_of(study_of(**methods))
    assert first.to_make() == set(first.plan.nodes) - {Start()}
    work_out(first)
    kept = {record.key: record for record in first.records.values()}
    assert state_of(first.study, kept).to_make() == set()
    (lost, *_) = [node for node in first.plan.nodes if isinstance(node, FineTune)]
    del kept[first.records[lost].key]
    to_make = state_of(first.study, kept).to_make()
    assert lost in to_make and all(node == lost or _descends(node, lost) for node in to_make)


def test_lost_weights_are_made_again_where_a_row_needs_them_and_with_what_they_are_made_from() -> None:
    first = state_of(study_of(**ROUTE))
    work_out(first)
    kept = {record.key: record for record in first.records.values()}
    there = {START.weights}
    again = state_of(first.study, kept, there.__contains__).to_make()
    rows = {row.model for row in first.plan.rows}
    sources = {
        first.winner(node.parent) for node in rows if isinstance(node, FineTune) and isinstance(node.parent, Best)
    }
    assert sources and again == rows | sources
    there |= {first.records[node].weights for node in rows}
    assert state_of(first.study, kept, there.__contains__).to_make() == set()


def test_what_descends_from_a_parked_stage_waits_with_it_and_nothing_else() -> None:
    state = state_of(study_of(baseline=True, **ROUTE))
    stage = next(node for node in state.plan.nodes if isinstance(node, FineTune) and node.site == "B")
    parked = state.park(stage, "why")
    assert set(parked) == {node for node in state.plan.nodes if node == stage or _descends(node, stage)}
    assert state.parked == dict.fromkeys(parked, "why")
    assert state.park(stage, "another reason") == [] and state.parked[stage] == "why"
    assert set(work_out(state)) == set(state.plan.nodes) - set(parked)


def test_a_site_scores_what_it_holds_first_and_then_goes_the_longest_way() -> None:
    state = state_of(study_of(**ROUTE, baseline=True))
    own = FineTune("A", 0, Start(), next(iter(_trainings(state, "A"))).schedule)
    score = Evaluate("A", 0, "test", own)
    others = [node for node in _trainings(state, "A") if node != own]
    work_out(state, but=others)
    held = state.records[own].weights
    assert state.next_of([*others, score], held) == score
    longest = max(others, key=state.way_left.__getitem__)
    assert state.next_of([*others, score], "") == max([longest, score], key=state.way_left.__getitem__)
    source, *_ = _trainings(state, "B")
    assert state.way_left[source] > max(state.way_left[node] for node in state.plan.nodes if _descends(node, source))


def test_what_an_average_is_needed_for_comes_before_further_rounds() -> None:
    """So that the average can go; a further round has the longer way to the study's end."""
    state = state_of(study_of(**ROUNDS))
    first = next(node for node in state.plan.nodes if isinstance(node, Average) and node.fold == 0)
    users = [node for node in state.users[first] if isinstance(node, FineTune) and node.site == "A"]
    assert sorted(node.schedule.epochs for node in users) == [0, 1]
    work_out(state, but=[node for node in state.plan.nodes if first in node.parents])
    selected = state.next_of(users, "")
    assert isinstance(selected, FineTune) and selected.schedule.epochs == 0
    assert selected != max(users, key=state.way_left.__getitem__)


def test_work_is_counted_in_slices_that_the_network_is_shown() -> None:
    state = state_of(study_of(**ROUNDS))
    part = next(node for node in state.plan.nodes if isinstance(node, FineTune) and (node.site, node.fold) == ("C", 1))
    assert slices_shown(part, DESCRIPTIONS) == 34 * 1
    assert slices_shown(Evaluate("C", 1, "test", part), DESCRIPTIONS) == 6 / 3
    assert slices_shown(Start(), DESCRIPTIONS) == 0
    estimate = FineTune("C", 1, part, Schedule(0, 0, 0, "last"))
    assert slices_shown(estimate, DESCRIPTIONS) == pytest.approx(34 / 3)


def test_only_what_is_of_a_round_may_go_before_the_end() -> None:
    state = state_of(study_of(**ROUTE, **ROUNDS))
    looked_at: set[Node] = set()
    ready = state.startable(state.plan.nodes)
    while ready:
        node = ready.pop()
        looked_at |= set(state.settle(node, record_of(state, node)))
        ready += state.free(node)
    of_rounds = {node for node in state.plan.nodes if isinstance(node, Average)}
    of_rounds |= {part for node in of_rounds if isinstance(node, Average) for part in node.parts}
    of_rounds |= {node for node in state.plan.nodes if isinstance(node, FineTune) and isinstance(node.parent, Average)}
    assert looked_at == of_rounds


def test_a_stage_that_is_left_out_is_no_part_of_its_round() -> None:
    state = state_of(study_of(absence={"then": "skip", "wait_hours": 2.0}, **ROUNDS))
    average = next(node for node in state.plan.nodes if isinstance(node, Average))
    absent = next(part for part in average.parts if part.site == "C")
    work_out(state, but=[absent, average])
    key = state.absent_key(absent, state.records)
    state.settle(absent, StageRecord(key=key, kind="absent", site="C", weights=state.input_digest(absent)))
    assert state.skipped == {absent}
    assert set(parts_of(average, state.records)) == {"A", "B"}
    assert average in state.free(absent) and not state.is_cut(average)


def test_what_nobody_needs_without_a_site_is_cut() -> None:
    state = state_of(study_of(**ROUTE))
    source = next(node for node in state.plan.nodes if isinstance(node, FineTune) and node.site == "B")
    work_out(state, but=[source])
    state.settle(source, StageRecord(key="absent", kind="absent", site="B", weights=START.weights))
    freed = state.free(source)
    assert freed and all(state.is_cut(node) for node in freed)


def test_a_site_that_is_away_is_waited_for_as_long_as_its_stages_are() -> None:
    study = study_of(baseline=True, absence={"wait_hours": 2.0})
    state = state_of(study)
    assert state.patience("A") == 2 * 3600
    first, second = _trainings(state, "A")[:2]
    state.waiting["A"].append(second)
    state.at_work["A"] = first
    assert state.given_up(first, 3600.0) == [] and state.waiting["A"] == [first, second]
    state.waiting["A"].remove(first)
    assert state.given_up(first, math.inf) == [first, second] and state.waiting["A"] == []


def _trainings(state: RunState, site: str) -> list[FineTune]:
    return [node for node in state.plan.nodes if isinstance(node, FineTune) and node.site == site]


def _descends(node: Node, ancestor: Node) -> bool:
    return any(parent == ancestor or _descends(parent, ancestor) for parent in node.parents)

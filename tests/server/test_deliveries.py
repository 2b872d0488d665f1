"""At a study's end every site gets the weights that validation chose for it, and nothing that was not finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import server.deliveries
import server.study_run
from common.config.methods import AbsenceConfig
from common.config.study import Study
from common.errors import RelayError
from common.plan.graph import FineTune, Start, way_of
from common.protocol.messages import Delivery, EvaluateOrder, FineTuneOrder, WireMessage
from common.protocol.refusals import Refusal, refusal_error
from common.seeds import seed_of
from server.progress.events import Event
from server.study_run import run_study
from tests.support.fake_sites import START, Answer, FakeGrid, quick, study_of
from tests.support.selected import best_row

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

METHODS: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "unadapted": True,
    "sequential": {"routes": (("B", "C", "A"), ("B", "A"), ("A", "B"))},
    "federated": ({"strategy": "fedavg", "rounds": 3},),
    "forgetting": True,
}


@pytest.fixture(autouse=True)
def first_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.study_run, "start_weights", lambda *_: START)
    monkeypatch.setattr(server.study_run, "write_report", lambda folder: folder)


def run(grid: FakeGrid, out: Path, study: Study | None = None, events: list[Event] | None = None) -> dict[str, Any]:
    observe = (events if events is not None else []).append
    # The fake sites train alike whatever the network; another variant's weights may not be taken away with the first's.
    keep = study is not None
    return run_study(
        grid, study or grid.study, out, beside=out.parent, observe=observe, patience=0.0, keep_weights=keep
    )


def told(out: Path) -> dict[str, dict[str, str]]:
    return json.loads((out / "run.json").read_text(encoding="utf-8"))["delivered"]


def best(results: dict[str, Any], site: str, methods: set[str] | None = None) -> dict[str, Any]:
    """Of the rows in results.json, by hand."""
    rows = [row for row in results["rows"] if row["target"] == site and not row["method"].startswith("pooled")]
    rows = [row for row in rows if methods is None or row["method"] in methods]
    return best_row(rows)


def test_every_site_gets_the_weights_with_its_best_validation_dice_and_its_own_beside(tmp_path: Path) -> None:
    events: list[Event] = []
    grid = FakeGrid(study_of(**METHODS))
    score = grid.score

    def best_alone_at_c(node: Any, weights: str) -> float:
        alone = isinstance(node, FineTune) and node.site == "C" and node.parent == Start()
        return 0.99 + score(node, weights) / 100 if alone else score(node, weights)

    grid.score = best_alone_at_c
    results = run(grid, tmp_path / "out", events=events)
    for site in "ABC":
        row, own = best(results, site), best(results, site, {"baseline", "longer"})
        expected = {"selected": row["weights"]}
        if row["method"] not in ("baseline", "longer"):
            expected["own"] = own["weights"]
        assert grid.received[site] == expected
        assert told(tmp_path / "out")[site] == {"study": grid.study.digest, **expected}
    assert set(grid.received["C"]) == {"selected"}
    assert {"selected", "own"} in (set(grid.received["A"]), set(grid.received["B"])), "or one case was not seen"
    assert sorted(event.site for event in events if event.kind == "delivered") == ["A", "B", "C"]
    roles = [(site, order.role) for site, order, _ in grid.asked if isinstance(order, Delivery)]
    for site in "ABC":
        in_order = list(dict.fromkeys(role for name, role in roles if name == site))
        assert in_order in (["own", "selected"], ["selected"]), "what was selected comes last"


@pytest.mark.parametrize("then", ["skip", "park"])
def test_rows_that_did_without_a_site_are_not_selected_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """As if C had been away on the way B → C → A; where the study parks, A's weights wait for all of its rows."""
    absence = AbsenceConfig.model_validate({"then": then})
    grid = FakeGrid(study_of(**METHODS).model_copy(update={"absence": absence}))
    score = grid.score

    def cut(node: Any) -> bool:
        return isinstance(node, FineTune) and way_of(node) == "B → C → A"

    grid.score = lambda node, weights: 0.999 if cut(node) else score(node, weights) / 2
    monkeypatch.setattr(server.deliveries, "absent_from", lambda model, _: ("C",) if cut(model) else ())
    results = run(grid, tmp_path / "out")
    assert best(results, "A")["route"] == ["B", "C", "A"], "it would have been selected"
    if then == "park":
        assert "A" not in grid.received and "B" in grid.received
        return
    counted = {"rows": [row for row in results["rows"] if row["route"] != ["B", "C", "A"]]}
    assert grid.received["A"]["selected"] == best(counted, "A")["weights"]


def test_no_test_score_has_a_say(tmp_path: Path) -> None:
    received = []
    for turned in (False, True):
        grid = FakeGrid(study_of(**METHODS))
        score = grid.score

        def other(node: Any, weights: str, score: Any = score, turned: bool = turned) -> float:
            of_test = not isinstance(node, FineTune) and node.split == "test"
            return 1 - score(node, weights) if turned and of_test else score(node, weights)

        grid.score = other
        results = run(grid, tmp_path / str(turned))
        received.append((dict(grid.received), [row["dice"] for row in results["rows"]]))
    assert received[0][0] == received[1][0]
    assert received[0][1] != received[1][1]


def test_a_delivery_tells_what_the_card_needs_and_no_text(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(**METHODS))
    results = run(grid, tmp_path / "out")
    deliveries = {
        site: order for site, order, _ in grid.asked if isinstance(order, Delivery) and order.role == "selected"
    }
    for site, delivery in deliveries.items():
        rows = [row for row in results["rows"] if row["target"] == site]
        assert delivery.models == tuple(row["weights"] for row in rows)
        assert delivery.patients == (9, 9, 9) and delivery.test_patients == (2, 2, 2) and delivery.slices == (50,) * 3
        texts = [value for value in delivery.model_dump().values() if isinstance(value, str)]
        assert set(texts) - {""} == {
            delivery.study,
            delivery.fingerprint,
            delivery.role,
            delivery.census,
            delivery.choices,
        }
        selected = rows[delivery.row]
        forgotten = [
            entry["after"]
            for entry in results["forgetting"]
            if (entry["target"], entry["route"], entry["fold"]) == (site, selected["route"], selected["fold"])
            and entry["method"] == selected["method"]
        ]
        flat = [hop["dice"][name] for hop in forgotten[0] for name in "ABC"] if forgotten else []
        assert [round(100 * dice, 6) for dice in delivery.forgetting] == flat


def test_a_study_that_is_run_again_sends_no_weights_again(tmp_path: Path) -> None:
    grid = FakeGrid(study_of(**METHODS))
    run(grid, tmp_path / "out")
    before, received = told(tmp_path / "out"), {site: dict(roles) for site, roles in grid.received.items()}
    grid.asked.clear()
    run(grid, tmp_path / "out")
    assert not grid.orders(FineTuneOrder) and not grid.orders(EvaluateOrder)
    assert not any(brought for _, _, brought in grid.asked)
    assert (told(tmp_path / "out"), dict(grid.received)) == (before, received)


def test_a_site_that_cannot_take_its_weights_is_told_and_gets_them_from_the_next_run(tmp_path: Path) -> None:
    away = True

    def change(site: str, order: WireMessage, answer: Answer) -> Answer:
        refuses = away and site == "B" and isinstance(order, Delivery)
        return refusal_error(Refusal.DISK_FULL) if refuses else answer

    grid = FakeGrid(study_of(**METHODS), change)
    with pytest.raises(RelayError, match="Not every site has its weights – site B: the site's disk is full"):
        run(grid, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["parked"] == []
    assert set(told(tmp_path / "out")) == {"A", "C"} == {site for site in grid.received if grid.received[site]}
    away = False
    grid.asked.clear()
    run(grid, tmp_path / "out")
    assert set(told(tmp_path / "out")) == {"A", "B", "C"}
    assert grid.received["B"]["selected"] == best(results, "B")["weights"]
    assert {site for site, _, brought in grid.asked if brought} == {"B"}


def test_a_site_of_which_something_is_unfinished_gets_nothing_yet(tmp_path: Path) -> None:
    """The best of some rows is not the best of all. Others need not wait for it."""
    broken = True

    def change(site: str, order: WireMessage, answer: Answer) -> Answer:
        if broken and site == "C" and isinstance(order, FineTuneOrder):
            return refusal_error(Refusal.DIVERGED)
        return answer

    methods = {"baseline": True, "sequential": {"routes": (("A", "B"), ("C", "A"))}}
    grid = FakeGrid(study_of(**methods), change)
    with pytest.raises(RelayError, match="could not be finished"):
        run(grid, tmp_path / "out")
    assert {site for site in grid.received if grid.received[site]} == {"B"} == set(told(tmp_path / "out"))
    broken = False
    run(grid, tmp_path / "out")
    assert set(told(tmp_path / "out")) == {"A", "B", "C"}


def test_of_a_repeated_study_the_first_repeat_is_delivered(tmp_path: Path) -> None:
    base = study_of(**METHODS)
    study = base.model_copy(update={"repeats": 2})
    grid = FakeGrid(base)
    results = run(grid, tmp_path / "out", study)
    first = {**results, "rows": [row for row in results["rows"] if row["variant"] == 0]}
    assert len(first["rows"]) < len(results["rows"])
    for site in "ABC":
        assert grid.received[site]["selected"] == best(first, site)["weights"]
    assert {order.study for order in grid.orders(Delivery)} == {study.variants[0].digest}


@pytest.mark.slow
def test_of_a_rotating_test_the_first_rotation_is_delivered(tmp_path: Path) -> None:
    base = study_of(**METHODS)
    study = base.model_copy(update={"split": base.split.model_copy(update={"test": "rotate"})})
    grid = FakeGrid(base)
    results = run(grid, tmp_path / "out", study)
    first = {**results, "rows": [row for row in results["rotation_rows"] if row["rotation"] == 0]}
    for site in "ABC":
        assert grid.received[site]["selected"] == best(first, site)["weights"]
    assert {order.study for order in grid.orders(Delivery)} == {study.variants[0].digest}
    assert study.variants[0].split.rotation == 0


@pytest.mark.slow
def test_of_several_networks_validation_chooses_one_for_each_site(tmp_path: Path) -> None:
    base = study_of(**METHODS)
    study = Study.model_validate(base.model_dump() | {"models": {"encoders": ("resnet18", "resnet34", "mobilenet_v2")}})
    grid = FakeGrid(base)
    networks: dict[str, int] = {}

    def score(node: Any, weights: str) -> float:
        """Of the network that is at work: each order names its study."""
        return seed_of(weights, node.site, node.fold, networks["now"]) / 2**63

    real = grid.answer

    def answer(site: str, kind: str, record: Any) -> Answer:
        message = record.config_records["message"]
        networks["now"] = [variant.digest for variant in study.variants].index(str(message["study"]))
        return real(site, kind, record)

    grid.score, grid.answer = score, answer  # type: ignore[method-assign]
    results = run(grid, tmp_path / "out", study)
    digests = {order.study for order in grid.orders(Delivery)}
    for site in "ABC":
        row = best(results, site)
        (sent,) = {
            order.study
            for name, order, _ in grid.asked
            if name == site and isinstance(order, Delivery) and order.role == "selected"
        }
        assert sent == study.variants[row["variant"]].digest
        assert grid.received[site]["selected"] == row["weights"]
    assert digests <= {variant.digest for variant in study.variants}


def test_an_absent_site_keeps_no_model_from_a_hospital_though_ensembles_need_it(tmp_path: Path) -> None:
    """The consensus of all sites is left out, as the study's rule says, and the best of the other rows is delivered."""

    def away(site: str, order: WireMessage, answer: Answer) -> Answer:
        return refusal_error(Refusal.LEFT) if site == "C" and isinstance(order, FineTuneOrder) else answer

    methods = {"baseline": True, "more": ("consensus",), "sequential": {"routes": (("C", "B", "A"), ("A", "B"))}}
    study = study_of(**methods).model_copy(update={"absence": AbsenceConfig(wait_hours=0, then="skip")})
    grid = FakeGrid(study, away)
    with pytest.raises(RelayError):
        run(grid, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in results["parked"]} >= {"consensus"}
    for site in "AB":
        assert grid.received[site]["selected"] == best(results, site)["weights"]

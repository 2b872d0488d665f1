"""Settings of second and later trainings through the federation, bit for bit those of a plain loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.config.study import Study
from tests.end_to_end.plain_loop import PlainLoop, Stage, digest
from tests.support.hospitals import run_on_grid, small_study, write_hospitals

pytestmark = pytest.mark.usefixtures("one_thread")

PATIENTS = {"A": 6, "B": 7, "C": 6}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), PATIENTS)


def route_study(*, routes: Any = (("B", "A"),), sequential: dict[str, Any] | None = None, **parts: Any) -> Study:
    methods = {"sequential": {"routes": routes, **(sequential or {})}, **parts.pop("methods", {})}
    training = {"precision": "float32", "epochs": 3, **parts.pop("training", {})}
    return small_study(split={"use_folds": 1}, sites=("A", "B"), training=training, methods=methods, **parts)


def ledger(out: Path) -> dict[str, dict[str, Any]]:
    """The trainings' records by the digest of their weights."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "ledger").glob("*.json")]
    return {record["weights"]: record for record in records if record["kind"] == "fine-tune"}


def two(hospitals: dict[str, Path]) -> dict[str, Path]:
    return {name: hospitals[name] for name in ("A", "B")}


def assert_is(stage: Stage, found: dict[str, dict[str, Any]], what: str) -> None:
    assert digest(stage.weights) in found, f"{what} gave other weights"
    assert found[digest(stage.weights)]["losses"] == pytest.approx(stage.losses, rel=1e-6)


@pytest.mark.slow
def test_rate_warm_up_and_frozen_encoder_are_the_plain_loops_and_validation_chooses(
    hospitals: dict[str, Path], tmp_path: Path
) -> None:
    hops = {"learning_rate": (3e-3, 5e-4), "warmup_epochs": (0, 1), "freeze": ("none", "encoder")}
    study = route_study(sequential=hops, training={"epochs": 2, "batch_norm": "precise"})
    results, _ = run_on_grid(study, two(hospitals), tmp_path)
    found = ledger(tmp_path)
    loop = PlainLoop(study, two(hospitals))
    source = loop.fine_tune("B", 0, loop.start())
    assert_is(source, found, "the first training")
    made: dict[str, float] = {}
    for rate in hops["learning_rate"]:
        for warmup in (0, 1):
            for frozen in (False, True):
                stage = loop.fine_tune("A", 0, source.weights, rate=rate, warmup=warmup, frozen=frozen)
                assert_is(stage, found, f"rate {rate}, warm-up {warmup}, frozen {frozen}")
                made[digest(stage.weights)] = stage.native_dice
                if frozen:
                    kept = [name for name in stage.weights if name.startswith("encoder.") and "running" not in name]
                    assert all(stage.weights[name].equal(source.weights[name]) for name in kept)
    assert len(made) == 8 and len(found) == 9
    (row,) = results["rows"]
    assert made[row["weights"]] == max(made.values())
    labels = {stage["label"] for stage in results["stages"]}
    assert {"B", "B → A", "B → A (rate 0.0005, 1 epoch of warm-up, encoder frozen)"} <= labels
    chosen = {subject: setting for subject, setting, _ in results["choices"]}
    assert chosen["second and later trainings"] == (
        "rate 0.003 or 0.0005, 0 or 1 epochs of warm-up, encoder trained or frozen"
    )


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["precise", pytest.param("running", marks=pytest.mark.slow)])
def test_learning_without_forgetting_and_l2_sp_are_the_plain_loops(
    hospitals: dict[str, Path], tmp_path: Path, batch_norm: str
) -> None:
    brakes = {"lwf": {"weight": (0.5, 4.0), "temperature": 3.0}, "l2_sp": {"weight": 0.2}}
    study = route_study(methods=brakes, training={"epochs": 2, "batch_norm": batch_norm, "leg_minutes": 0.0})
    results, _ = run_on_grid(study, two(hospitals), tmp_path)
    found = ledger(tmp_path)
    loop = PlainLoop(study, two(hospitals))
    source = loop.fine_tune("B", 0, loop.start())
    plain = loop.fine_tune("A", 0, source.weights)
    taught = [loop.fine_tune("A", 0, source.weights, taught=(weight, 3.0)) for weight in (0.5, 4.0)]
    pulled = loop.fine_tune("A", 0, source.weights, mu=0.2)
    for what, stage in (("the source", source), ("no brake", plain), ("LwF 0.5", taught[0]), ("LwF 4", taught[1])):
        assert_is(stage, found, what)
    assert_is(pulled, found, "L2-SP")
    assert len(found) == 5
    made = {row["method"]: row["weights"] for row in results["rows"]}
    assert made == {
        "sequential": digest(plain.weights),
        "lwf": digest(max(taught, key=lambda stage: stage.native_dice).weights),
        "l2-sp": digest(pulled.weights),
    }
    assert sum(row["headline"] for row in results["rows"]) == 1


@pytest.mark.slow
def test_a_route_of_one_cosine_is_the_plain_loops_step_by_step(hospitals: dict[str, Path], tmp_path: Path) -> None:
    study = route_study(
        routes=(("B", "A"), ("A", "B", "A")), sequential={"annealing": "route"}, training={"epochs": 2, "keep": "last"}
    )
    run_on_grid(study, two(hospitals), tmp_path)
    found = ledger(tmp_path)
    loop = PlainLoop(study, two(hospitals))
    rates: list[float] = []
    for route in (("B", "A"), ("A", "B", "A")):
        weights, total = loop.start(), 2 * len(route)
        for place, site in enumerate(route):
            part = range(2 * place, 2 * place + 2)
            stage = loop.fine_tune(site, 0, weights, epochs=part, total=total, keep="last")
            assert_is(stage, found, f"training {place + 1} of {route}")
            rates += found[digest(stage.weights)]["learning_rates"]
            weights = stage.weights
    # 3e-3 * (1 + cos(pi k / 4)) / 2 and 3e-3 * (1 + cos(pi k / 6)) / 2, worked out by hand
    assert rates == pytest.approx(
        [3e-3, 2.560660e-3, 1.5e-3, 4.393398e-4, 3e-3, 2.799038e-3, 2.25e-3, 1.5e-3, 7.5e-4, 2.009619e-4], rel=1e-6
    )
    assert len(found) == 5

"""FedDC and CyclicFL give the weights of a plain loop: models that change places, and laps before rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from common.config.study import Study
from tests.end_to_end.plain_loop import PlainLoop, Tensors, digest, seed_of
from tests.support.hospitals import run_on_grid, small_study, write_hospitals

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.nightly]

SITES = ("A", "B", "C")
ROUNDS = 4


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict[str, Path], Path, dict[str, Any]]:
    hospitals = write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 6, "B": 7, "C": 6})
    part = {"rounds": ROUNDS, "batch_norm": "average"}
    study = small_study(
        split={"use_folds": 1},
        training={"precision": "float32", "epochs": 1, "augmentation": "none"},
        methods={
            "federated": (
                {"strategy": "feddc", "average_every": 3, "then_target": False, **part},
                {"strategy": "cyclicfl", "laps": 2, "then_target": True, **part},
            )
        },
    )
    out = tmp_path_factory.mktemp("out")
    results, _ = run_on_grid(study, hospitals, out, at_once=2, keep_weights=True)
    return study, hospitals, out, results


def records_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in (out / "ledger").glob("*.json")]


def averaged(out: Path, parts: dict[str, Tensors]) -> Tensors:
    """The average of exactly these weights in the ledger, held to the weighted mean."""
    records = records_of(out)
    slices = {record["weights"]: record["train_slices"] for record in records if record["kind"] == "fine-tune"}
    digests = [digest(parts[site]) for site in sorted(parts)]
    made = [record for record in records if record["kind"] == "average" and record["parents"] == digests]
    assert made, "no round is the average of these weights"
    found: Tensors = safetensors.torch.load_file(out / "weights" / f"{made[0]['weights']}.safetensors")
    total = sum(slices[name] for name in digests)
    for name, tensor in found.items():
        if tensor.is_floating_point():
            mean = sum(parts[site][name].double() * (slices[digest(parts[site])] / total) for site in parts)
            assert torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-9)
    return found


def test_models_change_places_and_are_averaged_every_third_round(
    ran: tuple[Study, dict[str, Path], Path, dict[str, Any]],
) -> None:
    study, hospitals, out, results = ran
    loop = PlainLoop(study, hospitals)
    models = {site: loop.start() for site in SITES}
    averages = []
    moved = 0
    for number in range(ROUNDS):
        models = {
            site: loop.fine_tune(site, 0, weights, epochs=range(number, number + 1), total=ROUNDS, keep="last").weights
            for site, weights in models.items()
        }
        if number in (2, 3):  # every third, and the last
            average = averaged(out, models)
            averages.append(digest(average))
            models = dict.fromkeys(SITES, average)
        else:
            held = list(models.values())
            after = sorted(SITES, key=lambda site: seed_of(study.seed, "daisy chain", number + 1, site))
            moved += sum(a != b for a, b in zip(models, after, strict=True))
            models = {site: weights for weights, site in zip(held, after, strict=True)}
    assert moved, "or nothing is shown"
    rows = {row["weights"] for row in results["rows"] if row["method"] == "feddc"}
    assert rows and rows <= set(averages)


def test_laps_come_first_and_the_rounds_go_on_from_their_end(
    ran: tuple[Study, dict[str, Path], Path, dict[str, Any]],
) -> None:
    study, hospitals, out, results = ran
    loop = PlainLoop(study, hospitals)
    weights = loop.start()
    for number in range(2):
        for site in SITES:
            slice_of = range(number, number + 1)
            weights = loop.fine_tune(site, 0, weights, epochs=slice_of, total=ROUNDS, keep="last").weights
    averages = []
    for number in range(2, ROUNDS):
        parts = {
            site: loop.fine_tune(site, 0, weights, epochs=range(number, number + 1), total=ROUNDS, keep="last").weights
            for site in SITES
        }
        weights = averaged(out, parts)
        averages.append(weights)
    rows = {row["target"]: row["weights"] for row in results["rows"] if row["method"] == "cyclicfl"}
    assert set(rows.values()) <= {digest(average) for average in averages}
    after = {row["target"]: row["weights"] for row in results["rows"] if row["method"] == "cyclicfl-then-target"}
    (best,) = (average for average in averages if digest(average) == rows["B"])
    assert after["B"] == digest(loop.fine_tune("B", 0, best, visit=1).weights), "its first visit was in the first lap"

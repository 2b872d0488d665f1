"""Routes and laps whose batch norm stays at the sites: the plain loop's weights, and no message with what stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from client.data.splits import split
from common.config.study import study_toml
from tests.end_to_end.plain_loop import Patient, PlainLoop, Tensors, digest
from tests.end_to_end.test_tensors_that_stay import (
    RecordingGrid,
    forget,
    hospitals,
    kept_at,
    messages,
    norms,
    part_of,
    received,
    records,
)
from tests.support.hospitals import REPO, run_on_grid, small_study

__all__ = ["hospitals"]
pytestmark = pytest.mark.usefixtures("one_thread")

ROUTES: tuple[tuple[str, ...], ...] = (("B", "A"), ("A", "B", "A"))
LAPS: dict[str, tuple[str, ...]] = {"A": ("B", "A", "B", "A"), "B": ("A", "B", "A", "B")}
STUDY = small_study(
    sites=("A", "B"),
    split={"use_folds": 1},
    training={"precision": "float32", "leg_minutes": 0.0},
    methods={
        "sequential": {"routes": ROUTES, "batch_norm": "local"},
        "cyclic": {"laps": 2, "epochs": 1},
        "forgetting": True,
    },
)


class LoopAtTest(PlainLoop):
    """A plain loop whose Dice is that of the test patients."""

    def members(self, site: str, fold: int) -> tuple[list[Patient], list[Patient]]:
        train, _ = super().members(site, fold)
        here = self.patients[site]
        return train, [here[name] for name in split(here, self.study.split, site=site).test]


def along(loop: PlainLoop, route: Sequence[str], epochs: int) -> list[tuple[Tensors, dict[str, Tensors]]]:
    """After each hop, the tensors that travel and what each site has kept so far."""
    start, norm = loop.start(), norms(loop)
    travelling, own = part_of(start, set(start) - norm), dict[str, Tensors]()
    found = []
    for place, site in enumerate(route):
        begin = travelling | own.get(site, part_of(start, norm))
        made = loop.fine_tune(site, 0, begin, total=epochs, visit=route[:place].count(site)).weights
        travelling, own = part_of(made, set(start) - norm), own | {site: part_of(made, norm)}
        found.append((travelling, own))
    return found


def dice_of(loop: PlainLoop, site: str, weights: Tensors) -> float:
    network = loop.network()
    network.load_state_dict(weights)
    network.to(memory_format=torch.channels_last)
    return loop.native_dice(network, site, 0)


@pytest.mark.slow
def test_a_route_is_the_plain_loop_and_its_norms_are_in_no_message(hospitals: dict[str, Path], tmp_path: Path) -> None:
    forget(hospitals)
    messages.clear()
    results, _ = run_on_grid(STUDY, hospitals, tmp_path, keep_weights=True, grid=RecordingGrid)
    loop, tested = PlainLoop(STUDY, hospitals), LoopAtTest(STUDY, hospitals)
    start, norm = loop.start(), norms(loop)
    ways = {("sequential-local", route): along(loop, route, 2) for route in ROUTES}
    ways |= {("cyclic-local", route): along(loop, route, 1) for route in LAPS.values()}

    trained = records(tmp_path, "fine-tune")
    kept = {site: {digest(own[site]) for way in ways.values() for _, own in way if site in own} for site in "AB"}
    for site, path in hospitals.items():
        assert {record["own"] for record in trained if record["site"] == site} == kept[site] == kept_at(path).keys()
    sent = {digest(travelling) for way in ways.values() for travelling, _ in way}
    assert {record["shared"] for record in trained} == sent
    # a site's first visit begins with the first weights' own, which the coordinator has put to what travelled
    refilled = {digest(travelling | part_of(start, norm)) for way in ways.values() for travelling, _ in way}
    assert {record["weights"] for record in records(tmp_path, "refilled")} <= refilled

    rows = {(row["method"], tuple(row["route"])): row for row in results["rows"]}
    assert rows.keys() == ways.keys()
    assert rows["sequential-local", ("A", "B", "A")]["label"] == "A → B → A, own batch norm"
    assert rows["cyclic-local", LAPS["A"]]["label"] == "2 laps to A, own batch norm"
    for (method, route), way in ways.items():
        target, (travelling, own) = route[-1], way[-1]
        row = rows[method, route]
        whole = travelling | own[target]
        assert row["validation_dice"] == pytest.approx(100 * dice_of(loop, target, whole), abs=1e-5)
        assert row["dice"] == pytest.approx(100 * dice_of(tested, target, whole), abs=1e-5)
    for entry in results["forgetting"]:
        way = ways[entry["method"], tuple(entry["route"])]
        for hop, (travelling, own) in zip(entry["after"], way, strict=True):
            for site in "AB":
                seen = travelling | own.get(site, part_of(start, norm))
                assert hop["dice"][site] == pytest.approx(100 * dice_of(tested, site, seen), abs=1e-5)
    assert {(entry["method"], tuple(entry["route"])) for entry in results["forgetting"]} <= ways.keys()
    assert results["forgetting"]

    weights, card = received(hospitals["A"], STUDY)
    chosen = max((row for row in results["rows"] if row["target"] == "A"), key=lambda row: row["validation_dice"])
    travelling, own = ways[chosen["method"], tuple(chosen["route"])][-1]
    assert digest(weights) == digest(travelling | own["A"])
    assert (card.method, card.own_tensors) == (chosen["method"], len(norm))

    # What travels is, to the last bit, what the plain loop lets travel: no training's batch norm is in it.
    allowed = {"from a site": sent, "to a site": sent | refilled | {digest(start)}}
    for direction, kind, file in messages:
        tensors = safetensors.torch.load(file)
        assert digest(tensors) in allowed[direction], (direction, kind)
        assert direction == "to a site" or not set(tensors) & norm
    assert sum(direction == "from a site" for direction, _, _ in messages) == len(trained)


@pytest.mark.nightly
@pytest.mark.parametrize("when", ["done:4", "inside:6:0.3"])
def test_killed_and_resumed_it_ends_as_if_nothing_had_been(
    hospitals: dict[str, Path], tmp_path: Path, when: str
) -> None:
    forget(hospitals)
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    run_on_grid(STUDY, hospitals, undisturbed)
    kept = {site: kept_at(path) for site, path in hospitals.items()}
    forget(hospitals)
    file = tmp_path / "study.toml"
    file.write_text(study_toml(STUDY), encoding="utf-8")
    named = [f"{name}={path}" for name, path in hospitals.items()]
    command: list[Any] = [sys.executable, "-m", "tests.support.study_process", str(file), str(out), when, *named]
    process = subprocess.run(command, cwd=REPO, capture_output=True, timeout=600, start_new_session=True, check=False)
    assert process.returncode == -9 and not (out / "results.json").exists()
    run_on_grid(STUDY, hospitals, out)
    assert (out / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()
    for folder in ("ledger", "weights"):
        assert {path.name for path in (out / folder).iterdir()} == {
            path.name for path in (undisturbed / folder).iterdir()
        }
    assert {site: kept_at(path) for site, path in hospitals.items()} == kept

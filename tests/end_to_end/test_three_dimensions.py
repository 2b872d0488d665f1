"""V-Net in three dimensions through a route of three hospitals: exact, scored by hand, and the same after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.preprocessing.pipeline import load, prepare
from client.site_config import load_site
from common.config.study import Study, study_toml
from tests.end_to_end.plain_loop import Patient, PlainLoop, digest
from tests.end_to_end.scored_by_hand import matrix
from tests.end_to_end.test_scored_by_hand import assert_as_by_hand
from tests.support.hospitals import REPO, forget_stages, run_on_grid, small_study, write_hospitals

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

ROUTE = ("B", "C", "A")
STUDY: Study = small_study(
    model={"architecture": "VNet", "encoder": "", "dimensions": 3, "depth": 16, "slice_spacing_mm": 1.5},
    training={"epochs": 2, "batch": 2, "slices": "all", "precision": "float32", "leg_minutes": 0.0},
    split={"use_folds": 1},
    methods={"sequential": {"routes": (ROUTE,)}},
)
"""The volumes measure 27 mm, and a box 24."""


class VolumeLoop(PlainLoop):
    """A plain loop that shows one box of each patient."""

    def __init__(self, study: Study, sites: dict[str, Path]) -> None:
        self.study, self.sites = study, sites
        self.patients = {name: dict(self._of_site(path)) for name, path in sites.items()}

    def _of_site(self, path: Path) -> Iterator[tuple[str, Patient]]:
        for record in prepare(load_site(path), self.study.preprocessing).records:
            slices = load(record)
            gland = self._box(slices.mask.astype(np.float32)) >= 0.5
            # A volume in the place of a slice, so that none is without gland.
            yield record.patient, Patient(slices.image, gland.astype(np.float32)[None], slices.native_mask[None])

    def _box(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        model = self.study.model
        box = np.zeros((model.depth, *slices.shape[1:]), np.float32)
        for k, weights in enumerate(matrix(len(slices), 3.0, model.depth, model.slice_spacing_mm)):
            for weight, one in zip(weights, slices, strict=True):
                if weight:
                    box[k] += weight * one
        return box

    def standardised(self, site: str, fold: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes of volumes standardised by all slices of the training patients as they were scanned."""
        train, validation = self.members(site, fold)
        pixels = np.concatenate([patient.image for patient in train]).astype(np.float64)
        mean, std = np.float32(pixels.mean()), np.float32(pixels.std())
        first, second = (
            torch.from_numpy(np.stack([self._box((patient.image - mean) / std) for patient in patients])[:, None])
            for patients in (train, validation)
        )
        return first, second

    def native_dice(self, network: torch.nn.Module, site: str, fold: int) -> float:
        """Left to the scores by hand."""
        return float("nan")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 6, "B": 6, "C": 6})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, sites: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("volumes") / "out"
    run_on_grid(STUDY, sites, folder, keep_weights=True)
    return folder


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return found


def test_the_rows_figures_are_those_of_its_weights_and_the_raw_files(sites: dict[str, Path], out: Path) -> None:
    results = read(out)
    (row,) = results["rows"]
    assert row["route"] == list(ROUTE)
    assert all(sorted(site["train_slices"]) == [2, 3] for site in results["sites"]), "a box of each training patient"
    assert_as_by_hand(STUDY, {name: path.parent / "images" for name, path in sites.items()}, results, out)


def test_every_hop_gives_the_weights_of_a_plain_loop(sites: dict[str, Path], out: Path) -> None:
    loop = VolumeLoop(STUDY, sites)
    weights = loop.start()
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "ledger").glob("*.json")]
    by_site = {record["site"]: record for record in records if record["kind"] == "fine-tune"}
    for site in ROUTE:
        assert by_site[site]["parents"] == [digest(weights)]
        stage = loop.fine_tune(site, 0, weights)
        weights = stage.weights
        assert by_site[site]["weights"] == digest(weights)
        assert by_site[site]["losses"] == stage.losses
        assert by_site[site]["dices"] == pytest.approx(stage.dices, abs=1e-6)
    assert read(out)["rows"][0]["weights"] == digest(weights)


def test_killed_and_resumed_it_ends_as_if_nothing_had_been(sites: dict[str, Path], out: Path, tmp_path: Path) -> None:
    forget_stages(sites, scores=False)
    (tmp_path / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    words = ["-m", "tests.support.study_process", str(tmp_path / "study.toml"), str(tmp_path / "out"), "answer:3"]
    killed = subprocess.run(
        [sys.executable, *words, *(f"{name}={path}" for name, path in sites.items())],
        cwd=REPO,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        start_new_session=True,
    )
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "out" / "results.json").exists()
    run_on_grid(STUDY, sites, tmp_path / "out")
    assert (tmp_path / "out" / "results.json").read_bytes() == (out / "results.json").read_bytes()

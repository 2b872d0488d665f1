"""An ensemble that validation selected arrives at a hospital model by model, and draws what was scored there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.layouts import find
from client.data.splits import split
from client.site_config import load_site
from common.errors import RelayError
from tests.support.commands import relay_here
from tests.support.hospitals import run_on_grid, small_study, write_hospitals
from tests.support.selected import best_row

pytestmark = pytest.mark.slow

STUDY = small_study(
    sites=("A", "B"),
    split={"folds": 2, "test_fraction": 0.4},
    training={"slices": "all", "epochs": 2},
    postprocessing={"clean_up": True},
    methods={"more": ("consensus", "target-folds")},
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, Any], Path]:
    """Two hospitals after a study that has nothing but ensembles."""
    folder = tmp_path_factory.mktemp("federation")
    sites = write_hospitals(folder, {"A": 6, "B": 6}, slices=7)
    results, _ = run_on_grid(STUDY, sites, folder / "out", at_once=2)
    return sites, results, folder


def volume_dice(drawn: np.ndarray, expert: np.ndarray) -> float:
    both = np.count_nonzero(drawn & expert)
    return float(2 * both / (np.count_nonzero(drawn) + np.count_nonzero(expert)))


def received(federation: tuple[dict[str, Path], dict[str, Any], Path], to: Path) -> tuple[Any, list[Path]]:
    """The card and the weights files that hospital A takes away."""
    assert relay_here("site", "receive", federation[0]["A"], "--to", to) == 0
    card = json.loads((to / "model-card.json").read_text(encoding="utf-8"))
    return card, sorted(to.glob("model-*.safetensors"))


def test_the_files_of_an_ensemble_draw_what_the_hospital_was_scored_by(
    federation: tuple[dict[str, Path], dict[str, Any], Path], tmp_path: Path
) -> None:
    sites, results, _ = federation
    card, files = received(federation, tmp_path)
    (row,) = (row for row in results["rows"] if row["weights"] == card["weights"] and row["target"] == "A")
    best = best_row((one for one in results["rows"] if one["target"] == "A"), "validation_dice_volume")
    assert row == best, "selected by validation"
    assert [member["weights"] for member in card["members"]] == row["members"] and len(files) == 2
    site = load_site(sites["A"])
    sources = {source.patient: source for source in find(site).sources}
    part, found = STUDY.split, []
    for name in split(sources, part, site="A").test:
        mask, spread = tmp_path / f"{name}.nrrd", tmp_path / f"{name}-spread.nrrd"
        order = files[::-1] if found else files  # in whatever order they are named
        image = sources[name].image[0]
        words = ("predict", *order, image, "-o", mask, "--uncertainty", spread, "--device", "cpu")
        assert relay_here(*words) == 0
        drawn = sitk.GetArrayFromImage(sitk.ReadImage(str(mask))).astype(bool)
        expert = sitk.GetArrayFromImage(sitk.ReadImage(str(sources[name].mask[0]))) > 0
        found.append(volume_dice(drawn, expert))
        disagreement = sitk.ReadImage(str(spread))
        assert disagreement.GetSize() == sitk.ReadImage(str(image)).GetSize()
        values = sitk.GetArrayFromImage(disagreement)
        assert values.dtype == np.float32 and values.min() >= 0 and 0.01 < values.max() <= 0.5
    assert 100 * np.mean(found) == pytest.approx(row["dice_volume"], abs=1e-5)
    assert f"{row['dice_volume']:.1f}" in (tmp_path / "letter.txt").read_text(encoding="utf-8")
    assert "model-1.safetensors model-2.safetensors" in (tmp_path / "letter.txt").read_text(encoding="utf-8")


def test_what_is_no_whole_ensemble_is_told(
    federation: tuple[dict[str, Path], dict[str, Any], Path], tmp_path: Path
) -> None:
    _, files = received(federation, tmp_path)
    image = find(load_site(federation[0]["A"])).sources[0].image[0]
    with pytest.raises(RelayError, match="2 models together, and 1 of their weights files"):
        relay_here("predict", files[0], image, "-o", tmp_path / "mask.nrrd")
    (tmp_path / "stranger.safetensors").write_bytes(files[1].read_bytes() + b" ")
    with pytest.raises(RelayError, match="does not hold weights that its card is about"):
        relay_here("predict", files[0], tmp_path / "stranger.safetensors", image, "-o", tmp_path / "mask.nrrd")
    assert not (tmp_path / "mask.nrrd").exists()

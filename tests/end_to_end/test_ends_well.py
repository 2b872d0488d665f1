"""The studies that come along end with everything done, on machines with bfloat16 and without, whatever the seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.config.study import Study, load_study
from deploy.cli.simulation import DEMO_PATIENTS
from deploy.docker.three_hospitals import PATIENTS
from deploy.phantom import write_hospitals
from deploy.simulation.simulate import simulate
from tests.support.hospitals import REPO

STUDIES = {"demo": DEMO_PATIENTS, "apart": PATIENTS}
SEEDS = range(1, 11)


@pytest.fixture(scope="module", params=STUDIES)
def hospitals(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, dict[str, Path]]:
    """A study, and its hospitals: their patients are prepared once for all seeds."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    return load_study(REPO / "deploy" / "studies" / f"{name}.toml"), write_hospitals(folder, patients=STUDIES[name])


@pytest.mark.nightly
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_is_there(
    hospitals: tuple[Study, dict[str, Path]], tmp_path: Path, seed: int, precision: str
) -> None:
    """`simulate` raises unless all that was asked for was done, as the command would end with another code than 0."""
    study, sites = hospitals
    training = study.training.model_copy(update={"precision": precision})
    study = study.model_copy(
        update={"seed": seed, "split": study.split.model_copy(update={"seed": seed}), "training": training}
    )
    simulate(study, sites, tmp_path, beside=Path(), quiet=True)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["parked"] == [] and results["rows"]
    alone = [row["dice"] for row in results["rows"] if row["method"] == "baseline"]
    assert min(alone) > 10, "a collapsed model draws nothing, or everything"

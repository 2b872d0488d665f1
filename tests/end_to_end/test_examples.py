"""The studies of `examples/`: each can be read, planned and approved as it stands, and one is run, made small."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from common.config.methods import FederatedConfig
from common.config.study import Study, load_study
from common.config.values import POOLED
from common.plan import grown, plan
from tests.support.hospitals import REPO, run_on_grid, write_hospitals

EXAMPLES = sorted((REPO / "examples" / "studies").glob("*.toml"))
SMALL: dict[str, Any] = {
    "model": {"architecture": "Unet", "encoder": "mobilenet_v2", "encoder_weights": "none"},
    "preprocessing": {"pixels": 32, "spacing_mm": 2.0, "n4": {"enabled": False}},
    "split": {"folds": 2, "use_folds": 1},
    "training": {"epochs": 1, "batch": 16},
}


def methods_of(study: Study) -> set[str]:
    """The methods of a study's rows, its routes grown by the last source that is tried."""
    variant = study.variants[0]
    census = dict.fromkeys((*variant.sites, POOLED), (240,) * variant.split.folds)
    choices: dict[str, tuple[str, ...]] = {}
    while (found := plan(variant, census, choices)).growing:
        choices = grown(variant, found.growing, choices, lambda node: float(len(node.id)))
    return {row.method for row in found.rows}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_read_planned_and_named_on_its_page(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem and study.about
    assert methods_of(study)
    assert f"(studies/{path.name})" in (REPO / "examples" / "README.md").read_text(encoding="utf-8")


def test_there_is_an_example_of_every_method() -> None:
    strategies = set(get_args(FederatedConfig.model_fields["strategy"].annotation))
    shown = set().union(*(methods_of(load_study(path)) for path in EXAMPLES))
    others = {
        "baseline",
        "longer",
        "unadapted",
        "sequential",
        "greedy",
        "halving",
        "cyclic",
        "pooled",
        "pooled-then-target",
    }
    assert shown >= others | strategies | {"fedavg-then-target", "fedprox-then-target"}


@pytest.mark.slow
def test_an_example_runs(tmp_path: Path) -> None:
    (path,) = (path for path in EXAMPLES if path.stem == "apart")
    whole = load_study(path).model_dump()
    (average,) = whole["methods"]["federated"]
    fewer = {
        "longer_baseline": False,
        "forgetting": False,
        "federated": (average | {"rounds": 1, "local_epochs": (1,)},),
    }
    study = Study.model_validate({**whole, **SMALL, "methods": whole["methods"] | fewer})
    sites = write_hospitals(tmp_path, {"A": 4, "B": 4, "C": 4}, slices=5)
    results, _ = run_on_grid(study, sites, tmp_path / "out", at_once=2)
    assert {row["method"] for row in results["rows"]} == methods_of(study)
    assert [row["route"] for row in results["rows"] if row["method"] == "sequential"] == [["B", "A"], ["B", "C", "A"]]
    assert all(row["dice"] is not None for row in results["rows"])

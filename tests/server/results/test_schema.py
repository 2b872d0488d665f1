"""results.json is declared once: what is written is what the schema says, and reading it loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from server.results.reading import read_results
from server.results.schema import Results, dump
from tests.support.hospitals import REPO, small_study
from tests.support.pages import put
from tests.support.plausible import plausible

SCHEMA = json.loads((REPO / "docs" / "reference" / "results.schema.json").read_text(encoding="utf-8"))
PUBLISHED = sorted((REPO / "docs" / "results").glob("*/results.json"))
EVERYTHING: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "unadapted": True,
    "forgetting": True,
    "cyclic": {"laps": 1},
    "sequential": {"routes": "greedy", "max_hops": 2},
    "federated": ({"strategy": "fedavg", "rounds": 2},),
    "pooled": True,
}


def check(results: dict[str, Any]) -> None:
    """Hold results to the published JSON Schema, and to what reading and writing them makes of them."""
    jsonschema.Draft202012Validator(SCHEMA).validate(results)
    assert dump(Results.model_validate(results)) == results


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("written")
    return plausible(small_study(methods=EVERYTHING, repeats=2), folder)


def test_what_is_written_is_what_the_schema_declares(written: dict[str, Any], tmp_path: Path) -> None:
    check(written)
    for part in ("sites", "rows", "spread", "budgets", "forgetting", "grown", "stages"):
        assert written[part], f"no {part}: this study does not show the whole of the schema"
    check(plausible(small_study(methods={"baseline": True, "scored_on": "validation"}), tmp_path))


def test_every_declared_key_is_written_by_some_study(written: dict[str, Any], tmp_path: Path) -> None:
    """Or the schema would promise what no file holds. Figures of zones stand in studies of the zones alone."""
    zoned = plausible(small_study(methods={"baseline": True}, model={"target": "zones"}), tmp_path)
    check(zoned)
    for part, name in (
        ("sites", "Site"), ("rows", "Row"), ("spread", "Spread"), ("budgets", "Budget"), ("forgetting", "Forgetting"),
        ("grown", "Grown"), ("stages", "Stage"),
    ):  # fmt: skip
        plain, more = ({key for entry in of[part] for key in entry} for of in (written, zoned))
        assert plain | more == set(SCHEMA["$defs"][name]["properties"])
        assert not any("zone" in key or key in ("dice_pz", "dice_cg") for key in plain)
    assert set(written) == set(SCHEMA["properties"])


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_results_are_what_the_schema_declares(path: Path) -> None:
    check(json.loads(path.read_text(encoding="utf-8")))


def test_an_undeclared_key_is_found_by_the_schema_and_passed_over_by_the_reader(
    written: dict[str, Any], tmp_path: Path
) -> None:
    spoilt = {**written, "rows": [{**written["rows"][0], "mood": "good"}]}
    with pytest.raises(jsonschema.ValidationError, match="mood"):
        check(spoilt)
    assert read_results(put(tmp_path, spoilt)).rows[0].method == written["rows"][0]["method"]

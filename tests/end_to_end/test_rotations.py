"""A study whose test rotates, on real (tiny) networks: every patient is tested once, by models that never saw it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from client.preprocessing.cohort import gather
from client.preprocessing.pipeline import prepare
from client.site_config import load_site
from common.config.study import Study
from tests.support.hospitals import forget_stages, run_on_grid, small_study, write_hospitals

Json = dict[str, Any]
STUDY: Study = small_study(
    sites=("A", "B"),
    split={"test": "rotate", "test_fraction": 0.5, "folds": 2, "use_folds": 1},
    training={"epochs": 1},
    methods={"baseline": True, "longer_baseline": True, "sequential": {"routes": (("B", "A"),)}},
)
PATIENTS = {"A": 6, "B": 4}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), PATIENTS, slices=5)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, sites: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("rotated") / "out"
    run_on_grid(STUDY, sites, folder, at_once=2)
    return folder


def read(out: Path) -> Json:
    found: Json = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_every_patient_is_tested_once_and_never_by_a_model_that_saw_it(sites: dict[str, Path], out: Path) -> None:
    assert [one.split.rotation for one in STUDY.variants] == [0, 1]
    for name, count in PATIENTS.items():
        site = load_site(sites[name])
        tested: Counter[str] = Counter()
        for variant in STUDY.variants:
            cohort = gather(prepare(site, variant.preprocessing).records, site, variant.split)
            held_out = {record.patient for record in cohort.test()}
            for fold in range(2):
                seen = {record.patient for record in [*cohort.train(fold), *cohort.validation(fold)]}
                assert not held_out & seen
                assert len(held_out | seen) == count
            tested.update(held_out)
            rows = [
                row
                for row in read(out)["rotation_rows"]
                if (row["target"], row["rotation"]) == (name, variant.split.rotation)
            ]
            assert rows
            assert {row["patients"] for row in rows} == {len(held_out)}
        assert set(tested.values()) == {1}
        assert len(tested) == count


@pytest.mark.slow
def test_a_pooled_row_is_what_its_patients_give(out: Path) -> None:
    results = read(out)
    assert {(row["method"], row["target"]) for row in results["rows"]} == {
        ("baseline", "A"), ("baseline", "B"), ("longer", "A"), ("longer", "B"), ("sequential", "A"),
    }  # fmt: skip
    for row in [*results["rows"], *results["chosen"]]:
        assert len(row["case_dice"]) == row["patients"] == PATIENTS[row["target"]]
        slices = sum(row["case_slices"].values())
        dice = sum(row["case_dice"][case] * row["case_slices"][case] for case in row["case_dice"]) / slices
        assert row["slices"] == slices
        assert row["dice"] == pytest.approx(dice, abs=1e-4)
        assert row["dice_volume"] == pytest.approx(sum(row["case_dice_volume"].values()) / row["patients"], abs=1e-4)
        assert (row["ci95"] is not None) == (row["patients"] >= 6)
    for row in results["rows"]:
        parts = [
            one
            for one in results["rotation_rows"]
            if one["selected"] and (one["method"], one["target"]) == (row["method"], row["target"])
        ]
        assert len(parts) == 2
        assert row["case_dice"] == {case: dice for one in parts for case, dice in one["case_dice"].items()}


@pytest.mark.slow
def test_a_hospital_gets_the_model_of_the_first_rotation_and_the_card_says_so(
    sites: dict[str, Path], out: Path
) -> None:
    first = [row for row in read(out)["rotation_rows"] if row["rotation"] == 0]
    for name, path in sites.items():
        folder = load_site(path).private() / "received" / STUDY.variants[0].digest
        card = json.loads((folder / "selected.json").read_text(encoding="utf-8"))
        assert card["weights"] in {row["weights"] for row in first if row["target"] == name and row["selected"]}
        assert (card["rotation"], card["rotations"]) == (0, 2)
        received = {path.name for path in (load_site(path).private() / "received").iterdir()}
        assert received == {STUDY.variants[0].digest}


@pytest.mark.slow
def test_a_study_that_lost_half_of_its_stages_ends_the_same(sites: dict[str, Path], out: Path) -> None:
    before = (out / "results.json").read_bytes()
    records = sorted((out / "ledger").glob("*.json"))
    for path in records[::2]:
        path.unlink()
    (out / "results.json").unlink()
    # The scores stay: a site that lost some of them takes no weights, for it cannot tell which were selected.
    forget_stages(sites, scores=False)
    run_on_grid(STUDY, sites, out, at_once=2)
    assert (out / "results.json").read_bytes() == before

"""From a study to a mask: weights are delivered, received and used, and draw exactly what the site was scored by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.layouts import find
from client.data.site_key import site_key
from client.evaluation import score_store
from client.evaluation.scoring import case_numbers
from client.preprocessing.cohort import gather
from client.preprocessing.pipeline import fingerprint, prepare
from client.site_config import load_site
from common.plan import plan
from common.plan.graph import Evaluate
from common.plan.stage_key import ExecutionEnvironment, stage_key
from tests.support.commands import relay_here
from tests.support.hospitals import patient, run_on_grid, small_study, write_dicom_patient, write_hospitals, write_site

pytestmark = pytest.mark.slow

STUDY = small_study(
    name="two-hospitals",
    licence="CC BY 4.0",
    sites=("A", "B"),
    preprocessing={"pixels": 32, "spacing_mm": 1.5, "n4": {"shrink": 2, "iterations": (4, 3)}},
    split={"folds": 2, "use_folds": 1, "test_fraction": 0.4},
    training={"slices": "all"},
    postprocessing={"clean_up": True},
    methods={
        "baseline": True,
        "longer_baseline": True,
        "sequential": {"routes": (("B", "A"),)},
        "federated": ({"rounds": 1, "then_target": False},),
        "forgetting": True,
    },
)


def relay(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path, dict[str, Any]]:
    """Two hospitals after a study; A keeps DICOM, B NIfTI."""
    folder = tmp_path_factory.mktemp("federation")
    for k in range(10):
        write_dicom_patient(folder / "A", f"Patient {k:02}", *patient(k))
    sites = {"A": write_site(folder / "A", "A", layout="nci-isbi", masks="labels")}
    sites |= write_hospitals(folder, {"B": 6}, slices=7)
    results, _ = run_on_grid(STUDY, sites, folder / "out", at_once=2)
    return sites, folder / "out", results


def rows_of(results: dict[str, Any], site: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["target"] == site]


def recorded(
    sites: dict[str, Path], results: dict[str, Any], name: str, card: dict[str, Any]
) -> dict[str, tuple[float, float]]:
    """Each test patient's slice Dice and volume Dice, as the site kept them for the card's weights, by name."""
    site = load_site(sites[name])
    records = prepare(site, STUDY.preprocessing).records
    cohort = gather(records, site, STUDY.split)
    census = {entry["name"]: tuple(entry["train_slices"]) for entry in results["sites"]}
    (row,) = (
        row
        for row in plan(STUDY, census).rows
        if (row.target, row.method, row.route, row.fold) == (name, card["method"], tuple(card["route"]), card["fold"])
    )
    environment = ExecutionEnvironment(
        fingerprint(records, site_key(site)), card["torch"], card["device"], card["precision"]
    )
    node = Evaluate(name, row.fold, "test", row.model)
    kept = score_store.kept(site, stage_key(node, study=STUDY, weights=card["weights"], environment=environment))
    assert kept is not None
    numbers = {number: patient for patient, number in case_numbers(site, cohort).items()}
    return {numbers[entry.number]: (entry.dice, entry.dice_volume) for entry in kept.patients}


def slice_dice(drawn: np.ndarray, expert: np.ndarray) -> float:
    """Mean over the slices with more than 200 pixels of gland, by counting."""
    found = []
    for k in range(len(expert)):
        if np.count_nonzero(expert[k]) > 200:
            both = np.count_nonzero(drawn[k] & expert[k])
            found.append(2 * both / (np.count_nonzero(drawn[k]) + np.count_nonzero(expert[k])))
    return float(np.mean(found))


def volume_dice(drawn: np.ndarray, expert: np.ndarray) -> float:
    """Over all slices, by counting."""
    both = np.count_nonzero(drawn & expert)
    return float(2 * both / (np.count_nonzero(drawn) + np.count_nonzero(expert)))


def test_each_site_has_the_weights_that_validation_chose(
    federation: tuple[dict[str, Path], Path, dict[str, Any]], tmp_path: Path
) -> None:
    sites, out, results = federation
    delivered = json.loads((out / "run.json").read_text(encoding="utf-8"))["delivered"]
    for name, site in sites.items():
        done = relay("site", "receive", site, "--to", tmp_path / name, "--json")
        assert done.returncode == 0, done.stderr
        (outcome,) = json.loads(done.stdout)["received"]
        best = max(rows_of(results, name), key=lambda row: row["validation_dice_volume"])
        assert outcome["selected"]["weights"] == best["weights"] == delivered[name]["selected"]
        assert outcome["selected"]["checked"], "by the site's own record"
        assert outcome["selected"]["validation_dice"] == pytest.approx(best["validation_dice_volume"], abs=1e-6)
        scores = outcome["selected"]["scores"]
        for mine, theirs in (("dice", "dice"), ("iou", "iou"), ("dice_volume", "dice_volume")):
            assert scores[mine]["mean"] == pytest.approx(best[theirs], abs=1e-5)
        for distance in ("hd95_mm", "assd_mm"):
            assert scores[distance]["mean"] == pytest.approx(best[distance], abs=1e-3)
        alone = max(
            (row for row in rows_of(results, name) if row["method"] in ("baseline", "longer")),
            key=lambda row: row["validation_dice_volume"],
        )
        if best["method"] not in ("baseline", "longer"):
            assert outcome["own"]["weights"] == alone["weights"] == delivered[name]["own"]
        selected = {(row["method"], row["dice_volume"]) for row in rows_of(results, name) if row["selected"]}
        for reference in outcome["selected"]["references"]:
            (expected,) = {dice for method, dice in selected if method == reference["method"]}
            assert reference["scores"]["dice_volume"]["mean"] == pytest.approx(expected, abs=1e-5)
            if reference["ahead"]:
                assert reference["ahead"]["mean"] == pytest.approx(best["dice_volume"] - expected, abs=1e-5)


def test_predicting_draws_what_the_site_was_scored_by(
    federation: tuple[dict[str, Path], Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On every test patient's own files, from DICOM as from NIfTI, to the last voxel that Dice can see."""
    sites, _, results = federation
    for name, site in sites.items():
        folder = tmp_path / name
        assert relay("site", "receive", site, "--to", folder).returncode == 0
        card = json.loads((folder / "model-card.json").read_text(encoding="utf-8"))
        expected = recorded(sites, results, name, card)
        (row,) = (row for row in rows_of(results, name) if row["weights"] == card["weights"] and row["selected"])
        assert card["cleaned"] == row["cleaned"], "cleaned up after as it was scored"
        assert len(expected) == card["scores"]["dice"]["patients"] >= 2
        sources = {source.patient: source for source in find(load_site(site)).sources}
        for person, (dice, volume) in expected.items():
            source = sources[person]
            scan = source.image[0].parent if name == "A" else source.image[0]
            mask = folder / f"{person}.nrrd"
            assert relay_here("predict", folder / "model.safetensors", scan, "-o", mask, "--device", "cpu") == 0
            assert capsys.readouterr().out.startswith(f"{mask}: ")
            drawn = sitk.GetArrayFromImage(sitk.ReadImage(str(mask))).astype(bool)
            expert = sitk.GetArrayFromImage(sitk.ReadImage(str(source.mask[0]))) > 0
            assert (slice_dice(drawn, expert), volume_dice(drawn, expert)) == (dice, volume)
        mean = card["scores"]["dice_volume"]["mean"]
        assert mean == pytest.approx(100 * np.mean([volume for _, volume in expected.values()])), "as the letter says"
        assert f"{mean:.1f}" in (folder / "letter.txt").read_text(encoding="utf-8")


def test_a_segmentation_comes_with_the_mask(
    federation: tuple[dict[str, Path], Path, dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("highdicom", reason="highdicom is an extra: pip install 'prostate-relay[dicom-seg]'")
    import pydicom

    sites, _, _ = federation
    assert relay("site", "receive", sites["A"], "--to", tmp_path).returncode == 0
    scan = find(load_site(sites["A"])).sources[3].image[0].parent
    out, seg = tmp_path / "mask.nii.gz", tmp_path / "mask.dcm"
    done = relay("predict", tmp_path / "model.safetensors", scan, "-o", out, "--dicom-seg", seg)
    assert done.returncode == 0, done.stderr
    assert "the model sees 48 × 48 mm" in done.stderr
    assert str(seg) in done.stdout
    read, mask = pydicom.dcmread(seg), sitk.ReadImage(str(out))
    voxels = sitk.GetArrayFromImage(mask)
    assert voxels.any() and read.pixel_array.shape == voxels.shape
    for frame, item in zip(read.pixel_array, read.PerFrameFunctionalGroupsSequence, strict=True):
        place = [float(value) for value in item.PlanePositionSequence[0].ImagePositionPatient]
        column, row, k = mask.TransformPhysicalPointToIndex(place)
        assert (column, row) == (0, 0) and np.array_equal(frame, voxels[k])


def test_letter_and_cards_lie_beside_the_weights_and_name_no_patient(
    federation: tuple[dict[str, Path], Path, dict[str, Any]], tmp_path: Path
) -> None:
    sites, _, _ = federation
    for name, site in sites.items():
        folder = tmp_path / name
        done = relay("site", "receive", site, "--to", folder)
        assert done.returncode == 0 and done.stderr == ""
        names = {path.name for path in folder.iterdir()}
        assert {"letter.html", "letter.txt", "model.safetensors", "model-card.md", "model-card.json"} <= names
        assert names - {"own-model.safetensors", "own-model-card.md", "own-model-card.json"} == {
            "letter.html",
            "letter.txt",
            "model.safetensors",
            "model-card.md",
            "model-card.json",
        }
        for path in folder.iterdir():
            assert str(path) in done.stdout.splitlines()
            if path.suffix != ".safetensors":
                told = path.read_text(encoding="utf-8")
                assert "Patient 0" not in told and "Case0" not in told and str(site.parent) not in told
        letter = (folder / "letter.txt").read_text(encoding="utf-8")
        assert ("Keep your own model" in letter) != ("brought hospital" in letter)
        assert "CC BY 4.0" in (folder / "model-card.md").read_text(encoding="utf-8")


def test_a_study_run_again_leaves_what_was_received_as_it_was(
    federation: tuple[dict[str, Path], Path, dict[str, Any]],
) -> None:
    sites, out, results = federation
    folders = [load_site(site).folder / "received" for site in sites.values()]
    before = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    again, events = run_on_grid(STUDY, sites, out)
    assert again == json.loads(json.dumps(results))
    assert sorted(event.site for event in events if event.kind == "delivered") == ["A", "B"]
    assert {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()} == before

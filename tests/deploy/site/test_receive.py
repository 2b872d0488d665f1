"""`relay site receive` and `relay predict`, as a person calls them; one sentence for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from client.delivery.model_card import Figure
from client.delivery.store import Arrival
from client.site_config import load_site
from common.config.model import ModelConfig
from common.config.study import N4Config, PreprocessingConfig
from common.digest import digest_of
from common.errors import RelayError
from common.model.network import build
from common.model.weights import Weights, serialised
from tests.deploy.cli.test_program import refused, relay
from tests.support.cards import card, outcome
from tests.support.commands import relay_here
from tests.support.hospitals import patient, write_pair, write_site
from tests.support.layout_files import truth, write_series

SMALL = ModelConfig(architecture="Unet", encoder="mobilenet_v2", encoder_weights="none")
GRID = PreprocessingConfig(pixels=32, spacing_mm=2.0, n4=N4Config(enabled=False))


@pytest.fixture(scope="module")
def models() -> list[Weights]:
    torch.manual_seed(0)
    return [build(SMALL).state_dict() for _ in range(2)]


def arrive(site: Path, models: list[Weights], *, study: str = "three-hospitals", digest: str = "a" * 64) -> None:
    """Put into the site's private folder what a delivery leaves there."""
    made = outcome(
        Figure(mean=0.3, low=-1.4, high=1.9, patients=6),
        (-1.4, -0.2, 0.1, 0.4, 1.0, 1.9),
        study=study,
        study_digest=digest,
    )
    assert made.own is not None
    digests = [digest_of(serialised(weights)) for weights in models]
    changed = made.selected.card.references[:-1] + (
        made.selected.card.references[-1].model_copy(update={"weights": digests[1]}),
    )
    folder = load_site(site).private() / "received" / digest
    folder.mkdir(parents=True)
    arrivals: dict[str, Arrival] = {"selected": made.selected, "own": made.own}
    for (role, arrival), weights, own_digest in zip(arrivals.items(), models, digests, strict=True):
        changes = {"weights": own_digest, "model": SMALL, "preprocessing": GRID, "references": changed}
        (folder / f"{role}.json").write_text(
            arrival.card.model_copy(update=changes | {"study": study, "study_digest": digest}).model_dump_json()
        )
        (folder / f"{role}.safetensors").write_bytes(serialised(weights))
        (folder / f"{role}.patients.json").write_text(json.dumps(dict(arrival.differences)))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "A", "A")


def test_nothing_has_arrived_yet(site: Path) -> None:
    assert "Nothing has arrived at site A yet" in refused("site", "receive", site)


def test_without_a_folder_it_lists_and_writes_nothing(site: Path, models: list[Weights], tmp_path: Path) -> None:
    arrive(site, models)
    before = sorted(tmp_path.rglob("*"))
    done = relay("site", "receive", site, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    first, own, selected = done.stdout.splitlines()
    assert first.startswith("three-hospitals, 2026-05-04, aaaaaaaa: Keep your own model")
    assert "own-model.safetensors" in own and "model.safetensors" in selected
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_what_arrived_is_written_where_the_user_says(site: Path, models: list[Weights], tmp_path: Path) -> None:
    arrive(site, models)
    for _ in range(2):  # the second time over the first
        done = relay("site", "receive", site, "--to", tmp_path / "new" / "folder")
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "new" / "folder"
    assert (folder / "model.safetensors").read_bytes() == serialised(models[0])
    assert (folder / "own-model.safetensors").read_bytes() == serialised(models[1])
    assert {str(path) for path in folder.iterdir()} <= set(done.stdout.splitlines())
    as_json = json.loads(relay("site", "receive", site, "--json").stdout)
    assert as_json["received"][0]["verdict"] == "not-shown" and as_json["written"] == []
    (tmp_path / "file").write_text("x")
    assert "give another folder with --to" in refused("site", "receive", site, "--to", tmp_path / "file")


@pytest.mark.slow
def test_of_several_studies_the_user_says_which(site: Path, models: list[Weights], tmp_path: Path) -> None:
    arrive(site, models)
    arrive(site, models, study="later", digest="e" * 64)
    listed = relay("site", "receive", site).stdout
    assert "three-hospitals" in listed and "later" in listed
    told = refused("site", "receive", site, "--to", tmp_path / "out")
    assert "2 studies have ended here" in told and "--study" in told and not (tmp_path / "out").exists()
    for name in ("later", "eeee"):
        assert relay("site", "receive", site, "--to", tmp_path / name, "--study", name).returncode == 0
        card_ = json.loads((tmp_path / name / "model-card.json").read_text())
        assert card_["study"] == "later"
    assert 'Nothing of a study "other"' in refused("site", "receive", site, "--study", "other")


def test_weights_that_were_changed_are_not_handed_out(site: Path, models: list[Weights], tmp_path: Path) -> None:
    arrive(site, models)
    (file,) = (load_site(site).folder / "received").rglob("selected.safetensors")
    file.write_bytes(serialised(models[1]))
    assert "is not what its card says" in refused("site", "receive", site, "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_receiving_needs_no_torch(site: Path, models: list[Weights], tmp_path: Path) -> None:
    """A list and a letter come at once."""
    arrive(site, models)
    words = ["site", "receive", str(site), "--to", str(tmp_path / "out")]
    heavy = "{'torch', 'flwr', 'scipy', 'monai'}"
    code = f"import sys; from deploy.cli import main; main({words!r}); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# -- predict ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handed_out(models: list[Weights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handed out")
    (folder / "model.safetensors").write_bytes(serialised(models[0]))
    own = card(weights=digest_of(serialised(models[0])), model=SMALL, preprocessing=GRID)
    (folder / "model-card.json").write_text(own.model_dump_json())
    write_pair(folder, "scan", *patient(3, slices=5))
    write_series(folder / "series", truth()[0])
    return folder


@pytest.mark.slow
def test_predict_tells_what_is_wrong_before_it_works(handed_out: Path, tmp_path: Path) -> None:
    model, scan, out = handed_out / "model.safetensors", handed_out / "scan.nii.gz", tmp_path / "out.nii.gz"
    (tmp_path / "lonely.safetensors").write_bytes(model.read_bytes())
    before = scan.read_bytes()
    for sentence, words in (
        ("use .nii.gz", (model, scan, "-o", tmp_path / "out.png")),
        ("is no DICOM series", (model, scan, "-o", out, "--dicom-seg", tmp_path / "seg.dcm")),
        ("say where it is with --card", (model, scan, "-o", out, "--card", tmp_path / "none.json")),
        ("say where it is with --card", (tmp_path / "lonely.safetensors", scan, "-o", out)),
        ("There is no file or folder", (model, tmp_path / "none", "-o", out)),
        ("is what is read", (model, scan, "-o", scan)),
    ):
        with pytest.raises(RelayError, match=sentence):
            relay_here("predict", *words)
    assert "There is no file or folder" in refused("predict", model, tmp_path / "none", "-o", out)
    assert scan.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lonely.safetensors"]


def test_predict_takes_a_card_from_elsewhere(
    handed_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.safetensors").write_bytes((handed_out / "model.safetensors").read_bytes())
    words = ["predict", tmp_path / "w.safetensors", handed_out / "scan.nii.gz", "-o", tmp_path / "m.mha"]
    assert relay_here(*words, "--card", handed_out / "model-card.json", "--device", "cpu") == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path / 'm.mha'}: ") and " ml in " in told


def test_predict_help_and_wrong_calls() -> None:
    done = relay("predict", "--help")
    assert done.returncode == 0 and "not a medical device" in " ".join(done.stdout.split())
    assert relay("predict", "x").returncode == 2
    assert relay("site", "receive").returncode == 2

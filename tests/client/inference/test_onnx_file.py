"""A model as an ONNX file gives the logits that it gives here, and says what an image goes through before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from client.delivery.model_card import Card, Member
from client.inference import onnx_file
from client.inference.onnx_file import write_onnx
from client.preprocessing.pipeline import load, prepare
from client.site_config import load_site
from common.config.model import ModelConfig
from common.config.study import N4Config, PreprocessingConfig
from common.digest import digest_of
from common.errors import RelayError
from common.model.network import build
from common.model.weights import serialised
from common.networks.registry import NETWORKS
from tests.support.cards import card
from tests.support.commands import relay_here
from tests.support.hospitals import write_hospitals

GRID = PreprocessingConfig(pixels=64, spacing_mm=1.0, n4=N4Config(enabled=False))
UNET = ModelConfig(architecture="Unet", encoder="mobilenet_v2", encoder_weights="none")


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """A synthetic patient's slices on the grid: (slices, pixels, pixels)."""
    site = load_site(write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 1}, slices=17)["A"])
    return load(prepare(site, GRID).records[0]).image


def written(folder: Path, model: ModelConfig, **facts: Any) -> tuple[Path, Card, torch.nn.Module]:
    """A network's weights in a file, their card beside it, and the network itself."""
    torch.manual_seed(3)
    network = build(model)
    with torch.no_grad():
        for name, buffer in network.named_buffers():  # as after a training
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    content = serialised(network.state_dict())
    (folder / "model.safetensors").write_bytes(content)
    facts = {"preprocessing": GRID, "mean": 100.0, "std": 50.0} | facts
    about = card(model=model, weights=digest_of(content), **facts)
    (folder / "model-card.json").write_text(about.model_dump_json(), encoding="utf-8")
    return folder / "model.safetensors", about, network.eval()


def logits_of(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": images})
    result: NDArray[np.float32] = found
    return result


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.slow
def test_onnxruntime_gives_the_networks_logits_on_a_patients_slices(
    tmp_path: Path, slices: NDArray[np.float32]
) -> None:
    weights, about, network = written(tmp_path, UNET)
    write_onnx(weights, about, tmp_path / "model.onnx")
    images = ((slices - 100.0) / 50.0)[:, None].astype(np.float32)
    assert len(images) == 17
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    found = logits_of(tmp_path / "model.onnx", images)
    assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(logits_of(tmp_path / "model.onnx", images[:1]) - expected[:1]).max() < 1e-4 * np.abs(expected).max()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-card.json", "model.onnx", "model.safetensors"]


@pytest.mark.slow
def test_the_file_says_what_an_image_goes_through(tmp_path: Path) -> None:
    weights, about, _ = written(tmp_path, UNET)
    write_onnx(weights, about, tmp_path / "model.onnx")
    said = metadata(tmp_path / "model.onnx")
    assert Card.model_validate_json(said["relay.card"]) == about
    assert json.loads(said["relay.standard"]) == {"mean": 100.0, "std": 50.0}
    assert "64 x 64 pixels at 1 mm" in said["relay.input"] and "less 100, divided by 50" in said["relay.input"]
    assert "N4" not in said["relay.input"] and "sigmoid" in said["relay.output"]
    model = onnx.load(tmp_path / "model.onnx")
    assert model.producer_name == "relay" and "not a medical device" in model.doc_string
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [onnx_file.OPSET]
    by_volume = about.model_copy(
        update={"preprocessing": GRID.model_copy(update={"standardise": "volume", "n4": N4Config()})}
    )
    write_onnx(weights, by_volume, tmp_path / "volume.onnx")
    said = metadata(tmp_path / "volume.onnx")
    assert json.loads(said["relay.standard"]) is None
    assert "(N4)" in said["relay.input"] and "the volume's own mean" in said["relay.input"]


def test_each_model_of_an_ensemble_has_its_own_standard(tmp_path: Path) -> None:
    weights, about, _ = written(tmp_path, UNET)
    other = Member(weights="f" * 64, mean=7.0, std=3.0)
    members = (other, Member(weights=about.weights, mean=90.0, std=40.0))
    ensemble = about.model_copy(update={"members": members, "weights": "e" * 64})
    write_onnx(weights, ensemble, tmp_path / "model.onnx")
    assert json.loads(metadata(tmp_path / "model.onnx")["relay.standard"]) == {"mean": 90.0, "std": 40.0}


def test_a_network_without_a_form_in_onnx_is_refused_in_a_sentence_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights, about, _ = written(tmp_path, UNET.model_copy(update={"architecture": "PSPNet"}))
    with pytest.raises(RelayError, match="PSPNet has no form in ONNX at 64 pixels") as error:
        write_onnx(weights, about, tmp_path / "model.onnx")
    assert "\n" not in str(error.value) and capfd.readouterr().out == ""
    assert not (tmp_path / "model.onnx").exists()


EVERY = [
    pytest.param(
        {"architecture": name}
        | ({"encoder": "resnet18", "encoder_weights": "none"} if network.encoders is None else {})
        | {"side": 192 if name in ("PSPNet", "UPerNet") else max(64, network.smallest_side)},
        marks=pytest.mark.nightly,
    )
    for name, network in NETWORKS.items()
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"architecture": "UnetPlusPlus", "encoder": "efficientnet-b0", "encoder_weights": "none"},
        {"architecture": "Unet", "encoder": "tu-tf_efficientnet_lite0", "encoder_weights": "none"},
        {"architecture": "DeepLabV3Plus", "encoder": "resnet18", "encoder_weights": "none"},
        {"architecture": "BasicUNet"},
        {"architecture": "MSNet"},
        {"architecture": "VNet", "dimensions": 3, "depth": 16, "slice_spacing_mm": 3.0},
        {"architecture": "Unet", "encoder": "mobilenet_v2", "encoder_weights": "none", "target": "zones"},
        *EVERY,
    ],
    ids=lambda model: "-".join(map(str, list(model.values())[:2])),
)
def test_networks_of_every_kind_give_their_logits(model: dict[str, Any], tmp_path: Path) -> None:
    side = model.get("side", 64)
    made = ModelConfig.model_validate({key: value for key, value in model.items() if key != "side"})
    weights, about, network = written(tmp_path, made, preprocessing=GRID.model_copy(update={"pixels": side}))
    write_onnx(weights, about, tmp_path / "model.onnx")
    said = metadata(tmp_path / "model.onnx")
    assert ("a box holds 16 slices" in said["relay.input"]) is (made.dimensions == 3)
    assert ("channels are a slice and its neighbours" in said["relay.input"]) is (made.neighbours > 0)
    assert ("softmax" in said["relay.output"]) is (made.target == "zones")
    shape = (3, 1, made.depth, side, side) if made.dimensions == 3 else (3, 2 * made.neighbours + 1, side, side)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(logits_of(tmp_path / "model.onnx", images) - expected).max() < 1e-4 * np.abs(expected).max()


def test_what_cannot_be_written_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, about, _ = written(tmp_path, UNET)
    with pytest.raises(RelayError, match="cannot be written .* give another path"):
        write_onnx(weights, about, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(RelayError, match="does not hold the weights"):
        write_onnx(weights, about.model_copy(update={"weights": "a" * 64}), tmp_path / "model.onnx")
    with pytest.raises(RelayError, match="Say what to write"):
        relay_here("export", weights)
    with pytest.raises(RelayError, match="is what is read"):
        relay_here("export", weights, "--onnx", weights)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RelayError, match=r"prostate-relay\[onnx\]"):
        relay_here("export", weights, "--onnx", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_the_command_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, _, _ = written(tmp_path, UNET)
    assert relay_here("export", weights, "--onnx", tmp_path / "model.onnx") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx").graph.input[0].name == "image"

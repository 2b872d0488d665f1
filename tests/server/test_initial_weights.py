"""The study's first weights: seeded, or with an encoder's pretrained ones, told in one sentence where not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from common.config.study import Study
from common.digest import digest_of
from common.errors import RelayError
from common.model.network import build
from common.model.weights import Weights, check_fit, save, serialised
from common.networks.smp import segmentation_models
from server.initial_weights import source_digest, start_weights
from tests.support.hospitals import REAL_DATA

FOLDED = REAL_DATA / "weights" / "mobilenet_v2_imagenet.pth"
IMAGENET = REAL_DATA / "weights" / "tu-tf_efficientnet_lite0_imagenet.pth"
LITE = "tu-tf_efficientnet_lite0"
absent = [path for path in (FOLDED, IMAGENET) if not path.exists()]
real = pytest.mark.skipif(bool(absent), reason=f"no real ImageNet weights here: {', '.join(map(str, absent))} absent")
pytestmark = pytest.mark.usefixtures("one_thread")


def study_of(source: str, *, seed: int = 1, encoder: str = "mobilenet_v2") -> Study:
    model = {"architecture": "Unet", "encoder": encoder, "encoder_weights": source}
    return Study.model_validate({"sites": ("A", "B"), "seed": seed, "model": model})


def digest(weights: Weights) -> str:
    return digest_of(serialised(weights))


def images() -> torch.Tensor:
    """Smooth grey images, (2, 1, 64, 64)."""
    coarse = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, size=64, mode="bicubic")


def test_each_start_of_a_study_has_first_weights_of_its_own(tmp_path: Path) -> None:
    """The decoder is drawn from the same seed whatever the encoder's first weights are."""
    study = Study.model_validate(
        {
            "sites": ("A", "B"),
            "model": {"architecture": "Unet", "encoder": "resnet18"},
            "models": {"encoder_weights": ("first.pth", "none")},
        }
    )
    encoder = {name: torch.full_like(t, 0.5) for name, t in start_weights(study.variants[1], tmp_path).items()}
    stem = "encoder."
    torch.save({n.removeprefix(stem): t for n, t in encoder.items() if n.startswith(stem)}, tmp_path / "first.pth")
    given, drawn = (start_weights(variant, tmp_path) for variant in study.variants)
    assert all(torch.equal(given[name], drawn[name]) for name in given if not name.startswith(stem))
    assert torch.equal(given["encoder.layer1.0.conv1.weight"], encoder["encoder.layer1.0.conv1.weight"])
    assert not torch.equal(given["encoder.layer1.0.conv1.weight"], drawn["encoder.layer1.0.conv1.weight"])


def test_without_a_file_the_seed_alone_decides(tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = start_weights(study_of("none"), tmp_path)
    torch.manual_seed(6)
    torch.randn(100)
    assert digest(start_weights(study_of("none"), tmp_path)) == digest(first)
    assert digest(start_weights(study_of("none", seed=2), tmp_path)) != digest(first)
    check_fit(first, study_of("none").model)
    assert source_digest(study_of("none"), tmp_path) == ""


def a_file(folder: Path, change: Callable[[Weights], Any] = dict, *, encoder: str = "mobilenet_v2") -> str:
    """An encoder's state_dict as torch saves it; returns the file's name."""
    torch.manual_seed(9)
    network = segmentation_models().encoders.get_encoder(encoder, in_channels=3, weights=None)
    trained = {
        name: torch.rand_like(tensor) + 0.1 if name.endswith(("running_mean", "running_var")) else tensor
        for name, tensor in network.state_dict().items()
    }
    torch.save(change(trained), folder / "encoder.pth")
    return "encoder.pth"


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "prefix", "safetensors"])
def test_a_file_of_the_encoder_is_taken_whatever_it_is_wrapped_in(tmp_path: Path, wrap: str) -> None:
    plain = torch.load(tmp_path / a_file(tmp_path), weights_only=True)
    name = "encoder.pth"
    if wrap == "state_dict":
        torch.save({"state_dict": plain, "epoch": 3}, tmp_path / name)
    elif wrap == "prefix":
        torch.save({f"encoder.{key}": tensor for key, tensor in plain.items()}, tmp_path / name)
    elif wrap == "safetensors":
        name = f"{save(plain, tmp_path)}.safetensors"
    start = start_weights(study_of(name), tmp_path)
    check_fit(start, study_of(name).model)
    for key, tensor in plain.items():
        expected = tensor.sum(1, keepdim=True) if key == "features.0.0.weight" else tensor
        assert torch.equal(start[f"encoder.{key}"], expected), key
    drawn = start_weights(study_of("none"), tmp_path)
    others = [key for key in drawn if not key.startswith("encoder.")]
    assert others and all(torch.equal(start[key], drawn[key]) for key in others)


def test_a_changed_file_is_another_start(tmp_path: Path) -> None:
    before = source_digest(study_of(a_file(tmp_path)), tmp_path)
    a_file(tmp_path, lambda tensors: {key: tensor + 1 for key, tensor in tensors.items()})
    assert source_digest(study_of("encoder.pth"), tmp_path) != before


def sentence(study: Study, beside: Path) -> str:
    with pytest.raises(RelayError) as error:
        start_weights(study, beside)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.slow
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path) -> None:
    def told(name: str, encoder: str = "mobilenet_v2") -> str:
        return sentence(study_of(name, encoder=encoder), tmp_path)

    assert "none.pth cannot be read (No such file or directory)" in told("none.pth")
    assert "cannot be read (Is a directory)" in told("")
    a_file(tmp_path)
    assert "holds no weights of the encoder resnet18: " in told("encoder.pth", "resnet18")
    a_file(tmp_path, encoder="resnet50")
    assert "holds no weights of the encoder resnet18: " in told("encoder.pth", "resnet18")
    a_file(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("features.17.")})
    assert "features.17.conv.0.0.weight is missing" in told("encoder.pth")
    a_file(tmp_path, lambda tensors: tensors | {"features.18.0.weight": torch.ones(3, 3, 1, 1)})
    assert "features.18.0.weight has the shape (3, 3, 1, 1), and (1280, 320, 1, 1) is needed" in told("encoder.pth")
    a_file(tmp_path, lambda tensors: tensors | {"features.20.weight": torch.ones(3), "features.21.bias": torch.ones(3)})
    assert "features.20.weight is unexpected, and 1 more." in told("encoder.pth")
    a_file(tmp_path, lambda tensors: tensors | {"classifier.1.weight": torch.ones(3)})
    start_weights(study_of("encoder.pth"), tmp_path)  # a classifier's head is left out
    a_file(tmp_path, lambda tensors: [1, 2, 3])
    assert "holds no table of tensors" in told("encoder.pth")
    a_file(tmp_path, lambda tensors: {"a": "b"})
    assert "holds no table of tensors" in told("encoder.pth")
    for name, content in {
        "a.pth": b"",
        "b.pth": b"Smith",
        "c.pth": b"PK\x03\x04",
        "d.safetensors": b"\x08\0\0",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert f"{name} holds no weights that can be read" in told(name)
    whole = (tmp_path / a_file(tmp_path)).read_bytes()
    (tmp_path / "torn.pth").write_bytes(whole[: len(whole) // 2])
    assert "torn.pth holds no weights that can be read" in told("torn.pth")


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('code from a weights file ran')",))


def test_a_file_never_runs_code(tmp_path: Path) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    assert "holds no weights that can be read" in sentence(study_of("evil.pth"), tmp_path)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    a_file(tmp_path, lambda tensors: tensors | {"features.18.0.weight": torch.full((1280, 320, 1, 1), torch.nan)})
    assert "not finite" in sentence(study_of("encoder.pth"), tmp_path)


def test_without_a_network_imagenet_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it would try again for half a minute
    text = sentence(study_of("imagenet"), tmp_path)
    assert text.startswith("The ImageNet weights of mobilenet_v2 cannot be fetched (")
    assert 'set it to "none"' in text


def sums_of_colours(tensors: Weights) -> Weights:
    return {
        key: tensor.sum(1, keepdim=True) if tensor.dim() == 4 and tensor.shape[1] == 3 else tensor
        for key, tensor in tensors.items()
    }


@real
def test_a_real_imagenet_encoder_is_taken_tensor_by_tensor(tmp_path: Path) -> None:
    start = start_weights(study_of(str(IMAGENET), encoder=LITE), tmp_path)
    given = sums_of_colours(torch.load(IMAGENET, weights_only=True))
    assert {key.removeprefix("encoder.") for key in start if key.startswith("encoder.")} == set(given)
    for key, tensor in given.items():
        assert torch.equal(start[f"encoder.{key}"], tensor), key


@real
def test_a_grey_image_gives_the_features_that_timms_network_gives_in_three_equal_colours(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True)
    given = torch.load(IMAGENET, weights_only=True)
    theirs.load_state_dict({key.removeprefix("model."): tensor for key, tensor in given.items()})
    theirs.eval()
    study = study_of(str(IMAGENET), encoder=LITE)
    ours = build(study.model)
    ours.load_state_dict(start_weights(study, tmp_path))
    ours.eval()
    with torch.inference_mode():
        expected = theirs(images().expand(-1, 3, -1, -1))[-1]
        found = ours.encoder(images())[-1]
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@real
def test_a_real_start_stands_a_step_of_training(tmp_path: Path) -> None:
    """Batch statistics near those of its own training: what a folded file lacks."""
    study = study_of(str(IMAGENET), encoder=LITE)
    network = build(study.model)
    network.load_state_dict(start_weights(study, tmp_path))
    with torch.inference_mode():
        right = network.eval().encoder(images())[3]
        trained = network.train().encoder(images())[3]
    assert torch.corrcoef(torch.stack([right.flatten(), trained.flatten()]))[0, 1] > 0.5


@real
def test_a_real_file_with_folded_batch_norm_is_refused(tmp_path: Path) -> None:
    text = sentence(study_of(str(FOLDED)), tmp_path)
    assert "batch normalisation folded into the convolutions" in text


def test_folded_batch_norm_is_refused(tmp_path: Path) -> None:
    """Right in evaluation and lost in training, which normalises by the batch's own statistics."""
    given = a_file(
        tmp_path,
        lambda tensors: {
            name: torch.zeros_like(tensor)
            if name.endswith("running_mean")
            else torch.ones_like(tensor)
            if name.endswith("running_var")
            else tensor
            for name, tensor in tensors.items()
        },
    )
    text = sentence(study_of(given), tmp_path)
    assert "folded into the convolutions (every mean is 0, every variance 1)" in text
    assert "take a file with the statistics of its training" in text

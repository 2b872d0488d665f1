"""The networks that a study may declare, on every machine."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from common.config.model import ModelConfig
from common.errors import BadConfiguration
from common.model import network
from common.model.network import build, build_undrawn, check_network, declared_shapes


def model(architecture: str, encoder: str, **keys: Any) -> ModelConfig:
    return ModelConfig.model_validate({"architecture": architecture, "encoder": encoder, **keys})


def test_the_declared_shapes_are_those_of_the_network() -> None:
    part = model("DeepLabV3", "resnet18")
    real = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in build(part).state_dict().items()}
    assert declared_shapes(part) == real


@pytest.mark.parametrize(
    ("keys", "pixels", "reason"),
    [
        (("DeepLabV3", "densenet121"), 64, "cannot be built"),  # it has no dilation
        (("Unet", "tu-no_such_network"), 64, "cannot be built"),
        (("Unet", "tu-swin_tiny_patch4_window7_224"), 64, "cannot be built for slices of 64 × 64 pixels"),
    ],
)
def test_what_cannot_be_built_is_a_sentence_that_names_it(keys: tuple[str, str], pixels: int, reason: str) -> None:
    with pytest.raises(BadConfiguration) as error:
        check_network(model(*keys), pixels)
    sentence = str(error.value)
    assert f"{keys[0]} with the encoder {keys[1]}" in sentence and reason in sentence
    assert "\n" not in sentence and sentence.endswith("under [model].")


@pytest.mark.usefixtures("one_thread")
def test_a_network_with_tensors_beside_its_weights_is_built_with_them() -> None:
    """Or a site that loads weights into an undrawn network would compute with what lay in memory."""
    part = model("Unet", "tu-swinv2_cr_tiny_ns_224")
    drawn, undrawn = build(part), build_undrawn(part)
    beside = set(dict(drawn.named_buffers())) - set(drawn.state_dict())
    assert beside, "or nothing is shown"
    for name in beside:
        assert torch.equal(undrawn.get_buffer(name), drawn.get_buffer(name)), name


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet-b0", "mobilenet_v2"])
def test_a_network_to_load_weights_into_is_built_once_and_draws_nothing(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or every order of a hospital pays for values that are thrown away."""
    part, built = model("Unet", encoder), []
    weights = build(part).eval().state_dict()
    monkeypatch.setattr(network, "build", lambda *args, **named: built.append(args) or build(*args, **named))
    state = torch.random.get_rng_state()
    undrawn = build_undrawn(part).eval()
    assert len(built) == 1 and torch.equal(state, torch.random.get_rng_state())
    undrawn.load_state_dict(weights)
    images = torch.randn(1, 1, 32, 32)
    drawn = build(part).eval()
    drawn.load_state_dict(weights)
    assert torch.equal(undrawn(images), drawn(images))


def test_equal_seeds_give_equal_networks() -> None:
    part = model("Unet", "mobilenet_v2")
    torch.manual_seed(1)
    first = build(part).state_dict()
    torch.manual_seed(1)
    second = build(part).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


START = """
import sys, types
import torch, common.networks.smp
calls = []
def load(path):
    calls.append(path)
    BODY
torch.ops.load_library = load
found = common.networks.smp.segmentation_models()
assert found.__name__ == "segmentation_models_pytorch"
assert calls and "_C." in calls[0], calls
print(len(common.networks.smp._declared))
"""

BINARY = """library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
        library.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    calls.append(library)
    sys.modules['segmentation_models_pytorch'] = types.ModuleType('segmentation_models_pytorch')
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "declared"),
    [
        ("raise OSError('undefined symbol')", 1),
        # What the binary does when it loads; declaring the same again would be an error.
        (
            BINARY,
            0,
        ),
    ],
    ids=["a binary that cannot load", "a matching pair of wheels"],
)
def test_torchvision_is_helped_only_where_its_binary_is_missing(body: str, declared: int) -> None:
    code = START.replace("BODY", body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(declared)

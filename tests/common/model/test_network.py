"""The networks that a study may declare, on every machine."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any, get_args

import pytest
import torch

from common.config.study import ModelConfig
from common.model.network import build, declared_shapes

ARCHITECTURES = get_args(ModelConfig.model_fields["architecture"].annotation)
ENCODERS = get_args(ModelConfig.model_fields["encoder"].annotation)


def model(architecture: Any, encoder: Any) -> ModelConfig:
    return ModelConfig(architecture=architecture, encoder=encoder)


def test_the_networks_of_the_study_file_are_those_that_were_promised() -> None:
    assert set(ARCHITECTURES) == {"Unet", "UnetPlusPlus", "MAnet", "DeepLabV3"}
    resnets = {"resnet18", "resnet34", "resnet50"}
    assert set(ENCODERS) == {f"efficientnet-b{k}" for k in range(4)} | resnets | {
        "mobilenet_v2",
        "tu-mobilenetv3_small_050",
    }


@pytest.mark.parametrize(("architecture", "encoder"), list(itertools.product(ARCHITECTURES, ENCODERS)))
def test_every_network_makes_one_map_of_one_grey_image(architecture: str, encoder: str) -> None:
    with torch.device("meta"):  # shapes alone: nothing is computed
        network = build(model(architecture, encoder))
        assert network(torch.empty(2, 1, 64, 64)).shape == (2, 1, 64, 64)
    # Or a site that loads weights into an undrawn network would train on what lay in memory.
    tensors = {*dict(network.named_parameters()), *dict(network.named_buffers())}
    assert tensors == set(network.state_dict())
    # A network without batch normalisation would make "re-estimate" a second row of the same averages: whoever adds one
    # has to refuse `batch_norm = "re-estimate"` for it.
    assert any(name.endswith("running_mean") for name in tensors)


@pytest.mark.parametrize("architecture", ["Unet", "DeepLabV3"])
@pytest.mark.usefixtures("one_thread")
def test_a_network_runs_forward_and_back(architecture: str) -> None:
    torch.manual_seed(0)
    network = build(model(architecture, "mobilenet_v2"))
    out = network(torch.randn(2, 1, 32, 32))
    assert out.shape == (2, 1, 32, 32) and torch.isfinite(out).all()
    out.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters() if p.requires_grad)


def test_the_declared_shapes_are_those_of_the_network() -> None:
    part = model("DeepLabV3", "resnet18")
    real = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in build(part).state_dict().items()}
    assert declared_shapes(part) == real


def test_equal_seeds_give_equal_networks() -> None:
    part = model("Unet", "mobilenet_v2")
    torch.manual_seed(1)
    first = build(part).state_dict()
    torch.manual_seed(1)
    second = build(part).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


START = """
import sys, types
import torch, common.model.network
calls = []
def load(path):
    calls.append(path)
    BODY
torch.ops.load_library = load
found = common.model.network.segmentation_models()
assert found.__name__ == "segmentation_models_pytorch"
assert calls and "_C." in calls[0], calls
print(len(common.model.network._declared))
"""

BINARY = """library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
        library.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    calls.append(library)
    sys.modules['segmentation_models_pytorch'] = types.ModuleType('segmentation_models_pytorch')
"""


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

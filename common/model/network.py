"""The network declared in a study: identical at the coordinator and at every site."""

from __future__ import annotations

import functools
import importlib.util
import math
import threading
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from common.config.study import ModelConfig

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""For each tensor, by name, its shape and type."""

_declared: list[torch.library.Library] = []
_shapes: dict[ModelConfig, Shapes] = {}
"""Shapes of every network built so far; a site that builds its network needs no second build for the shapes."""
_once = threading.RLock()
"""The coordinator's site channels are threads, and `functools.cache` lets two threads run the first call."""


def segmentation_models() -> ModuleType:
    """Import segmentation_models_pytorch, even where torchvision's compiled part cannot load.

    The registry's torchvision is a CUDA build. Beside a CPU-only torch its binary does not load, and its import fails
    for lack of the schemas of two operators; no network here calls these operators, so declaring the two schemas is
    enough. With a matching pair of wheels nothing is declared.
    """
    with _once:
        return _import()


@functools.cache
def _import() -> ModuleType:
    if not _torchvision_binary_loads():
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    import segmentation_models_pytorch

    return segmentation_models_pytorch


def _torchvision_binary_loads() -> bool:
    """Return whether torchvision's own operators can be loaded; torchvision itself is not imported."""
    spec = importlib.util.find_spec("torchvision")
    folders = (spec.submodule_search_locations or []) if spec else []
    binaries = [path for folder in folders for path in Path(folder).glob("_C.*")]
    try:
        for path in binaries:
            torch.ops.load_library(str(path))
    except OSError:
        return False
    return bool(binaries)


def build(model: ModelConfig) -> nn.Module:
    """Return the network, its weights drawn from torch's global generator; nothing is downloaded.

    The network maps (batch, 1, rows, columns) float images to (batch, 1, rows, columns) logits of the gland.
    """
    network: nn.Module = getattr(segmentation_models(), model.architecture)(
        encoder_name=model.encoder, encoder_weights=None, in_channels=1, classes=1
    )
    _shapes[model] = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
    return network


def build_undrawn(model: ModelConfig) -> nn.Module:
    """Return the network without initial values, for loading weights afterwards.

    Drawing initial values takes half the time of `build`. Every tensor of a network here stands in its state_dict, so
    loading a state_dict gives values to all tensors.
    """
    with torch.device("meta"):
        network = build(model)
    return network.to_empty(device="cpu")


def declared_shapes(model: ModelConfig) -> Shapes:
    """Return name, shape and type of every tensor of the declared network, without allocating the network."""
    with _once:
        if model not in _shapes:
            with torch.device("meta"):
                build(model)
        return _shapes[model]


def declared_bytes(model: ModelConfig) -> int:
    """Return the bytes of all tensors of the declared network."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in declared_shapes(model).values())

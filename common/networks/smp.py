"""The decoders of segmentation_models.pytorch, each with any of its encoders."""

from __future__ import annotations

import functools
import importlib.util
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from common.networks.registry import Form

_declared: list[torch.library.Library] = []
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


def build(form: Form) -> nn.Module:
    """Return the network, its weights drawn from torch's global generator; nothing is downloaded."""
    attention: dict[str, Any] = {} if form.attention == "none" else {"decoder_attention_type": form.attention}
    network: nn.Module = getattr(segmentation_models(), form.architecture)(
        encoder_name=form.encoder, encoder_weights=None, in_channels=form.inputs, classes=form.classes, **attention
    )
    return network

"""The device and precision in which a network runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Device:
    """The device and precision in which a network runs."""

    kind: str
    """The device's name in torch: cpu, cuda or mps."""
    precision: str
    """float32 or bfloat16."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which torch computes in this precision."""
        return torch.autocast(self.kind, torch.bfloat16, enabled=self.precision == "bfloat16")

    def taken(self, images: torch.Tensor) -> torch.Tensor:
        """Return images on the device, in the memory format of `place`."""
        return images.to(self.kind, memory_format=_format(images.dim()))


def place(network: nn.Module, device: Device) -> None:
    """Move a network to its device, in the memory format channels_last, in which convolutions run fastest.

    A network in three dimensions keeps torch's own format, since the other doubles the time of a step on a CPU.

    On a CPU in bfloat16, depthwise convolutions are trained in float32: their gradients take three times as long in
    bfloat16. Prediction, which is no slower in bfloat16, stays in it.
    """
    network.to(device=device.kind)
    largest = max((tensor.dim() for tensor in network.state_dict().values()), default=0)
    network.to(memory_format=_format(largest))  # type: ignore[call-overload]
    if device.kind == "cpu" and device.precision == "bfloat16":
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
                # A bound method, since a copy of the network binds it to its own module.
                module.forward = MethodType(_trained_in_float32, module)  # type: ignore[method-assign]


def _format(dimensions: int) -> torch.memory_format:
    return torch.channels_last if dimensions < 5 else torch.preserve_format


def _trained_in_float32(self: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    forward = type(self).forward
    if not (self.training and torch.is_autocast_enabled("cpu")):
        return forward(self, images)
    with torch.autocast("cpu", enabled=False):
        return forward(self, images.float())


def choose_device(kind: str, precision: str) -> Device:
    """Return the device and precision for settings that may be "auto".

    Args:
        kind: auto, cpu, cuda or mps; auto prefers cuda, then mps.
        precision: auto, float32 or bfloat16; auto is bfloat16 where the device computes in bfloat16 natively.
    """
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(kind) else "float32"
    return Device(kind, precision)


def _has_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        # Without these instructions bfloat16 is emulated, and slower than float32.
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False

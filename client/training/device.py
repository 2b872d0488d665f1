"""The device and precision that a network runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Machine:
    """Where and in what precision a network runs."""

    device: str
    precision: str

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16")


def place(network: nn.Module, machine: Machine) -> None:
    """Move a network to its device; channels_last is the layout in which convolutions run fastest."""
    network.to(device=machine.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_machine(device: str, precision: str) -> Machine:
    """The device and precision that "auto" means on this machine."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(device) else "float32"
    return Machine(device, precision)


def _has_bfloat16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        # Without these instructions bfloat16 is emulated, and slower than float32.
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False

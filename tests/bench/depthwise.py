"""A training step in bfloat16 on one thread, with depthwise convolutions in float32 as `place` has them and without.

python -m tests.bench.depthwise [PAIRS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from client.training.device import Device, place
from client.training.recipe import loss_of
from common.config.model import ModelConfig
from common.model.network import build
from tests.bench.pairs import PAIRS, interleaved, show, table

NETWORKS = (
    ("UnetPlusPlus", "efficientnet-b3", 4),
    ("Unet", "tu-tf_efficientnet_lite0", 16),
    ("Linknet", "tu-tf_efficientnet_lite0", 16),
    ("Unet", "mobilenet_v2", 16),
)
PIXELS = 128
STEPS = 3


def step_of(architecture: str, encoder: str, batch: int, *, depthwise: bool) -> Callable[[], float]:
    """Return a measurement of the seconds of a step."""
    device = Device("cpu", "bfloat16")
    network = build(ModelConfig(architecture=architecture, encoder=encoder, encoder_weights="none")).train()
    if depthwise:
        place(network, device)
    else:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    adam = torch.optim.Adam(network.parameters())
    images = torch.randn(batch, 1, PIXELS, PIXELS).contiguous(memory_format=torch.channels_last)
    masks = (torch.rand(batch, 1, PIXELS, PIXELS) > 0.5).float()

    def measured() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            adam.zero_grad()
            with device.autocast():
                logits = network(images)
            loss_of(logits, masks, "dice+bce").backward()
            adam.step()
        return (time.perf_counter() - began) / STEPS

    measured()
    return measured


def main(pairs: int = PAIRS) -> None:
    torch.set_num_threads(1)
    title = f"A step in bfloat16, {PIXELS} × {PIXELS}, one thread"
    made = table(title, "", "depthwise in float32", "all in bfloat16", "ratio", "range of ratios")
    for architecture, encoder, batch in NETWORKS:
        one, other = (step_of(architecture, encoder, batch, depthwise=depthwise) for depthwise in (True, False))
        made.add_row(f"{architecture}, {encoder}, batches of {batch}", *interleaved(one, other, pairs).cells())
    show(made)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

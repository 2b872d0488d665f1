"""Put into the fork server by the benchmarks: a hospital's app whose training is the identity, with a stopwatch.

With RELAY_BENCH_MB every network is a toy with so many megabytes of weights, at the coordinator too.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn

import client.app
import client.evaluation.scoring
import client.stages.evaluate
import client.stages.fine_tune
import client.stages.store
import common.model.network
import deploy.simulation.local_grid
from client.evaluation.evaluate import CaseScore
from client.preprocessing.pipeline import Record
from client.training.fine_tune import Trained
from common.config.model import ModelConfig

STEPS = "RELAY_BENCH_STEPS"
LAST = "send"


def note(label: str, seconds: float) -> None:
    with open(os.environ[STEPS], "a", encoding="utf-8") as file:
        file.write(f"{label}\t{seconds}\n")


def watch(module: ModuleType, name: str, label: str) -> None:
    """Note each call's duration in the file that the environment names."""
    function = getattr(module, name)

    @functools.wraps(function)
    def watched(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            here = "site" if multiprocessing.parent_process() else "coordinator"
            note(f"{here}: {label}", time.perf_counter() - began)
            if (here, label) == ("site", LAST):
                note("processor time of the site", time.process_time())

    setattr(module, name, watched)


def identity(network: nn.Module, *_: object, **named: Any) -> Iterator[Trained]:
    """No step of training. Buffers count the hops, and a weight tells the way, or stages would be one and the same."""
    schedule = named["schedule"]
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for tensor in weights.values():
        if not tensor.is_floating_point():
            tensor += 1
    way = next(tensor for tensor in weights.values() if tensor.is_floating_point()).view(-1)
    way[0] = way[0] / 2 + zlib.crc32(os.environ["RELAY_SITE"].encode()) / 2**32
    epochs = schedule.epochs
    zeros, ones = (0.0,) * epochs, (1.0,) * epochs
    yield Trained(epochs, zeros, zeros, ones, epochs, 1, weights, weights, {})


def scores(network: nn.Module, records: list[Record], *_: object, **__: object) -> list[CaseScore]:
    """Each hop gains, or no route would grow."""
    hops = max(int(buffer.max()) for buffer in network.buffers() if not buffer.is_floating_point())
    dice = 1 - 0.5 ** (hops + 1)
    return [CaseScore(record.patient, slices=1, dice=dice, iou=0.4, dice_volume=dice) for record in records]


class Toy(nn.Module):
    """Convolutions of a network of the wanted size, which nobody runs: its output is the first channel of its input."""

    def __init__(self, megabytes: float) -> None:
        super().__init__()
        count = max(1, round(megabytes * 1e6 / 4 / (256 * 256 * 9)))
        width = max(4, round((megabytes * 1e6 / 4 / count / 9) ** 0.5))
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3) for _ in range(count))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1]


def build_toy(model: ModelConfig, *, whole: bool = False) -> nn.Module:
    network = Toy(float(os.environ["RELAY_BENCH_MB"]))
    common.model.network._shapes[model] = {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()
    }
    common.model.network._norms[model] = frozenset()
    return network


if "RELAY_BENCH_MB" in os.environ:
    real = common.model.network.build
    for module in list(sys.modules.values()):
        if getattr(module, "build", None) is real:
            module.build = build_toy  # type: ignore[attr-defined]

if STEPS in os.environ:
    client.stages.fine_tune.fine_tune = identity  # type: ignore[assignment]
    client.stages.fine_tune.check_received = lambda *_, **__: None  # its forward passes are a training's arithmetic
    client.stages.evaluate.evaluate = scores  # type: ignore[assignment]
    for stage in (client.stages.fine_tune, client.stages.evaluate):
        stage.predictions = lambda network, *_: network  # type: ignore[assignment]
        stage.validated = lambda *given: (scores(*given), False)  # type: ignore[assignment]
    torch.set_num_threads(1)
    watch(client.app, "app", "everything")
    watch(client.app, "from_record", "weights from Flower's record")
    watch(client.app, "verify_order", "the order against the approved study and data")
    watch(client.evaluation.scoring, "digest_of", "the digest of what came")
    watch(client.stages.fine_tune, "network_of", "build, check and load the network")
    watch(client.stages.fine_tune, "standardised_slices", "read the slices")
    watch(client.app, "release", "the egress filter, Flower's record")
    watch(client.stages.store.StageStore, "save_weights", "keep the result")  # type: ignore[arg-type]
    watch(deploy.simulation.local_grid, "_send", LAST)
    watch(deploy.simulation.local_grid, "_receive", "wait for and receive")

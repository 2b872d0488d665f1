"""Put into the fork server by `bench_hop`: a hospital's app whose training is the identity, with a stopwatch."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn

import client.app
import client.stages
import deploy.local_grid
from client.evaluation import CaseScore
from client.preprocess import Record
from client.training import Trained

STEPS = "RELAY_BENCH_STEPS"


def watch(module: ModuleType, name: str, label: str) -> None:
    """Note each call's duration in the file that the environment names."""
    function = getattr(module, name)

    @functools.wraps(function)
    def watched(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            with open(os.environ[STEPS], "a", encoding="utf-8") as file:
                file.write(f"{label}\t{time.perf_counter() - began}\n")

    setattr(module, name, watched)


def identity(network: nn.Module, *_: object, **named: Any) -> Iterator[Trained]:
    """No step of training. One buffer counts on, or a lap's stages would be one and the same."""
    schedule = named["schedule"]
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for tensor in weights.values():
        if not tensor.is_floating_point():
            tensor += 1
    epochs = schedule.epochs
    zeros = (0.0,) * epochs
    yield Trained(epochs, zeros, zeros, zeros, epochs, 1, weights, weights, {})


def no_scores(_: nn.Module, records: list[Record], *__: object) -> list[CaseScore]:
    return [CaseScore(record.patient, slices=1, dice=0.5, iou=0.4, volume_dice=0.5) for record in records]


if STEPS in os.environ:
    client.app.fine_tune = identity  # type: ignore[assignment]
    client.app._scores = no_scores  # type: ignore[assignment]
    torch.set_num_threads(1)
    watch(client.app, "app", "site: everything")
    watch(client.app, "from_record", "site: weights from Flower's record")
    watch(client.app, "_ordered", "site: the order against the approved study and data")
    watch(client.app, "_check", "site: do the weights fit, is it their digest")
    watch(client.app, "_network", "site: build and load the network")
    watch(client.app, "chosen_slices", "site: read the slices")
    watch(client.app, "release", "site: the last door, Flower's record")
    watch(client.stages.StageStore, "save_weights", "site: keep the result")  # type: ignore[arg-type]
    watch(deploy.local_grid, "_send", "site: send")
    watch(deploy.local_grid, "_receive", "site: wait for and receive")

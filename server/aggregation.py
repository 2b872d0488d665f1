"""One round's average: Flower's own strategies, behind a guard.

Flower's strategies average whatever arrives, in silence, and treat every entry as a weight. So the guard
counts the parts, hands over floating-point tensors alone, as float64 and in the order of the sites' names,
a few tensors at a time; integer buffers are the parent's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, FedProx, FedTrimmedAvg
from flwr.serverapp.strategy.strategy import Strategy
from safetensors import safe_open

from common.errors import RelayError
from common.weights import Weights

CHUNK_BYTES = 8 * 2**20
"""Weights of a part that are in memory at once."""

STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
}


@dataclass(frozen=True)
class Part:
    """What one site brings to a round."""

    weights: Path
    """A safetensors file."""
    examples: int
    """Training slices: what the part weighs."""


def aggregate(strategy: str, parts: Mapping[str, Part], *, expected: frozenset[str], parent: Path) -> Weights:
    """The weights of a round.

    FedAvg: McMahan et al., AISTATS 2017. FedProx aggregates alike (Li et al., MLSys 2020). FedMedian and
    FedTrimmedAvg: Yin et al., ICML 2018.

    Args:
        parts: by the name of the site; the order does not matter.
        expected: the sites that must be among them: a missing part is never a silent smaller mean.
        parent: the file of the weights that the round started from; its integer buffers are kept.

    Raises:
        RelayError: a part is missing or foreign, or fits the others not.
    """
    if set(parts) != expected:
        missing = ", ".join(sorted(expected - set(parts))) or "none"
        raise RelayError(f"A round cannot be averaged: the parts of {missing} are missing.")
    rule = _rule(strategy, len(parts))
    result: Weights = {}
    with safe_open(parent, framework="pt") as before:
        names = sorted(before.keys())
        files = {site: safe_open(parts[site].weights, framework="pt") for site in sorted(parts)}
        for site, file in files.items():
            if sorted(file.keys()) != names:
                raise RelayError(f"A round cannot be averaged: the part of {site} has other tensors than its parent.")
        for chunk in _chunks(before, names):
            olds = {name: before.get_tensor(name) for name in chunk}
            floating = [name for name in chunk if olds[name].is_floating_point()]
            result |= {name: olds[name] for name in chunk if name not in floating}
            if not floating:
                continue
            replies = []
            for site, file in files.items():
                tensors = {name: file.get_tensor(name) for name in floating}
                if any(tensors[name].shape != olds[name].shape for name in floating):
                    raise RelayError(f"A round cannot be averaged: {site}'s part has other shapes than its parent.")
                replies.append(_reply(tensors, parts[site].examples))
            with _quiet():
                arrays, _ = rule.aggregate_train(1, replies)
            if arrays is None or set(arrays) != set(floating):
                raise RelayError(f"Flower's {strategy} gave no average; nothing was kept of this round.")
            for name in floating:
                mean = torch.from_numpy(arrays[name].numpy().copy())
                result[name] = mean.to(olds[name].dtype).reshape(olds[name].shape)
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower tells of every call; one average here is many calls."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)


def _rule(strategy: str, sites: int) -> Strategy:
    if strategy == "fedprox":
        return FedProx(proximal_mu=0.0)  # its term is the site's work; the mean is FedAvg's
    if strategy == "fedtrimmedavg":
        # Flower cuts int(beta × sites) values at either end: with its own 0.2 none of three or four.
        return FedTrimmedAvg(beta=max(0.2, 1 / sites))
    return STRATEGIES[strategy]()


def _chunks(file: safe_open, names: list[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for name in names:
        tensor = file.get_tensor(name)
        chunk.append(name)
        size += tensor.numel() * tensor.element_size()
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _reply(tensors: Weights, examples: int) -> Message:
    arrays = ArrayRecord({name: Array(tensor.double().numpy()) for name, tensor in tensors.items()})
    metrics = MetricRecord({"num-examples": examples})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), dst_node_id=0, message_type="train")

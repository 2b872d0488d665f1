"""The average of a federated round: Flower's own strategies, behind checks.

Flower's strategies silently average whatever arrives, and treat every entry as a weight. This module therefore checks
all parts for completeness and passes on only floating-point tensors, as float64 and in the order of the sites' names;
integer buffers are taken from the parent.

The weight files are mapped into memory and averaged slice by slice: for any number of sites, memory holds a single
result and a fixed budget. Krum is the exception: Krum compares whole models, and needs all of them in memory at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from safetensors import safe_open

from common.errors import RelayError
from common.model.weights import Weights
from common.strategies import STRATEGIES

AT_ONCE_BYTES = 8 * 2**20
"""Bytes of weights in memory at once, over all parts; float64 and Flower's copies multiply this number by a few."""

Piece = tuple[str, slice | None]
"""A tensor's name, and a range of its rows (first axis); None for all rows."""

WIDEST = 4
"""The most bytes of a weight; in the networks here only counters are wider."""
LEAST = {key: strategy.fewest_parts for key, strategy in STRATEGIES.items()}
"""The fewest parts of a round, by strategy."""


@dataclass(frozen=True)
class Contribution:
    """A site's contribution to a round."""

    weights: Path
    """A safetensors file."""
    examples: int
    """Training slices: the weight of this part in the mean."""


def aggregate(strategy: str, parts: Mapping[str, Contribution], *, expected: frozenset[str], parent: Path) -> Weights:
    """Return the weights of a round.

    Args:
        strategy: a key of `common.strategies`.
        parts: the contributions by site; their order does not matter.
        expected: the sites whose parts are required; a missing part must never silently change the mean.
        parent: the file of the weights at the round's start; the result keeps the integer buffers of this file.

    Raises:
        RelayError: a part is missing or unexpected, or its tensors differ from the parent's.
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
        made: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        budget = None if STRATEGIES[strategy].whole_parts else AT_ONCE_BYTES // len(parts)
        for chunk in _chunks(before, names, budget):
            olds = [_part_of(before, piece) for piece in chunk]
            floating = [number for number, old in enumerate(olds) if old.is_floating_point()]
            means = dict.fromkeys(range(len(chunk)))
            replies = []
            for site, file in files.items() if floating else ():
                tensors = {str(number): _part_of(file, chunk[number]) for number in floating}
                if any(tensors[str(number)].shape != olds[number].shape for number in floating):
                    raise RelayError(f"A round cannot be averaged: {site}'s part has other shapes than its parent.")
                replies.append(_reply(tensors, parts[site].examples))
            if replies:
                with _quiet():
                    arrays, _ = rule.aggregate_train(1, replies)
                if arrays is None or set(arrays) != set(map(str, floating)):
                    raise RelayError(f"Flower's {strategy} gave no average; nothing was kept of this round.")
                means |= {number: torch.from_numpy(arrays[str(number)].numpy().copy()) for number in floating}
            for number, (name, _) in enumerate(chunk):
                old, mean = olds[number], means[number]
                made[name].append(old if mean is None else mean.to(old.dtype).reshape(old.shape))
        for name in names:
            groups = made.pop(name)
            result[name] = groups[0] if len(groups) == 1 else torch.cat(groups)
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Flower's log while the block runs: Flower logs every call, and an average here takes many calls."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)


def _rule(strategy: str, parts: int) -> FlowerStrategy:
    """Return Flower's strategy, set up for a number of parts."""
    found = STRATEGIES[strategy]
    rule: FlowerStrategy = getattr(flower, found.flower)(**found.arguments(parts))
    return rule


def _chunks(file: safe_open, names: list[str], budget: int | None) -> Iterator[list[Piece]]:
    """Yield pieces of all tensors in order, grouped to fit into a budget.

    Args:
        file: the file with the tensors' shapes.
        names: the tensors, in order.
        budget: bytes of a group; None: a single group of whole tensors.
    """
    chunk: list[Piece] = []
    size = 0
    for name in names:
        shape = file.get_slice(name).get_shape()
        row = WIDEST * math.prod(shape[1:])
        rows = shape[0] if shape else 1
        step = rows if budget is None or not shape else max(1, budget // max(row, 1))
        for start in range(0, rows, step) if rows and shape else (0,):
            whole = step >= rows
            chunk.append((name, None if whole else slice(start, min(start + step, rows))))
            size += row * min(step, rows - start)
            if budget is not None and size >= budget:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _part_of(file: safe_open, piece: Piece) -> torch.Tensor:
    """Return the rows of a tensor that a piece names."""
    name, rows = piece
    return file.get_tensor(name) if rows is None else file.get_slice(name)[rows]


def _reply(tensors: Weights, examples: int) -> Message:
    """Return a part as the reply of a Flower client, with float64 tensors."""
    arrays = ArrayRecord({name: Array(tensor.double().numpy()) for name, tensor in tensors.items()})
    metrics = MetricRecord({"num-examples": examples})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), dst_node_id=0, message_type="train")

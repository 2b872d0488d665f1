"""The average of a federated round: Flower's own strategies, behind checks.

Flower's strategies silently average whatever arrives, and treat every entry as a weight. This module therefore checks
all parts for completeness and passes on only floating-point tensors, as float64 and in the order of the sites' names;
integer buffers are taken from the parent.

The weight files are mapped into memory and averaged slice by slice: for any number of sites, memory holds a single
result and a fixed budget. Krum is the exception: Krum compares whole models, and needs all of them in memory at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from server.freed_memory import give_back
from server.server_optimizer import OptimizerStep
from server.tensor_pieces import Piece, chunks, joined, part_of

Rule = Callable[[Mapping[str, Piece], Weights, Sequence[Message]], ArrayRecord | None]
"""Returns the aggregate of some pieces, given the weights at the round's start and the sites' replies."""

AT_ONCE_BYTES = 8 * 2**20
"""Bytes of weights in memory at once, over all parts; float64 and Flower's copies multiply this number by a few."""

STATISTICS = (".running_mean", ".running_var")
"""The ends of the names of batch normalisation's statistics, which have no gradient."""
LEAST = {key: strategy.fewest_parts for key, strategy in STRATEGIES.items()}
"""The fewest parts of a round, by strategy."""


@dataclass(frozen=True)
class Contribution:
    """A site's contribution to a round."""

    weights: Path
    """A safetensors file."""
    examples: int
    """Training slices: the weight of this part in the mean."""


def aggregate(
    strategy: str,
    parts: Mapping[str, Contribution],
    *,
    expected: frozenset[str],
    parent: Path,
    step: OptimizerStep | None = None,
    without: Collection[str] = (),
) -> Weights:
    """Return the weights of a round.

    Args:
        strategy: a key of `common.strategies`.
        parts: the contributions by site; their order does not matter.
        expected: the sites whose parts are required; a missing part must never silently change the mean.
        parent: the file of the weights at the round's start; the result keeps the integer buffers of this file.
        step: the step of the server's optimizer, for a strategy with such an optimizer. The statistics of batch
            normalisation are the plain mean in any case.
        without: the names of tensors that stay at the sites: no part may have them, and the average has none of them.

    Raises:
        RelayError: a part is missing or unexpected, or its tensors differ from the parent's.
    """
    if set(parts) != expected:
        missing = ", ".join(sorted(expected - set(parts))) or "none"
        raise RelayError(f"A round cannot be averaged: the parts of {missing} are missing.")
    mean = _rule(strategy, len(parts))
    with safe_open(parent, framework="pt") as before:
        names = sorted(set(before.keys()) - set(without))
        files = {site: safe_open(parts[site].weights, framework="pt") for site in sorted(parts)}
        for site, file in files.items():
            if sorted(file.keys()) != names:
                raise RelayError(f"A round cannot be averaged: the part of {site} has other tensors than its parent.")
        made: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        budget = None if STRATEGIES[strategy].whole_parts else AT_ONCE_BYTES // len(parts)
        for chunk in chunks(before, names, budget):
            olds = {str(number): part_of(before, piece) for number, piece in enumerate(chunk)}
            pieces = {str(number): piece for number, piece in enumerate(chunk)}
            floating = [key for key, old in olds.items() if old.is_floating_point()]
            stepping = [key for key in floating if step and not pieces[key][0].endswith(STATISTICS)]
            news = dict(olds)
            for rule, keys in ((mean, [key for key in floating if key not in stepping]), (step, stepping)):
                if rule is not None and keys:
                    group = {key: pieces[key] for key in keys}
                    replies = [
                        _reply(_tensors(site, file, group, olds), parts[site].examples) for site, file in files.items()
                    ]
                    news |= _combined(strategy, rule, group, olds, replies)
                    del replies
            for key, (name, _) in pieces.items():
                made[name].append(news[key])
            del olds, news
            give_back()  # otherwise the copies of all chunks' parts add up, and are kept by the C library
        return {name: joined(made.pop(name)) for name in names}


def _tensors(site: str, file: safe_open, pieces: Mapping[str, Piece], olds: Weights) -> Weights:
    """Return pieces of a site's part.

    Raises:
        RelayError: the shape of a tensor differs from the parent's.
    """
    tensors = {key: part_of(file, piece) for key, piece in pieces.items()}
    if any(tensor.shape != olds[key].shape for key, tensor in tensors.items()):
        raise RelayError(f"A round cannot be averaged: {site}'s part has other shapes than its parent.")
    return tensors


def _combined(
    strategy: str, rule: Rule, pieces: Mapping[str, Piece], olds: Weights, replies: Sequence[Message]
) -> Weights:
    """Return what a rule makes of some pieces, in the types and shapes of the weights at the round's start.

    Raises:
        RelayError: Flower gave no average, or an average of other tensors.
    """
    with _quiet():
        arrays = rule(pieces, olds, replies)
    if arrays is None or set(arrays) != set(pieces):
        raise RelayError(f"Flower's {strategy} gave no average; nothing was kept of this round.")
    return {
        key: torch.from_numpy(arrays[key].numpy().copy()).to(olds[key].dtype).reshape(olds[key].shape) for key in pieces
    }


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


def _rule(strategy: str, parts: int) -> Rule:
    """Return the aggregation by Flower's strategy, set up for a number of parts; FedAvg where the server has a step."""
    found = STRATEGIES[strategy] if STRATEGIES[strategy].server is None else STRATEGIES["fedavg"]
    flowers: FlowerStrategy = getattr(flower, found.flower)(**found.arguments(parts))
    return lambda _, __, replies: flowers.aggregate_train(1, replies)[0]


def _reply(tensors: Weights, examples: int) -> Message:
    """Return a part as the reply of a Flower client, with float64 tensors."""
    arrays = ArrayRecord({name: Array(tensor.double().numpy()) for name, tensor in tensors.items()})
    metrics = MetricRecord({"num-examples": examples})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), dst_node_id=0, message_type="train")

"""A step of the server's optimizer after a round, through Flower's own classes, and its state between rounds.

Flower keeps the state in the memory of one strategy object: the weights that it last sent, and the moments. Here the
state is a file, since a coordinator may be killed between two rounds, and the weights are the round's start as the
sites got them.

Flower's FedAdam and FedYogi differ from their source (Reddi et al., ICLR 2021, Algorithm 2) in two ways, both undone
here. Flower's second moment begins with 0; the source's with τ² at least. Flower's FedAdam multiplies η by a correction
of the moments' bias, with the round's number plus one as exponent; the source has none, and after many rounds neither
has Flower.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray
from safetensors import safe_open

from common.model.weights import Weights
from common.strategies import Strategy
from server.tensor_pieces import Piece, joined, part_of

LATE = 10**6
"""The round's number given to Flower: so late that the correction of the moments' bias is exactly 1."""

Arrays = dict[str, NDArray[np.float64]]


class OptimizerStep:
    """The step of a round, made for one group of tensor pieces after another; a context manager."""

    def __init__(self, strategy: Strategy, settings: Mapping[str, float], state: Path | None) -> None:
        """Open the state before the step.

        Args:
            strategy: a strategy with a server's optimizer.
            settings: the values of the optimizer's settings, by their names in `ServerOptimizer.arguments`.
            state: the file with the state after the round before; None for the first round.
        """
        assert strategy.server is not None
        self._server, self._settings = strategy.server, settings
        self._class = getattr(flower, strategy.flower)
        self._open = ExitStack()
        self._before = None if state is None else self._open.enter_context(safe_open(state, framework="pt"))
        self._made: dict[str, list[torch.Tensor]] = defaultdict(list)

    def __enter__(self) -> OptimizerStep:
        """Return the step."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file with the state before the step."""
        self._open.close()

    def __call__(self, pieces: Mapping[str, Piece], olds: Weights, replies: Sequence[Message]) -> ArrayRecord | None:
        """Return the weights after the step, of some pieces.

        Args:
            pieces: the place of each piece, by its key in the replies.
            olds: the weights at the round's start, by the same keys.
            replies: the sites' weights as the replies of Flower's clients, with float64 arrays by the same keys.
        """
        arguments = {self._server.arguments[name]: value for name, value in self._settings.items()}
        rule = self._class(**arguments)
        current = {key: olds[key].double().numpy() for key in pieces}
        moments = {kind: self._moments(kind, pieces, current) for kind in self._server.moments}
        in_lists = isinstance(rule, flower.FedAvgM)  # FedAvgM has lists where the other classes have dictionaries
        rule.current_arrays = ArrayRecord({key: Array(old) for key, old in current.items()}) if in_lists else current
        for kind, attribute in self._server.moments.items():
            setattr(rule, attribute, list(moments[kind].values()) if in_lists else moments[kind])
        arrays: ArrayRecord | None = rule.aggregate_train(LATE, replies)[0]
        for kind, attribute in self._server.moments.items():
            after = getattr(rule, attribute)
            for key, values in zip(pieces, after, strict=True) if in_lists else after.items():
                self._made[f"{kind}/{pieces[key][0]}"].append(torch.from_numpy(np.array(values)).float())
        return arrays

    @property
    def state(self) -> Weights:
        """The state after the step: for each kind of moment a float32 tensor a weight, named "kind/weight"."""
        return {name: joined(pieces) for name, pieces in self._made.items()}

    def _moments(self, kind: str, pieces: Mapping[str, Piece], current: Arrays) -> Arrays:
        """Return the moments of a kind before the step."""
        if self._before is None:
            first = self._settings["tau"] ** 2 if kind == "second" else 0.0
            return {key: np.full_like(old, first) for key, old in current.items()}
        return {
            key: part_of(self._before, (f"{kind}/{name}", rows)).double().numpy()
            for key, (name, rows) in pieces.items()
        }

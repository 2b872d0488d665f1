"""The graph of stages: every method is a graph over five kinds of node.

A node is a frozen value with its parents as fields. Nodes with equal content are the same node, so a common prefix of
two routes is trained only once, without any search for common prefixes.

A node's identity is a digest of its own fields and its parents' identities, computed once when the node is made: a
graph of 50 FedAvg rounds has 3^50 paths, too many to follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from common.digest import digest_of_json
from common.strategies import STRATEGIES
from common.text import short_digest

Keep = Literal["best", "last"]
SplitName = Literal["validation", "test"]


@dataclass(frozen=True)
class Schedule:
    """A part of a cosine annealing: the epochs from `first` up to, not including, `last` of `total_epochs`.

    Epochs are counted from 0.
    """

    total_epochs: int
    first: int
    last: int
    keep: Keep

    @property
    def epochs(self) -> int:
        """The number of epochs of this part."""
        return self.last - self.first


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """A node of the graph; two nodes are equal if all their fields are equal."""

    id: str = field(init=False, repr=False)
    """The node's identity: a sha256 in hexadecimal digits."""

    def __post_init__(self) -> None:
        names = (name for name in self.__dataclass_fields__ if name != "id")
        parts = [type(self).__name__, *(_plain(getattr(self, name)) for name in names)]
        object.__setattr__(self, "id", digest_of_json(parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        """Return a short form of the node.

        Written out with its parents, a node of 50 rounds would have as many words as the graph has paths.
        """
        return f"<{type(self).__name__} {short_digest(self.id)}>"

    @property
    def parents(self) -> tuple[Node, ...]:
        """The nodes to be finished before this node."""
        return ()


def _plain(value: object) -> object:
    if isinstance(value, Node):
        return value.id
    if isinstance(value, Schedule):
        return [value.total_epochs, value.first, value.last, value.keep]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, eq=False, repr=False)
class Start(Node):
    """The study's first weights."""


@dataclass(frozen=True, eq=False, repr=False)
class FineTune(Node):
    """A training at a site, from the parent's weights."""

    site: str
    fold: int
    parent: Node
    schedule: Schedule
    proximal_mu: float = 0.0

    @property
    def parents(self) -> tuple[Node, ...]:
        """The node with the start weights of the training."""
        return (self.parent,)


@dataclass(frozen=True, eq=False, repr=False)
class Evaluate(Node):
    """A scoring of weights on a site's patients, without training."""

    site: str
    fold: int
    split: SplitName
    weights: Node

    @property
    def parents(self) -> tuple[Node, ...]:
        """The node whose weights are scored."""
        return (self.weights,)


@dataclass(frozen=True, eq=False, repr=False)
class Average(Node):
    """The aggregated weights of a federated round."""

    parts: tuple[FineTune, ...]
    """The trainings of the round, one for each site."""
    strategy: str
    """A key of `common.strategies`."""

    @property
    def parents(self) -> tuple[Node, ...]:
        """The averaged trainings."""
        return self.parts

    @property
    def fold(self) -> int:
        """The fold, which all trainings of the round share."""
        return self.parts[0].fold


@dataclass(frozen=True, eq=False, repr=False)
class Best(Node):
    """The candidate with the best score at a named site; the first among equals."""

    candidates: tuple[Node, ...]
    at: str
    """The site whose patients score the candidates."""
    split: SplitName

    @property
    def parents(self) -> tuple[Node, ...]:
        """The candidates, and the nodes with their scores."""
        candidates = set(self.candidates)
        return (*self.candidates, *(ballot for ballot in self.ballots if ballot not in candidates))

    @cached_property
    def ballots(self) -> tuple[Node, ...]:
        """For each candidate, in their order, the node with the candidate's score."""
        return tuple(ballot(candidate, self.at) for candidate in self.candidates)


def ballot(candidate: Node, at: str, fold: int | None = None) -> FineTune | Evaluate:
    """Return the node with a candidate's validation score at a site.

    A candidate trained at the site has its score already, and needs no scoring stage.

    Args:
        candidate: the node whose weights are scored.
        at: the site whose validation patients score the weights.
        fold: the fold of these validation patients; None: the fold of the candidate's training.
    """
    if isinstance(candidate, FineTune) and candidate.site == at:
        return candidate
    return Evaluate(at, fold_of(candidate) if fold is None else fold, "validation", candidate)


def fold_of(node: Node) -> int:
    """Return the fold that weights were trained on; for a `Best`, the fold of its first candidate."""
    if isinstance(node, FineTune | Average | Evaluate):
        return node.fold
    if isinstance(node, Best):
        return fold_of(node.candidates[0])
    return 0


def best_of(candidates: tuple[Node, ...], at: str) -> Node:
    """Return the node that chooses among candidates by validation Dice at a site, or the only candidate."""
    return candidates[0] if len(candidates) == 1 else Best(candidates, at, "validation")


def parents_first(wanted: Iterable[Node]) -> Iterator[Node]:
    """Yield nodes and all their ancestors, each once, parents before children."""
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(node, False) for node in wanted]
    stack.reverse()
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in reversed(node.parents) if parent not in seen]


def way_of(node: Node) -> str:
    """Return the origin of weights in words: "B → C → A", "FedAvg, round 3"."""
    if isinstance(node, FineTune):
        before = way_of(node.parent)
        return f"{before} → {node.site}" if before else node.site
    if isinstance(node, Average):
        part = node.parts[0]
        setting = f" of {part.schedule.epochs} epochs" if part.schedule.epochs > 1 else ""
        return f"{STRATEGIES[node.strategy].title}, round {part.schedule.last // part.schedule.epochs}{setting}"
    if isinstance(node, Best):
        first = node.candidates[0]
        return f"{STRATEGIES[first.strategy].title}, best round" if isinstance(first, Average) else way_of(first)
    if isinstance(node, Evaluate):
        return f"{way_of(node.weights)} at {node.site}"
    return ""

"""The one idea: every method compared is a graph over five kinds of node.

A node is a frozen value that names its parents; equal nodes are the same node, so a prefix that two
routes share is trained once, and no code looks for it. A node's identity is worked out once, when it
is made, from its parents' identities: the graph of 50 FedAvg rounds has as many paths as 3^50.
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
    """A slice of a cosine: epochs `first` (counted from 0) up to, not including, `last` of `total_epochs`."""

    total_epochs: int
    first: int
    last: int
    keep: Keep

    @property
    def epochs(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """A stage of the graph. Two nodes are equal if all that they name is equal."""

    id: str = field(init=False, repr=False)
    """sha256, hexadecimal."""

    def __post_init__(self) -> None:
        names = (name for name in self.__dataclass_fields__ if name != "id")
        parts = [type(self).__name__, *(_plain(getattr(self, name)) for name in names)]
        object.__setattr__(self, "id", digest_of_json(parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        """Short: with its parents written out, a node of 50 rounds would have as many words as the graph has paths."""
        return f"<{type(self).__name__} {short_digest(self.id)}>"

    @property
    def parents(self) -> tuple[Node, ...]:
        """The nodes that must be there before this one can be worked out."""
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
    """Train at one site, from the parent's weights."""

    site: str
    fold: int
    parent: Node
    schedule: Schedule
    proximal_mu: float = 0.0

    @property
    def parents(self) -> tuple[Node, ...]:
        return (self.parent,)


@dataclass(frozen=True, eq=False, repr=False)
class Evaluate(Node):
    """Score weights on a site's patients, without training."""

    site: str
    fold: int
    split: SplitName
    weights: Node

    @property
    def parents(self) -> tuple[Node, ...]:
        return (self.weights,)


@dataclass(frozen=True, eq=False, repr=False)
class Average(Node):
    """The aggregated weights of one round."""

    parts: tuple[FineTune, ...]
    strategy: str

    @property
    def parents(self) -> tuple[Node, ...]:
        return self.parts

    @property
    def fold(self) -> int:
        return self.parts[0].fold


@dataclass(frozen=True, eq=False, repr=False)
class Best(Node):
    """The candidate with the best score at a named site; the first among equals."""

    candidates: tuple[Node, ...]
    at: str
    split: SplitName

    @property
    def parents(self) -> tuple[Node, ...]:
        candidates = set(self.candidates)
        return (*self.candidates, *(ballot for ballot in self.ballots if ballot not in candidates))

    @cached_property
    def ballots(self) -> tuple[Node, ...]:
        """The node that holds each candidate's score, in the candidates' order."""
        return tuple(ballot(candidate, self.at) for candidate in self.candidates)


def ballot(candidate: Node, at: str, fold: int | None = None) -> FineTune | Evaluate:
    """Return the node that holds a candidate's validation score at a site: training there gives it for nothing."""
    if isinstance(candidate, FineTune) and candidate.site == at:
        return candidate
    return Evaluate(at, fold_of(candidate) if fold is None else fold, "validation", candidate)


def fold_of(node: Node) -> int:
    """Return the fold that weights were trained on; candidates of a `Best` may differ in it."""
    if isinstance(node, FineTune | Average | Evaluate):
        return node.fold
    if isinstance(node, Best):
        return fold_of(node.candidates[0])
    return 0


def best_of(candidates: tuple[Node, ...], at: str) -> Node:
    """Return the best of several by validation Dice at a site; of one, that one."""
    return candidates[0] if len(candidates) == 1 else Best(candidates, at, "validation")


def parents_first(wanted: Iterable[Node]) -> Iterator[Node]:
    """These nodes and every node they need, once, parents first."""
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
    """Return the way that weights have come, in words: "B → C → A", "FedAvg, round 3"."""
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

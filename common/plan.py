"""The one idea: every method compared is a graph over five kinds of node.

A node is a frozen value that names its parents; equal nodes are the same node, so a prefix that two
routes share is trained once, and no code looks for it. A node's identity is worked out once, when it
is made, from its parents' identities: the graph of 50 FedAvg rounds has as many paths as 3^50.

`plan` is a pure function of the study and the census (how many training slices each site has). The
coordinator calls it to know what to do; a site calls it to know what its approved study may ask of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal

from common.errors import RelayError
from common.study import POOLED, FederatedPart, Study

Keep = Literal["best", "last"]
SplitName = Literal["validation", "test"]
Census = Mapping[str, tuple[int, ...]]
"""For each site the number of chosen training slices, one a fold."""


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


@dataclass(frozen=True, eq=False)
class Node:
    """A stage of the graph. Two nodes are equal if all that they name is equal."""

    id: str = field(init=False, repr=False)
    """sha256, hexadecimal."""

    def __post_init__(self) -> None:
        parts: list[object] = [type(self).__name__]
        for item in fields(self):
            if item.name != "id":
                parts.append(_plain(getattr(self, item.name)))
        content = json.dumps(parts, separators=(",", ":"))
        object.__setattr__(self, "id", hashlib.sha256(content.encode()).hexdigest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

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


@dataclass(frozen=True, eq=False)
class Start(Node):
    """The study's first weights."""


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class Evaluate(Node):
    """Score weights on a site's patients, without training."""

    site: str
    fold: int
    split: SplitName
    weights: Node

    @property
    def parents(self) -> tuple[Node, ...]:
        return (self.weights,)


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
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
    """The node that holds a candidate's validation score at a site: training there gives it for nothing."""
    if isinstance(candidate, FineTune) and candidate.site == at:
        return candidate
    return Evaluate(at, fold_of(candidate) if fold is None else fold, "validation", candidate)


def fold_of(node: Node) -> int:
    """The fold that weights were trained on; candidates of a `Best` may differ in it."""
    if isinstance(node, FineTune | Average | Evaluate):
        return node.fold
    if isinstance(node, Best):
        return fold_of(node.candidates[0])
    return 0


def best_of(candidates: tuple[Node, ...], at: str) -> Node:
    """The best of several by validation Dice at a site; of one, that one."""
    return candidates[0] if len(candidates) == 1 else Best(candidates, at, "validation")


@dataclass(frozen=True)
class Row:
    """A figure of the comparison: one method's weights, for one target and fold."""

    method: str
    """baseline, longer, sequential, unadapted, pooled, a strategy, or a strategy with "-then-target"."""
    route: tuple[str, ...]
    """The sites in the order in which they train; those of a federated method in the study's order."""
    target: str
    fold: int
    model: Node
    validation: Node
    """What the fold is chosen by: a FineTune at the target, or an Evaluate on its validation patients."""
    test: Evaluate


@dataclass(frozen=True)
class Plan:
    """The rows asked for, and every node they need, parents first."""

    rows: tuple[Row, ...]
    nodes: tuple[Node, ...]

    @cached_property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}


def plan(study: Study, census: Census) -> Plan:
    """All methods of a study as one graph.

    Raises:
        RelayError: the census lacks a site of the study.
    """
    for site in (*study.sites, *((POOLED,) if study.methods.pooled else ())):
        if site not in census:
            raise RelayError(f"Nothing is known of site {site} yet; every site has to describe its data first.")
    rows = tuple(_rows(study, census))
    return Plan(rows, tuple(_ordered(rows)))


def routes_to(study: Study, target: str) -> list[tuple[str, ...]]:
    """The routes of at least one hop that end at a target, shortest first, in the study's order of sites."""
    part = study.methods.sequential
    if part.routes == "none":
        return []
    if part.routes == "all":
        others = [site for site in study.sites if site != target]
        hops = range(1, min(part.max_hops, len(others)) + 1)
        return [(*sources, target) for n in hops for sources in itertools.permutations(others, n)]
    return sorted(dict.fromkeys(route for route in part.routes if route[-1] == target), key=len)


def batches_per_epoch(slices: int, batch: int) -> int:
    """Full batches and a smaller last one; a single slice left over joins the batch before it."""
    full, rest = divmod(slices, batch)
    return max(1, full + (rest > 1))


def _rows(study: Study, census: Census) -> Iterator[Row]:
    methods, folds = study.methods, study.split.run
    rounds = {part.strategy: [tuple(_rounds(study, part, fold)) for fold in folds] for part in methods.federated}
    for target in study.sites:
        if methods.baseline:
            for fold in folds:
                yield _row(study, "baseline", (target,), target, fold, _route(study, (target,), fold))
        if methods.longer_baseline:
            for fold in folds:
                epochs = _longest_in_epochs(study, census, target, fold)
                longer = FineTune(target, fold, Start(), _schedule(epochs, study.training.keep))
                yield _row(study, "longer", (target,), target, fold, longer)
        for route in routes_to(study, target):
            for fold in folds:
                yield _row(study, "sequential", route, target, fold, _route(study, route, fold))
        if methods.unadapted:
            for source in (site for site in study.sites if site != target):
                for fold in folds:
                    yield _row(study, "unadapted", (source,), target, fold, _route(study, (source,), fold))
        for part in methods.federated:
            chosen: list[Node] = [best_of(of_fold, target) for of_fold in rounds[part.strategy]]
            for fold, model in zip(folds, chosen, strict=True):
                yield _row(study, part.strategy, study.sites, target, fold, model)
            if part.then_target:
                # Always the same fold: the target took part, and another fold's average has trained on the
                # patients that this fold is chosen by.
                for fold, model in zip(folds, chosen, strict=True):
                    tuned = FineTune(target, fold, model, _schedule(study.training.epochs, study.training.keep))
                    route = (*study.sites, target)
                    yield _row(study, f"{part.strategy}-then-target", route, target, fold, tuned)
        if methods.pooled:
            for fold in folds:
                yield _row(study, "pooled", (POOLED,), target, fold, _route(study, (POOLED,), fold))


def _row(study: Study, method: str, route: tuple[str, ...], target: str, fold: int, model: Node) -> Row:
    return Row(
        method=method,
        route=route,
        target=target,
        fold=fold,
        model=model,
        validation=ballot(model, target, fold),
        test=Evaluate(target, fold, "test", model),
    )


def _route(study: Study, route: tuple[str, ...], fold: int, *, same_fold: bool = False) -> FineTune:
    """The last stage of a route; its source is the best of the source's folds, or the same fold.

    A route that comes to a site twice keeps to one fold: the best of the others has trained there on the
    patients that this fold is chosen by.
    """
    schedule = _schedule(study.training.epochs, study.training.keep)
    if len(route) == 1:
        return FineTune(route[0], fold, Start(), schedule)
    if same_fold or study.split.source == "same-fold" or len(set(route)) < len(route):
        return FineTune(route[-1], fold, _route(study, route[:-1], fold, same_fold=True), schedule)
    sources = tuple(_route(study, route[:-1], source_fold) for source_fold in study.split.run)
    return FineTune(route[-1], fold, best_of(sources, route[-2]), schedule)


def _schedule(epochs: int, keep: Keep) -> Schedule:
    return Schedule(total_epochs=epochs, first=0, last=epochs, keep=keep)


def rounds_of(study: Study, part: FederatedPart) -> int:
    """Rounds asked for, or as many as give each site the epochs of one stage."""
    return part.rounds or study.training.epochs // part.local_epochs


def _rounds(study: Study, part: FederatedPart, fold: int) -> Iterator[Average]:
    """One average a round; the rounds are consecutive slices of one cosine."""
    rounds = rounds_of(study, part)
    total = rounds * part.local_epochs
    proximal_mu = part.proximal_mu if part.strategy == "fedprox" else 0.0
    parent: Node = Start()
    for number in range(rounds):
        first = number * part.local_epochs
        schedule = Schedule(total, first, first + part.local_epochs, "last")
        parts = tuple(FineTune(site, fold, parent, schedule, proximal_mu) for site in sorted(study.sites))
        parent = average = Average(parts, part.strategy)
        yield average


def _longest_in_epochs(study: Study, census: Census, target: str, fold: int) -> int:
    """Epochs at the target that come closest to the gradient steps of its longest route."""

    def steps(site: str) -> int:
        return batches_per_epoch(census[site][fold], study.training.batch) * study.training.epochs

    routes = routes_to(study, target) or [study.sites]
    longest = max(sum(steps(site) for site in route) for route in routes)
    per_epoch = batches_per_epoch(census[target][fold], study.training.batch)
    return max(1, round(longest / per_epoch))


def _ordered(rows: tuple[Row, ...]) -> Iterator[Node]:
    """Every node that the rows need, once, parents first."""
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = []
    for row in reversed(rows):
        stack += [(row.test, False), (row.validation, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in reversed(node.parents) if parent not in seen]


def way_of(node: Node) -> str:
    """The way that weights have come, in words: "B → C → A", "fedavg, round 3"."""
    if isinstance(node, FineTune):
        before = way_of(node.parent)
        return f"{before} → {node.site}" if before else node.site
    if isinstance(node, Average):
        schedule = node.parts[0].schedule
        return f"{node.strategy}, round {schedule.last // schedule.epochs}"
    if isinstance(node, Best):
        first = node.candidates[0]
        return f"{first.strategy}, best round" if isinstance(first, Average) else way_of(first)
    if isinstance(node, Evaluate):
        return f"{way_of(node.weights)} at {node.site}"
    return ""

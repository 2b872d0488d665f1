"""The graph of stages: every method is a graph over a few kinds of node.

A node is a frozen value with its parents as fields. Nodes with equal content are the same node, so a common prefix of
two routes is trained only once, without any search for common prefixes.

A node's identity is a digest of its own fields and its parents' identities, computed once when the node is made: a
graph of 50 FedAvg rounds has 3^50 paths, too many to follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from common.digest import digest_of_json
from common.strategies import STRATEGIES
from common.text import count, listed, short_digest

Keep = Literal["best", "last"]
SplitName = Literal["validation", "test"]
Stays = Literal["", "batch-norm", "everything"]
"""Which tensors of a training's result never leave the site: none, batch norm's, or all."""

RE_ESTIMATED = "batch norm re-estimated"
"""The end of the name of weights whose batch-norm statistics were estimated again."""


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


LATER = "later"
"""The mark of a node's field that came with a later version: at its default, it is no part of a node's identity."""


SINGLE = "single"
"""The mark of a node's field that held one value in an earlier version, and holds a tuple now: a tuple of one value
stands in a node's identity as that value."""


@dataclass(frozen=True)
class Hop:
    """How a training goes on from weights trained before, where it differs from a first training."""

    learning_rate: float = 0.0
    """The learning rate at which the cosine begins; 0: the study's `training.learning_rate`."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up before the cosine."""
    freeze: Literal["none", "encoder"] = "none"
    """"encoder": the encoder's weights stay as they came."""
    distillation: float = 0.0
    """The weight of the loss against the answers of the received weights (learning without forgetting); 0: none."""
    temperature: float = 0.0
    """The temperature of these answers, where `distillation` is set."""

    @property
    def differing(self) -> dict[str, Any]:
        """The settings that differ from a first training; only these enter a node's identity and a stage's key."""
        return {name: value for name, value in asdict(self).items() if value not in (0, "none")}

    @property
    def words(self) -> str:
        """The settings in words: "rate 0.0001, encoder frozen"; empty where none is set."""
        found = [f"rate {self.learning_rate:g}"] if self.learning_rate else []
        found += [f"{count(self.warmup_epochs, 'epoch')} of warm-up"] if self.warmup_epochs else []
        found += ["encoder frozen"] if self.freeze == "encoder" else []
        found += [f"distillation {self.distillation:g}"] if self.distillation else []
        return ", ".join(found)


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """A node of the graph; two nodes are equal if all their fields are equal."""

    id: str = field(init=False, repr=False)
    """The node's identity: a sha256 in hexadecimal digits."""

    def __post_init__(self) -> None:
        parts: list[object] = [type(self).__name__]
        for name, one in self.__dataclass_fields__.items():
            value = None if name == "id" else getattr(self, name)
            if name == "id" or (LATER in one.metadata and value == one.default):
                continue
            if SINGLE in one.metadata and isinstance(value, tuple):
                value = single(value)
            parts.append([name, _plain(value)] if LATER in one.metadata else _plain(value))
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


def single(values: Sequence[str]) -> str | list[str]:
    """Return the only value of several, or a list of them all."""
    return values[0] if len(values) == 1 else list(values)


def _plain(value: object) -> object:
    if isinstance(value, Node):
        return value.id
    if isinstance(value, Schedule):
        return [value.total_epochs, value.first, value.last, value.keep]
    if isinstance(value, Hop):
        return value.differing
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, eq=False, repr=False)
class Start(Node):
    """The study's first weights."""


@dataclass(frozen=True, eq=False, repr=False)
class FineTune(Node):
    """A training at a site, from the parent's weights; or, without an epoch, an estimate of batch norm's statistics.

    The statistics are those of the fold's training slices at the site. Both kinds score the weights that they make on
    the fold's validation patients, and both send the weights back.
    """

    site: str
    fold: int
    parent: Node
    schedule: Schedule
    proximal_mu: float = 0.0
    """The weight of a pull towards the start weights: FedProx's proximal term, and L2-SP on a route. Of a personal
    model, towards the average."""
    stays: Stays = field(default="", metadata={LATER: True})
    before: FineTune | None = field(default=None, metadata={LATER: True})
    """The training at the same site whose kept tensors this training goes on from; None: the parent has them all."""
    hop: Hop | None = field(default=None, metadata={LATER: True})
    """The settings of a second or later training; None: as a first training."""
    share: float | None = field(default=None, metadata={LATER: True})
    """The share of the fold's training patients that the site trains on; None: all of them."""
    without: tuple[str, ...] = field(default=(), metadata={LATER: True, SINGLE: True})
    """Of all data pooled, the sites whose patients neither train nor validate, in the study's order."""

    @property
    def parents(self) -> tuple[Node, ...]:
        """The node with the start weights of the training, and the training with the site's own tensors, if any."""
        return (self.parent,) if self.before is None else (self.parent, self.before)

    @property
    def trains(self) -> bool:
        """Whether the stage makes gradient steps; without an epoch it only estimates batch norm's statistics."""
        return self.schedule.epochs > 0


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

    @property
    def decides_clean_up(self) -> bool:
        """Whether the site's validation patients may decide on the clean-up: not for a model that never saw the site.

        Such a model is scored as the network draws.
        """
        return not isinstance(self.weights, BestElsewhere)


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

    @property
    def local(self) -> bool:
        """Whether batch norm's tensors stay at the sites, so that the average lacks them."""
        return self.parts[0].stays == "batch-norm"


@dataclass(frozen=True, eq=False, repr=False)
class Completed(Node):
    """Weights without batch norm's tensors, completed at a site with the tensors that stayed there."""

    weights: Average | FineTune
    own: Node
    """The training with the site's own tensors: of an average, the site's part of the round; of weights on a route, the
    site's last training before, or a choice among those of all folds."""

    @property
    def parents(self) -> tuple[Node, ...]:
        """The weights, and the training with the site's own tensors."""
        return (self.weights, self.own)


@dataclass(frozen=True, eq=False, repr=False)
class Refilled(Node):
    """Weights without batch norm's tensors, with those of the study's first weights: for a site without any of its own.

    The coordinator puts the two together.
    """

    weights: Node

    @property
    def parents(self) -> tuple[Node, ...]:
        """The weights, and the study's first weights."""
        return (self.weights, Start())


@dataclass(frozen=True, eq=False, repr=False)
class ServerStep(Average):
    """The weights of a federated round whose server takes the mean change of the weights for a gradient."""

    settings: tuple[tuple[str, float], ...]
    """The names and values of the settings of the server's optimizer; see `common.strategies.ServerOptimizer`."""

    @property
    def before(self) -> ServerStep | None:
        """The step of the round before, whose moments this step goes on from; None for the first round."""
        parent = self.parts[0].parent
        return parent if isinstance(parent, ServerStep) else None


@dataclass(frozen=True, eq=False, repr=False)
class Soup(Average):
    """The mean of the weights of models trained apart, which end at one site and fold: one model, made of several."""


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Node):
    """Several models whose probabilities are averaged: scored at sites, trained nowhere."""

    members: tuple[Node, ...]
    """The models, two at least; a `Best` stands for the model chosen."""

    @property
    def parents(self) -> tuple[Node, ...]:
        """The members."""
        return self.members

    def is_of_folds_at(self, site: str) -> bool:
        """Return whether every member was trained at a site last, each on a fold of its own.

        Each of the site's validation patients was then held out by exactly one member at most, and is scored by that
        member alone; all other members were trained on the patient.
        """
        own = [training for member in self.members if (training := training_in(member)) and training.site == site]
        return len({training.fold for training in own}) == len(self.members)


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
        return tuple(dict.fromkeys((*self.candidates, *(node for nodes in self.ballots for node in nodes))))

    @cached_property
    def ballots(self) -> tuple[tuple[Node, ...], ...]:
        """For each candidate, in their order, the nodes whose mean score is the candidate's score."""
        return tuple(_ballots(candidate, self.at) for candidate in self.candidates)


@dataclass(frozen=True, eq=False, repr=False)
class BestElsewhere(Best):
    """The candidate with the best mean score over several sites, chosen for a site that is none of them."""

    sites: tuple[str, ...]
    """The sites whose patients score the candidates; `at` is empty."""

    @cached_property
    def ballots(self) -> tuple[tuple[Node, ...], ...]:
        """For each candidate, in their order, the nodes whose mean score is the candidate's score: one a site."""
        return tuple(tuple(ballot(candidate, site) for site in self.sites) for candidate in self.candidates)


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


def _ballots(candidate: Node, at: str) -> tuple[Node, ...]:
    """Return the nodes whose mean score is a candidate's score at a site.

    The members of an ensemble of folds were scored in their training, each on the patients held out by its fold.
    """
    if isinstance(candidate, Ensemble) and candidate.is_of_folds_at(at):
        return candidate.members
    return (ballot(candidate, at),)


def with_share(node: Node, share: float) -> Node:
    """Return a training with a share of its fold's training patients; of a choice, each of its candidates so."""
    if isinstance(node, Best):
        return Best(tuple(with_share(candidate, share) for candidate in node.candidates), node.at, node.split)
    assert isinstance(node, FineTune)
    return replace(node, share=share)


def share_at(node: Node, site: str) -> float | None:
    """Return the share of a site's training patients in weights made there; None: all of them, or made elsewhere."""
    if isinstance(node, Best):
        return share_at(node.candidates[0], site)
    return node.share if isinstance(node, FineTune) and node.site == site else None


def fold_of(node: Node) -> int:
    """Return the fold that weights were trained on; for a `Best` or an `Ensemble`, the fold of its first."""
    if isinstance(node, FineTune | Average | Evaluate):
        return node.fold
    if isinstance(node, Best | Ensemble | Completed | Refilled):
        return fold_of(node.parents[0])
    return 0


def lacks_batch_norm(node: Node) -> bool:
    """Return whether the file of some weights lacks batch norm's tensors, which stayed at the sites."""
    if isinstance(node, Best):
        return lacks_batch_norm(node.candidates[0])
    if isinstance(node, FineTune):
        return node.stays == "batch-norm"
    return isinstance(node, Completed) or (isinstance(node, Average) and node.local)


def last_visit(site: str, weights: Node) -> Node | None:
    """Return the last training at a site behind weights on a route, or the choice among its folds; None: none.

    Where a source's best fold is handed on, the trainings among which it is chosen all began with the same weights.
    """
    node = weights
    while isinstance(node, FineTune | Best | Refilled):
        first = node.candidates[0] if isinstance(node, Best) else node
        if isinstance(first, FineTune) and first.site == site:
            return node
        node = first.parents[0]
    return None


def earlier_visit(node: FineTune) -> FineTune | None:
    """Return the training before at the same site, on the way of a training's weights; None: none, or a choice of some.

    What a network keeps at a site (`registry.Network.stays`) goes on from this training. Of weights chosen among
    several, such as the best round that a target then fine-tunes, no single training of the site came before.
    """
    if node.before is not None or node.stays == "everything":
        return node.before
    at: Node | None = node.parent
    while isinstance(at, FineTune | Refilled | Average):
        if isinstance(at, FineTune) and at.site == node.site and at.trains:
            return at
        if isinstance(at, Average):
            at = next((part for part in at.parts if part.site == node.site), None)
        else:
            at = at.parents[0]
    return None


def as_scored_at(site: str, node: FineTune) -> Node:
    """Return the weights of a training on a route as a site scores them.

    Where batch norm's tensors stay at the sites, the site completes the weights with its own of the last visit; before
    a first visit, they have those of the study's first weights.
    """
    if node.stays != "batch-norm" or node.site == site:
        return node
    own = last_visit(site, node.parent)
    return Refilled(node) if own is None else Completed(node, own)


def keepers(stage: FineTune | Evaluate) -> Iterator[FineTune]:
    """Yield the trainings of which one has kept the tensors with which a site completes a stage's weights."""
    if isinstance(stage, Evaluate):
        yield from keepers_of(stage.weights)
    else:
        yield from _with_earlier(stage.before)


def keepers_of(weights: Node) -> Iterator[FineTune]:
    """Yield the trainings of which one has kept a site's own part of some weights; nothing where no part is kept.

    A skipped training keeps nothing, so that the site's earlier trainings count as well.
    """
    if isinstance(weights, Best):
        for candidate in weights.candidates:
            yield from keepers_of(candidate)
    elif isinstance(weights, Completed):
        yield from keepers_of(weights.own)
    elif isinstance(weights, FineTune) and weights.stays:
        yield from _with_earlier(weights)


def _with_earlier(node: FineTune | None) -> Iterator[FineTune]:
    while node is not None:
        yield node
        node = node.before


def training_in(node: Node) -> FineTune | None:
    """Return the training that a node is; of a choice among trainings of the same site and fold, the first one."""
    if isinstance(node, Best):
        found = [training_in(candidate) for candidate in node.candidates]
        places = {(training.site, training.fold) if training else None for training in found}
        return found[0] if len(places) == 1 else None
    return node if isinstance(node, FineTune) else None


def ensemble_in(node: Node) -> Ensemble | None:
    """Return the ensemble that a node is; of a choice among ensembles, which differ in routes alone, the first one."""
    if isinstance(node, Best):
        return ensemble_in(node.candidates[0])
    return node if isinstance(node, Ensemble) else None


def models_in(node: Node) -> int:
    """Return the number of models whose probabilities are averaged: 1 unless the node is or chooses an ensemble."""
    ensemble = ensemble_in(node)
    return 1 if ensemble is None else len(ensemble.members)


def validation_folds(node: Evaluate) -> tuple[int, ...]:
    """Return the folds whose validation patients are scored: of an ensemble of folds, the folds of all its members.

    Of these patients each is segmented by the one member whose training held it out.
    """
    ensemble = ensemble_in(node.weights)
    if ensemble is not None and ensemble.is_of_folds_at(node.site):
        return tuple(fold_of(member) for member in ensemble.members)
    return (node.fold,)


def best_of(candidates: tuple[Node, ...], at: str) -> Node:
    """Return the node that chooses among candidates by validation Dice at a site, or the only candidate."""
    return candidates[0] if len(candidates) == 1 else Best(candidates, at, "validation")


def parents_first(wanted: Iterable[Node]) -> Iterator[Node]:
    """Yield nodes and all their ancestors, each once, parents before children."""
    seen: set[str] = set()
    stack: list[tuple[Node, bool]] = [(node, False) for node in wanted]
    stack.reverse()
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            yield node
        elif node.id not in seen:
            seen.add(node.id)
            stack.append((node, True))
            stack += [(parent, False) for parent in reversed(node.parents) if parent.id not in seen]


def visit_of(node: FineTune) -> int:
    """Return how often weights were trained at a training's site before; the rounds of one annealing are one visit.

    No visit repeats the batches and the augmentation of an earlier one: the number enters the stage's random seeds.
    """
    earlier = -(node.schedule.first > 0)  # a later round belongs to the visit of the annealing's beginning
    level = _trainings((node.parent,))
    while level:
        earlier += any(part.site == node.site and part.trains and part.schedule.first == 0 for part in level)
        level = _trainings(part.parent for part in level)
    return max(earlier, 0)  # the annealing of a model that changes places began at another site


def _trainings(starts: Iterable[Node]) -> list[FineTune]:
    """Return the trainings that made some weights: of an average its parts, of a choice those of a candidate."""
    found: dict[FineTune, None] = {}
    for start in starts:
        while isinstance(start, Best | Refilled):
            start = start.parents[0]  # the other candidates of a choice have visited the same sites
        parts = start.parts if isinstance(start, Average) else (start,)
        found |= dict.fromkeys(part for part in parts if isinstance(part, FineTune))
    return list(found)


def travelled(node: Node) -> tuple[str, ...]:
    """Return the sites on which weights have travelled, without the sites before an average.

    All members of an ensemble of folds have travelled alike; of other ensembles, the first member counts.
    """
    if isinstance(node, FineTune):
        return (*travelled(node.parent), node.site)
    return travelled(node.parents[0]) if isinstance(node, Best | Ensemble | Refilled) else ()


def way_of(node: Node, *, settings: bool = True) -> str:
    """Return the origin of weights in words: "B → C → A", "FedAvg, round 3", "A + B + C".

    Args:
        node: the node of the weights.
        settings: name the settings of a route's hops too, "B → C → A (rate 0.0001)"; a choice among settings has none.
    """
    if isinstance(node, FineTune) and not node.trains:
        return f"{way_of(node.parent)}, {RE_ESTIMATED}"
    if isinstance(node, FineTune) and node.stays == "everything":
        return f"{_personal(node)}, λ {node.proximal_mu:g}, round {_round(node)}"
    if isinstance(node, FineTune):
        before = way_of(node.parent, settings=False)
        setting = f" ({words})" if settings and (words := _setting(node)) else ""
        site = f"{node.site} without {listed(node.without)}" if node.without else node.site
        return f"{before} → {site}{setting}" if before else site
    if isinstance(node, Soup):
        return f"mean of {count(len(node.parts), 'model')}"
    if isinstance(node, Average):
        return f"{_title(node)}, round {_round(node.parts[0])}"
    if isinstance(node, Completed | Refilled):
        return way_of(node.weights, settings=settings)
    if isinstance(node, BestElsewhere):
        best = Best(node.candidates, node.sites[0], node.split)
        several = isinstance(node.candidates[0], FineTune) and len(node.candidates) > 1
        return f"{f'best of {len(node.candidates)} routes' if several else way_of(best)}, chosen elsewhere"
    if isinstance(node, Best):
        first = node.candidates[0]
        if isinstance(first, Ensemble) and len(node.candidates) == 1:
            return way_of(first)
        if isinstance(first, Ensemble):
            return f"best of {len(node.candidates)} routes, {len(first.members)} folds"
        if isinstance(first, FineTune) and not first.trains:
            parents = tuple(parent for candidate in node.candidates for parent in candidate.parents)
            return f"{way_of(replace(node, candidates=parents))}, {RE_ESTIMATED}"
        if isinstance(first, FineTune) and first.stays == "everything":
            return f"{_personal(first)}, best round"
        average = first.weights if isinstance(first, Completed) else first
        if isinstance(average, Average):
            return f"{_title(average)}, best round"
        return way_of(first, settings=False)
    if isinstance(node, Evaluate):
        return f"{way_of(node.weights)} at {node.site}"
    if isinstance(node, Ensemble):
        ways = list(dict.fromkeys(map(way_of, node.members)))
        return " + ".join(ways) if len(ways) > 1 else f"{ways[0]}, {len(node.members)} folds"
    return ""


def _title(average: Average) -> str:
    strategy = STRATEGIES[average.strategy]
    return strategy.local_title if average.local else strategy.title


def _personal(node: FineTune) -> str:
    """Return the name of personal models; in the first round, before any average, that of FedAvg's."""
    strategy = node.parent.strategy if isinstance(node.parent, Average) else next(iter(STRATEGIES))
    return STRATEGIES[strategy].personal_title


def _round(part: FineTune) -> str:
    """Return the number of a training's round, with the epochs of a round if they are several."""
    setting = f" of {part.schedule.epochs} epochs" if part.schedule.epochs > 1 else ""
    return f"{part.schedule.last // part.schedule.epochs}{setting}"


def _setting(node: FineTune) -> str:
    """Return the settings of a training on a route in words; empty for a first training, and for a round's."""
    pull = f"L2-SP {node.proximal_mu:g}" if node.proximal_mu and travelled(node.parent) else ""
    norm = "own batch norm" if node.stays == "batch-norm" and travelled(node.parent) else ""
    return ", ".join(filter(None, [node.hop.words if node.hop else "", pull, norm]))


def rounds_tried(model: Node) -> int:
    """Return the most rounds that any setting of a model's averages had; 0 for a model without averages behind it."""
    if isinstance(model, Average) or (isinstance(model, FineTune) and model.stays == "everything"):
        schedule = (model.parts[0] if isinstance(model, Average) else model).schedule
        return schedule.total_epochs // schedule.epochs
    if isinstance(model, FineTune):
        return rounds_tried(model.parent)
    if isinstance(model, Best | Ensemble):
        return max(map(rounds_tried, model.candidates if isinstance(model, Best) else model.members))
    return rounds_tried(model.weights) if isinstance(model, Completed | Refilled) else 0

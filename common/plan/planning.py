"""A study's methods as one graph of stages (`common.plan.graph`).

`plan` is a pure function of the study, the census (how many training slices each site has) and, where
routes grow, the hops chosen so far. The coordinator calls it to know what to do; a site calls it to know
what its approved study may ask of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from common.errors import RelayError
from common.plan.graph import (
    Average,
    Best,
    Evaluate,
    FineTune,
    Keep,
    Node,
    Schedule,
    Start,
    ballot,
    best_of,
    fold_of,
    parents_first,
)
from common.study import POOLED, FederatedPart, Study

Census = Mapping[str, tuple[int, ...]]
"""For each site the number of chosen training slices, one a fold."""
Choices = Mapping[str, tuple[str, ...]]
"""Where routes grow: for each target the sources chosen so far, in the order of travel; the target itself at the
end says that its route is complete. A target that is not named has no source yet."""

Rounds = Callable[[Study, FederatedPart, int, Census], int]
"""How many rounds a federated method has, from its local epochs and the census."""


@dataclass(frozen=True)
class Row:
    """A figure of the comparison: one method's weights, for one target and fold."""

    method: str
    """baseline, longer, sequential, cyclic, greedy, unadapted, pooled, a strategy, or one of the last two with
    "-then-target"."""
    route: tuple[str, ...]
    """The sites in the order in which they train; those of a federated method in the study's order."""
    target: str
    fold: int
    model: Node
    validation: Node
    """What the fold is chosen by: a FineTune at the target, or an Evaluate on its validation patients."""
    test: Evaluate | None
    """None where the study looks at no test patient."""


@dataclass(frozen=True)
class Candidate:
    """A route that a target's next hop may be chosen from."""

    route: tuple[str, ...]
    models: tuple[FineTune, ...]
    """One a fold: trained at the target last."""


@dataclass(frozen=True)
class Plan:
    """The rows asked for, and every node that is to be worked out, parents first."""

    rows: tuple[Row, ...]
    nodes: tuple[Node, ...]
    tried: tuple[FineTune, ...] = ()
    """Where routes grow: the last stage of every route that was or is to be tried."""
    growing: Mapping[str, tuple[Candidate, ...]] = field(default_factory=dict)
    """By target, what its next hop is to be chosen from; the route so far, if there is one, first."""

    @cached_property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}


def plan(
    study: Study,
    census: Census,
    choices: Choices | None = None,
    *,
    rounds: Rounds | None = None,
    at: str | None = None,
) -> Plan:
    """All methods of a study as one graph.

    Args:
        rounds: how many rounds a federated method has; `rounds_of` unless given.
        at: the one site whose stages are asked about. Of the routes that are tried, those whose last two stages are
            elsewhere are then left out, since an earlier stage ends a shorter one: of a hundred sites' ten thousand
            routes two hundred stay, and a site makes the plan for every order.

    Raises:
        RelayError: the census lacks a site of the study, or the choices are none that the study allows.
    """
    for site in (*study.sites, *((POOLED,) if study.methods.pooled else ())):
        if site not in census:
            raise RelayError(f"Nothing is known of site {site} yet; every site has to describe its data first.")
    choices = choices or {}
    _check(study, choices)
    rows = tuple(_rows(study, census, choices, rounds or rounds_of))
    growing = {}
    tried: list[FineTune] = []
    for target in _growing(study):
        chosen = choices.get(target, ())
        made = {
            route: tuple(_route(study, route, fold) for fold in study.split.run)
            for route in _tried(study, target, chosen)
            if at is None or at in route[-2:]
        }
        tried += [node for models in made.values() for node in models]
        if chosen[-1:] != (target,):
            candidates = [route for route in made if route == (*chosen, target) or len(route) == len(chosen) + 2]
            growing[target] = tuple(Candidate(route, made[route]) for route in candidates)
    wanted = [node for row in rows for node in (row.test or row.model, row.validation)]
    nodes = tuple(parents_first([*wanted, *tried, *_forgetting(study, rows)]))
    return Plan(rows, nodes, tuple(tried), growing)


def routes_to(study: Study, target: str) -> list[tuple[str, ...]]:
    """The routes of at least one hop that end at a target, shortest first, in the study's order of sites.

    None where routes grow: which they are shows in the course of the study.
    """
    part = study.methods.sequential
    if part.routes == "all":
        others = [site for site in study.sites if site != target]
        hops = range(1, _most_hops(study) + 1)
        return [(*sources, target) for n in hops for sources in itertools.permutations(others, n)]
    if isinstance(part.routes, str):
        return []
    return sorted(dict.fromkeys(route for route in part.routes if route[-1] == target), key=len)


def _growing(study: Study) -> tuple[str, ...]:
    """The targets whose routes grow hop by hop."""
    return study.sites if study.methods.sequential.routes == "greedy" and len(study.sites) > 1 else ()


def _most_hops(study: Study) -> int:
    return min(study.methods.sequential.max_hops, len(study.sites) - 1)


def _check(study: Study, choices: Choices) -> None:
    """Raises RelayError unless each choice is a route of the study without repetition, or the beginning of one."""
    for target, chosen in choices.items():
        sources = [site for site in chosen if site != target]
        complete = chosen[-1:] == (target,)
        if (
            target not in _growing(study)
            or not set(chosen) <= set(study.sites)
            or len(chosen) != len(sources) + complete
            or len(set(sources)) < len(sources)
            or not complete <= len(sources) <= _most_hops(study)
        ):
            raise RelayError(f"{' → '.join(chosen) or 'nothing'} is no route to {target} that this study could choose.")


def _tried(study: Study, target: str, chosen: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every route that was or is to be tried on the way to a choice, in the order of trying."""
    sources = tuple(site for site in chosen if site != target)
    tried = []
    # A complete route of fewer hops than allowed was compared with all that are one hop longer.
    for hop in range(min(len(sources) + 1, _most_hops(study))):
        before = sources[:hop]
        tried += [(*before, site, target) for site in study.sites if site not in (*before, target)]
    return tried


def grown(
    study: Study, growing: Mapping[str, tuple[Candidate, ...]], choices: Choices, dice: Callable[[Node], float | None]
) -> dict[str, tuple[str, ...]]:
    """The choices, one hop further wherever all that the next hop is chosen from is known.

    A hop is the source whose route has the best validation Dice at the target, in the mean over the folds that
    are run; the first in the study's order among equals. A route is complete when no further hop is better, or
    none is allowed.

    Args:
        growing: what there is to choose from; see `Plan`.
        dice: the validation Dice of a node, or None where it is not known yet.
    """
    result = {target: tuple(chosen) for target, chosen in choices.items()}
    for target, candidates in growing.items():
        means: dict[tuple[str, ...], float] = {}
        for candidate in candidates:
            scores = [dice(model) for model in candidate.models]
            known = [score for score in scores if score is not None]
            if len(known) == len(scores):
                means[candidate.route] = sum(known) / len(known)
        if len(means) == len(candidates):
            best = max(means, key=means.__getitem__)
            complete = best == (*result.get(target, ()), target) or len(best) - 1 == _most_hops(study)
            result[target] = best if complete else best[:-1]
    return result


def batches_per_epoch(slices: int, batch: int) -> int:
    """Full batches and a smaller last one; a single slice left over joins the batch before it."""
    full, rest = divmod(slices, batch)
    return max(1, full + (rest > 1))


def _rows(study: Study, census: Census, choices: Choices, number: Rounds) -> Iterator[Row]:
    methods, folds = study.methods, study.split.run
    rounds = {
        part.strategy: [tuple(_all_rounds(study, part, fold, census, number)) for fold in folds]
        for part in methods.federated
    }
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
        if choices.get(target, ())[-1:] == (target,):
            for fold in folds:
                model = _route(study, tuple(choices[target]), fold)
                yield _row(study, "greedy", tuple(choices[target]), target, fold, model)
        if methods.cyclic.laps:
            for fold in folds:
                yield _row(study, "cyclic", laps_to(study, target), target, fold, _cyclic(study, target, fold))
        if methods.unadapted:
            for source in (site for site in study.sites if site != target):
                for fold in folds:
                    yield _row(study, "unadapted", (source,), target, fold, _route(study, (source,), fold))
        for part in methods.federated:
            averages = [best_of(of_fold, target) for of_fold in rounds[part.strategy]]
            for fold, average in zip(folds, averages, strict=True):
                yield _row(study, part.strategy, study.sites, target, fold, average)
            if part.then_target:
                route = (*study.sites, target)
                for fold, average in zip(folds, averages, strict=True):
                    tuned = _then(study, target, average)
                    yield _row(study, f"{part.strategy}-then-target", route, target, fold, tuned)
        if methods.pooled:
            for fold in folds:
                yield _row(study, POOLED, (POOLED,), target, fold, _route(study, (POOLED,), fold))
            if methods.pooled_then_target:
                for fold in folds:
                    tuned = _then(study, target, _route(study, (POOLED,), fold))
                    yield _row(study, f"{POOLED}-then-target", (POOLED, target), target, fold, tuned)


def _row(study: Study, method: str, route: tuple[str, ...], target: str, fold: int, model: Node) -> Row:
    return Row(
        method=method,
        route=route,
        target=target,
        fold=fold,
        model=model,
        validation=ballot(model, target, fold),
        test=Evaluate(target, fold, "test", model) if study.methods.scored_on == "test" else None,
    )


def _forgetting(study: Study, rows: tuple[Row, ...]) -> Iterator[Evaluate]:
    """What every site's held-out patients have of the travelling models, after every hop.

    All folds' models: which of them are handed on shows only later.
    """
    if not study.methods.forgetting or study.methods.scored_on != "test":
        return
    seen: set[Node] = set()
    stack: list[Node] = [row.model for row in rows if row.method in ("sequential", "cyclic", "greedy")]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        stack += node.candidates if isinstance(node, Best) else node.parents
        if isinstance(node, FineTune):
            yield from (Evaluate(site, node.fold, "test", node) for site in study.sites)


def _then(study: Study, target: str, model: Node) -> FineTune:
    """Weights in which the target took part, fine-tuned there.

    Always of the same fold: another fold's weights have trained on the patients that this fold is chosen by.
    """
    return FineTune(target, fold_of(model), model, _schedule(study.training.epochs, study.training.keep))


def laps_to(study: Study, target: str) -> tuple[str, ...]:
    """The sites in the study's order, round and round, ending with the target."""
    after = study.sites.index(target) + 1
    return (*study.sites[after:], *study.sites[:after]) * study.methods.cyclic.laps


def _cyclic(study: Study, target: str, fold: int) -> FineTune:
    part = study.methods.cyclic
    epochs = part.epochs or max(1, study.training.epochs // part.laps)
    node: Node = Start()
    for site in laps_to(study, target):
        node = FineTune(site, fold, node, _schedule(epochs, study.training.keep))
    assert isinstance(node, FineTune)
    return node


def _route(study: Study, route: tuple[str, ...], fold: int) -> FineTune:
    """The last stage of a route; its source is the best of the source's folds, or the same fold.

    A route that comes to a site twice keeps to one fold: the best of the others has trained there on the
    patients that this fold is chosen by.
    """
    schedule = _schedule(study.training.epochs, study.training.keep)
    same_fold = study.split.source == "same-fold" or len(set(route)) < len(route)
    return _last_of(route, fold, None if same_fold else study.split.run, schedule)


@lru_cache(maxsize=2**15)  # a hundred sites try ten thousand routes, and plan again with every hop that is chosen
def _last_of(route: tuple[str, ...], fold: int, folds: range | None, schedule: Schedule) -> FineTune:
    """The last stage of a route. Args: folds: those that its source is the best of; None: of the same."""
    if len(route) == 1:
        return FineTune(route[0], fold, Start(), schedule)
    if folds is None:
        return FineTune(route[-1], fold, _last_of(route[:-1], fold, None, schedule), schedule)
    sources = tuple(_last_of(route[:-1], source_fold, folds, schedule) for source_fold in folds)
    return FineTune(route[-1], fold, best_of(sources, route[-2]), schedule)


def _schedule(epochs: int, keep: Keep) -> Schedule:
    return Schedule(total_epochs=epochs, first=0, last=epochs, keep=keep)


def _all_rounds(study: Study, part: FederatedPart, fold: int, census: Census, number: Rounds) -> Iterator[Average]:
    for local_epochs, mu in part.settings:
        yield from _rounds(study, part, fold, local_epochs, mu, number(study, part, local_epochs, census))


def _rounds(
    study: Study, part: FederatedPart, fold: int, local_epochs: int, mu: float, rounds: int
) -> Iterator[Average]:
    """One average a round; the rounds are consecutive slices of one cosine."""
    total = rounds * local_epochs
    parent: Node = Start()
    for number in range(rounds):
        first = number * local_epochs
        schedule = Schedule(total, first, first + local_epochs, "last")
        parts = tuple(FineTune(site, fold, parent, schedule, mu) for site in sorted(study.sites))
        parent = average = Average(parts, part.strategy)
        yield average


def rounds_of(study: Study, part: FederatedPart, local_epochs: int, census: Census) -> int:
    """Rounds asked for, or as many as come closest to the gradient steps of the study's longest route."""
    if part.rounds:
        return part.rounds
    folds = study.split.run
    longest = max(sum(_longest_in_steps(study, census, target, fold) for fold in folds) for target in study.sites)
    of_a_round = sum(_steps(study, census, site, fold) * local_epochs for site in study.sites for fold in folds)
    return max(1, round(longest / of_a_round))


def most_rounds(study: Study, part: FederatedPart, local_epochs: int, _: Census) -> int:
    """What `rounds_of` gives at most, whatever the census.

    A route that comes to no site more than n times has at most n times the steps of all sites together.
    """
    if part.rounds:
        return part.rounds
    routes = [route for target in study.sites for route in routes_to(study, target)]
    visits = max((route.count(site) for route in routes for site in route), default=1)
    return max(1, round(visits * study.training.epochs / local_epochs))


def _steps(study: Study, census: Census, site: str, fold: int) -> int:
    """Gradient steps of an epoch."""
    return batches_per_epoch(census[site][fold], study.training.batch)


def _longest_in_steps(study: Study, census: Census, target: str, fold: int) -> int:
    """Gradient steps of the longest route to a target; of all sites together where there is no route."""
    part = study.methods.sequential

    def steps(sites: Iterable[str]) -> int:
        return sum(_steps(study, census, site, fold) for site in sites) * study.training.epochs

    if part.routes in ("all", "greedy"):
        others = sorted((site for site in study.sites if site != target), key=lambda site: -steps((site,)))
        return steps((target, *others[: _most_hops(study)]))
    return max((steps(route) for route in routes_to(study, target)), default=steps(study.sites))


def _longest_in_epochs(study: Study, census: Census, target: str, fold: int) -> int:
    """Epochs at the target that come closest to the gradient steps of its longest route."""
    steps = _longest_in_steps(study, census, target, fold)
    return max(1, round(steps / _steps(study, census, target, fold)))

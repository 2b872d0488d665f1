"""The cost of stages, counted from the graph: trainings, gradient steps, and bytes sent and received."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.config.study import Study
from common.plan.graph import Best, Completed, Evaluate, FineTune, Node, Refilled, lacks_batch_norm, models_in
from common.plan.rounds import batches_per_epoch
from common.plan.routes import along, every_route, most_hops
from common.plan.values import Census

MOST_STAGES = 50_000
"""The most last stages of routes for which all stages are made only to be counted."""


@dataclass(frozen=True)
class Cost:
    """The cost of some stages."""

    trainings: int
    """Fine-tuning stages."""
    scorings: int
    """Scoring stages, and estimates of batch norm's statistics, which score their weights."""
    gradient_steps: int
    bytes: int
    """Bytes of weights sent and received."""


def cost_of(nodes: Iterable[Node], *, steps: Callable[[FineTune], int], weight_bytes: int, norm_bytes: int = 0) -> Cost:
    """Return the cost of some nodes, each counted once.

    A stage receives its start weights, unless its own site made these weights; a training also sends its weights back,
    and so does an estimate of batch norm's statistics. Tensors that stay at a site are not sent.

    Args:
        nodes: the stages; nodes of other kinds cost nothing.
        steps: returns the gradient steps of a training.
        weight_bytes: bytes of all tensors of the network.
        norm_bytes: bytes of batch norm's tensors among them.
    """
    trainings = scorings = gradient_steps = transfers = without_norm = 0
    for node in dict.fromkeys(nodes):
        if isinstance(node, FineTune):
            trainings += node.trains
            scorings += not node.trains
            gradient_steps += steps(node)
            sent, received = node.stays != "everything", made_at(node.parent) != node.site
            transfers += sent + received
            without_norm += (node.stays == "batch-norm") + (received and lacks_batch_norm(node.parent))
        elif isinstance(node, Evaluate):
            scorings += 1
            # A site has put its own models away by the time at which an ensemble needs them together.
            several = models_in(node.weights) > 1
            received = several or made_at(node.weights) != node.site
            transfers += models_in(node.weights) if several else received
            without_norm += received and lacks_batch_norm(node.weights)
    return Cost(trainings, scorings, gradient_steps, transfers * weight_bytes - without_norm * norm_bytes)


def made_at(weights: Node) -> str | None:
    """Return the site that made some weights; None for the coordinator, or if the site depends on a choice."""
    if isinstance(weights, FineTune):
        return weights.site
    if isinstance(weights, Completed | Refilled):
        return made_at(weights.weights)
    if isinstance(weights, Best):
        places = {made_at(candidate) for candidate in weights.candidates}
        return places.pop() if len(places) == 1 else None
    return None


def slices_in(census: Census, node: FineTune) -> int:
    """Return the training slices of a training's fold at its site; of pooled data, without those of sites left out."""
    return census[node.site][node.fold] - sum(census[site][node.fold] for site in node.without)


def planned_steps(study: Study, census: Census) -> Callable[[FineTune], int]:
    """Return a function that gives the planned gradient steps of a training."""

    def steps(node: FineTune) -> int:
        slices = slices_in(census, node) * (node.share or 1)  # about so many, since patients differ
        return node.schedule.epochs * batches_per_epoch(math.ceil(slices), study.training.batch)

    return steps


def depths(
    nodes: Iterable[Node], *, steps: Callable[[FineTune], int], winner: Callable[[Best], Node] | None = None
) -> dict[Node, int]:
    """Return the sequential depth of each node: the most gradient steps that follow one another on the way to it.

    Sites train side by side in a round, so that of a round the site with the most steps counts.

    Args:
        nodes: the nodes of a plan, parents first.
        steps: returns the gradient steps of a training.
        winner: returns the candidate chosen by a `Best`; None: the deepest candidate counts.
    """
    found: dict[Node, int] = {}
    for node in nodes:
        parents = (winner(node),) if winner and isinstance(node, Best) else node.parents
        own = steps(node) if isinstance(node, FineTune) and node.trains else 0
        found[node] = own + max((found[parent] for parent in parents), default=0)
    return found


def steps_of_all_routes(study: Study, census: Census) -> int | None:
    """Return the gradient steps of all routes to all targets, each stage counted once; None for too many routes.

    This is what a study of all routes takes, beside a search that trains some of them.

    Args:
        study: a plain study; its search and its list of routes play no part.
        census: the training slices of each site, a number for each fold.
    """
    others = len(study.sites) - 1
    routes = len(study.sites) * sum(math.perm(others, hops) for hops in range(1, most_hops(study) + 1))
    if routes * len(study.split.run) > MOST_STAGES:
        return None
    ends = (
        along(study, route, fold)
        for target in study.sites
        for route in every_route(study, target)
        for fold in study.split.run
    )
    steps = planned_steps(study, census)
    return sum(steps(node) for node in all_behind(ends) if isinstance(node, FineTune))


def behind(node: Node, winner: Callable[[Best], Node]) -> list[Node]:
    """Return a node and all its ancestors, each once; of a `Best`, only the winning candidate and its ancestors.

    Args:
        node: the node to begin with.
        winner: returns the candidate chosen by a `Best`.
    """
    seen: dict[Node, None] = {}
    stack = [node]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen[current] = None
        # reversed: the start weights come before a site's own tensors, so that a route's trainings come in their order
        stack += [winner(current)] if isinstance(current, Best) else reversed(current.parents)
    return list(seen)


def all_behind(nodes: Iterable[Node]) -> list[Node]:
    """Return nodes and all their ancestors, each once; of a `Best`, all candidates and their scores."""
    seen: dict[str, Node] = {}  # by their ids, which Python hashes once; a node's own hash is a call each time
    stack = list(nodes)
    while stack:
        current = stack.pop()
        if current.id not in seen:
            seen[current.id] = current
            stack += current.parents
    return list(seen.values())

"""What stages cost: gradient steps, and bytes that cross the wire, counted from the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.config.study import Study
from common.plan.graph import Best, Evaluate, FineTune, Node
from common.plan.rounds import batches_per_epoch
from common.plan.values import Census


@dataclass(frozen=True)
class Cost:
    trainings: int
    scorings: int
    gradient_steps: int
    bytes: int


def cost_of(nodes: Iterable[Node], *, steps: Callable[[FineTune], int], weight_bytes: int) -> Cost:
    """Return the cost of some nodes, each counted once.

    A stage receives the weights that it starts from, unless its site made them; a training sends its own back.

    Args:
        steps: a training's gradient steps.
        weight_bytes: of all tensors of the network.
    """
    trainings = scorings = gradient_steps = transfers = 0
    for node in dict.fromkeys(nodes):
        if isinstance(node, FineTune):
            trainings += 1
            gradient_steps += steps(node)
            transfers += 1 + (made_at(node.parent) != node.site)
        elif isinstance(node, Evaluate):
            scorings += 1
            transfers += made_at(node.weights) != node.site
    return Cost(trainings, scorings, gradient_steps, transfers * weight_bytes)


def made_at(weights: Node) -> str | None:
    """Return the site that made weights; None for the coordinator, or where it depends on a choice."""
    if isinstance(weights, FineTune):
        return weights.site
    if isinstance(weights, Best):
        places = {made_at(candidate) for candidate in weights.candidates}
        return places.pop() if len(places) == 1 else None
    return None


def planned_steps(study: Study, census: Census) -> Callable[[FineTune], int]:
    """Return the gradient steps of a training that has not run yet."""

    def steps(node: FineTune) -> int:
        return node.schedule.epochs * batches_per_epoch(census[node.site][node.fold], study.training.batch)

    return steps


def behind(node: Node, winner: Callable[[Best], Node]) -> list[Node]:
    """Return a node and all that it was made from, each once; of a choice, the candidate that was chosen alone."""
    seen: dict[Node, None] = {}
    stack = [node]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen[current] = None
        stack += [winner(current)] if isinstance(current, Best) else current.parents
    return list(seen)


def all_behind(nodes: Iterable[Node]) -> list[Node]:
    """Nodes and all that they need, discarded candidates and their scores included; each once."""
    seen: dict[Node, None] = {}
    stack = list(nodes)
    while stack:
        current = stack.pop()
        if current not in seen:
            seen[current] = None
            stack += current.parents
    return list(seen)

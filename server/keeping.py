"""Which weights somebody still needs: what may be taken away, and what has to be made again.

Weights are needed by a row of the comparison, by a stage that has not been worked out, and by a choice that
they may still win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from common.graph import Average, Best, Evaluate, FineTune, Node
from common.plan import Plan
from server.ledger import StageRecord

Dice = Callable[[Node], float | None]
"""The validation Dice of a node, or None where it is not known yet."""


def winner(best: Best, dice: Dice) -> Node:
    """The candidate with the best score, all of which are known; the first among equals."""
    scores = [dice(ballot) or 0.0 for ballot in best.ballots]
    return best.candidates[scores.index(max(scores))]


def used_by(node: Node, dice: Dice) -> Sequence[Node]:
    """The nodes whose weights are needed to work out a node, or to go on from it."""
    if isinstance(node, FineTune):
        return (node.parent,)
    if isinstance(node, Evaluate):
        return (node.weights,)
    if isinstance(node, Average):
        return (*node.parts, node.parts[0].parent)
    if isinstance(node, Best):
        return _may_win(node, dice)
    return ()


def _may_win(best: Best, dice: Dice) -> list[Node]:
    """The candidates that could still be chosen: the leading one, and those whose score is not known."""
    scores = [dice(ballot) for ballot in best.ballots]
    highest = max((score for score in scores if score is not None), default=None)
    leader = scores.index(highest) if highest is not None else None
    return [
        candidate
        for place, (candidate, score) in enumerate(zip(best.candidates, scores, strict=True))
        if score is None or place == leader
    ]


def to_make_again(found: Plan, records: Mapping[Node, StageRecord], has: Callable[[str], bool]) -> set[Node]:
    """The stages that are worked out, but whose weights are gone and needed.

    Args:
        records: what is known of the plan's nodes.
        has: whether weights of a digest are there.
    """

    def dice(node: Node) -> float | None:
        return records[node].dice if node in records else None

    needed = {row.model for row in found.rows}
    again: set[Node] = set()
    for node in reversed(found.nodes):
        lacking = node in records and node in needed and not has(records[node].weights)
        if lacking and not isinstance(node, Best):
            again.add(node)
        if lacking or node not in records:
            needed.update(used_by(node, dice))
    return again


def unneeded(
    nodes: Iterable[Node],
    *,
    sharing: Callable[[str], Iterable[Node]],
    children: Mapping[Node, Sequence[Node]],
    kept: set[Node],
    records: Mapping[Node, StageRecord],
) -> set[str]:
    """Of the weights of some nodes, the digests of those that nobody will ask for again.

    Args:
        sharing: all nodes whose weights have a digest: two ways may lead to the same weights.
        kept: nodes whose weights stay, whoever asks.
    """

    def dice(node: Node) -> float | None:
        return records[node].dice if node in records else None

    used: dict[Node, frozenset[Node]] = {}

    def needs(child: Node, node: Node) -> bool:
        if child not in used:
            used[child] = frozenset() if child in records else frozenset(used_by(child, dice))
        return node in used[child]

    def wanted(node: Node) -> bool:
        return node in kept or any(needs(child, node) for child in children.get(node, ()))

    digests = {records[node].weights for node in nodes if node in records and records[node].weights}
    return {digest for digest in digests if not any(wanted(node) for node in sharing(digest))}

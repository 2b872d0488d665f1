"""Which weights somebody still needs: what may be collected, as garbage is, and what has to be made again.

Weights are needed by a row of the comparison, by a stage that has not been worked out, and by a choice that
they may still win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from common.plan import Plan
from common.plan.graph import Average, Best, Evaluate, FineTune, Node, Start
from server.ledger.ledger import StageRecord

Dice = Callable[[Node], float | None]
"""The validation Dice of a node, or None where it is not known yet."""


def winner(best: Best, dice: Dice) -> Node:
    """Return the candidate with the best score, all of which are known; the first among equals."""
    scores = [dice(ballot) or 0.0 for ballot in best.ballots]
    return best.candidates[scores.index(max(scores))]


def inputs(node: Node) -> Sequence[Node]:
    """Return the nodes whose weights a node is worked out from, or is one of."""
    if isinstance(node, FineTune):
        return (node.parent,)
    if isinstance(node, Evaluate):
        return (node.weights,)
    if isinstance(node, Average):
        return (*node.parts, node.parts[0].parent)
    return node.candidates if isinstance(node, Best) else ()


def live_inputs(node: Node, dice: Dice) -> Sequence[Node]:
    """Return the inputs that are still needed: of a choice, the leading candidate and those whose score is not known,
    since the others have lost.
    """
    return _may_win(node, dice) if isinstance(node, Best) else inputs(node)


def _may_win(best: Best, dice: Dice) -> list[Node]:
    scores = [dice(ballot) for ballot in best.ballots]
    highest = max((score for score in scores if score is not None), default=None)
    leader = scores.index(highest) if highest is not None else None
    return [
        candidate
        for place, (candidate, score) in enumerate(zip(best.candidates, scores, strict=True))
        if score is None or place == leader
    ]


def roots(found: Plan) -> Iterator[Node]:
    """Yield the nodes whose weights stay, whoever else asks: of every row, and of what a route's next hop is chosen
    from.
    """
    yield Start()
    yield from (row.model for row in found.rows)
    for candidates in found.growing.values():
        yield from (model for candidate in candidates for model in candidate.models)


def to_remake(found: Plan, records: Mapping[Node, StageRecord], has: Callable[[str], bool]) -> set[Node]:
    """Return the stages that are worked out, but whose weights are gone and needed.

    Args:
        records: what is known of the plan's nodes.
        has: whether weights of a digest are there.
    """

    def dice(node: Node) -> float | None:
        return records[node].dice if node in records else None

    needed = set(roots(found))
    again: set[Node] = set()
    for node in reversed(found.nodes):
        lacking = node in records and node in needed and not has(records[node].weights)
        if lacking and not isinstance(node, Best):
            again.add(node)
        if lacking or node not in records:
            needed.update(live_inputs(node, dice))
    return again


def collectable(
    nodes: Iterable[Node],
    *,
    sharing: Callable[[str], Iterable[Node]],
    users: Mapping[Node, Sequence[Node]],
    kept: set[Node],
    records: Mapping[Node, StageRecord],
) -> set[str]:
    """Return, of the weights of some nodes, the digests of those that nobody will ask for again.

    Args:
        sharing: all nodes whose weights have a digest: two ways may lead to the same weights.
        users: by node, those that have it among their `inputs`.
        kept: nodes whose weights stay, whoever asks.
    """

    def dice(node: Node) -> float | None:
        return records[node].dice if node in records else None

    used: dict[Node, frozenset[Node]] = {}

    def needs(user: Node, node: Node) -> bool:
        if user not in used:
            used[user] = frozenset() if user in records else frozenset(live_inputs(user, dice))
        return node in used[user]

    def wanted(node: Node) -> bool:
        return node in kept or any(needs(user, node) for user in users.get(node, ()))

    digests = {records[node].weights for node in nodes if node in records and records[node].weights}
    return {digest for digest in digests if not any(wanted(node) for node in sharing(digest))}

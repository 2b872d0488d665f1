"""Retention of weights: needed weights, deletable weights, and weights to be made again.

Weights are needed by a row of the comparison, by an unfinished stage, and by a choice in which the weights may still
win. As in garbage collection, weights unreachable from all of these are collectable.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from common.plan import Candidate, Plan
from common.plan.graph import Average, Best, Completed, Ensemble, Evaluate, FineTune, Node, Refilled, ServerStep, Start
from common.scores import Score
from server.ledger.ledger import StageRecord

Dice = Callable[[Node], float | None]
"""Returns the validation Dice (0 to 1) of a node; None for a node not scored yet."""


def winner(best: Best, dice: Dice) -> Node:
    """Return the candidate with the best score, the first among equals; all scores must be known."""
    scores = [score or 0.0 for score in _scores(best, dice)]
    return best.candidates[scores.index(max(scores))]


def _scores(best: Best, dice: Dice) -> list[float | None]:
    """Return each candidate's score, the mean over its ballots; None where a ballot is not scored yet."""
    found = []
    for ballots in best.ballots:
        scores = [score for ballot in ballots if (score := dice(ballot)) is not None]
        found.append(statistics.fmean(scores) if len(scores) == len(ballots) else None)
    return found


def inputs(node: Node) -> Sequence[Node]:
    """Return the nodes whose weights enter a node's computation; for a `Best`, its candidates."""
    if isinstance(node, FineTune):
        return (node.parent,)
    if isinstance(node, Evaluate | Completed):
        return (node.weights,)
    if isinstance(node, Refilled):
        return (node.weights, Start())
    if isinstance(node, Average):
        return (*node.parts, node.parts[0].parent)
    if isinstance(node, Ensemble):
        return node.members
    return node.candidates if isinstance(node, Best) else ()


def live_inputs(node: Node, dice: Dice) -> Sequence[Node]:
    """Return the inputs that are still needed.

    Of a `Best`, the leading candidate and all candidates without a score are needed: the other candidates have lost.
    """
    return _may_win(node, dice) if isinstance(node, Best) else inputs(node)


def _may_win(best: Best, dice: Dice) -> list[Node]:
    """Return the candidates with a chance to win a choice: the leader, and all candidates without a score."""
    scores = _scores(best, dice)
    highest = max((score for score in scores if score is not None), default=None)
    leader = scores.index(highest) if highest is not None else None
    return [
        candidate
        for place, (candidate, score) in enumerate(zip(best.candidates, scores, strict=True))
        if score is None or place == leader
    ]


def roots(found: Plan, dice: Dice) -> Iterator[Node]:
    """Yield the nodes whose weights stay: the model of every row, and of every route that a search may still find."""
    yield Start()
    yield from (row.model for row in found.rows)
    for candidates in found.growing.values():
        beaten = set(losers(candidates, dice))
        yield from (model for candidate in candidates for model in candidate.models if model not in beaten)


def losers(candidates: Sequence[Candidate], dice: Dice) -> Iterator[Node]:
    """Yield the models of candidates in a search's step whose weights are of no use to the step itself any more.

    These are all scored models of routes that another route has beaten by the mean over the folds, the first among
    equals; and on a rung that trains with fewer epochs than the study's, all scored models.
    """
    means: list[float | None] = []
    for candidate in candidates:
        scores = [score for model in candidate.models if (score := dice(model)) is not None]
        means.append(statistics.fmean(scores) if len(scores) == len(candidate.models) else None)
    highest = max((mean for mean in means if mean is not None), default=None)
    leader = means.index(highest) if highest is not None else None
    for place, candidate in enumerate(candidates):
        if not candidate.final:
            yield from (model for model in candidate.models if dice(model) is not None)
        elif means[place] is not None and place != leader:
            yield from candidate.models


def to_remake(found: Plan, records: Mapping[Node, StageRecord], score: Score, has: Callable[[str], bool]) -> set[Node]:
    """Return the stages with a record whose weights or optimizer's state are needed, but deleted or lost.

    Args:
        found: the plan.
        records: the records of the plan's finished nodes.
        score: the score by which the study selects.
        has: returns whether the file with a digest exists.
    """

    def dice(node: Node) -> float | None:
        return records[node].value(score) if node in records else None

    needed = set(roots(found, dice))
    stepped: set[Node] = set()  # rounds whose optimizer's state is needed
    again: set[Node] = set()
    for node in reversed(found.nodes):
        files: list[str] = []
        if node in records:
            files += records[node].models if node in needed else ()
            files += [records[node].state] if node in stepped else []
        lacking = not all(map(has, files))
        if lacking and not isinstance(node, Best | Ensemble | Completed):
            again.add(node)
        if lacking or node not in records:
            needed.update(live_inputs(node, dice))
            if isinstance(node, ServerStep) and node.before:
                stepped.add(node.before)
    return again


def collectable(
    nodes: Iterable[Node],
    *,
    sharing: Callable[[str], Iterable[Node]],
    users: Mapping[Node, Sequence[Node]],
    kept: set[Node],
    records: Mapping[Node, StageRecord],
    score: Score,
    awaited: Callable[[Node], bool] = lambda _: False,
) -> set[str]:
    """Return the digests, among some nodes' files, that no row, choice or stage needs any more.

    The state of a server's optimizer is needed by the next round alone.

    Args:
        nodes: the nodes whose weights are examined.
        sharing: returns all nodes whose weights have a digest, since two routes may lead to the same weights.
        users: for each node, the nodes with this node among their `inputs`.
        kept: the nodes whose weights always stay; see `roots`.
        records: the records of the finished nodes.
        score: the score by which the study selects.
        awaited: returns whether stages that are not planned yet may need a node's weights.
    """

    def dice(node: Node) -> float | None:
        return records[node].value(score) if node in records else None

    used: dict[Node, frozenset[Node]] = {}

    def needs(user: Node, node: Node) -> bool:
        if user not in used:
            used[user] = frozenset() if user in records else frozenset(live_inputs(user, dice))
        return node in used[user]

    def wanted(node: Node) -> bool:
        return node in kept or any(needs(user, node) for user in users.get(node, ())) or awaited(node)

    def continues(node: Node) -> bool:
        steps = [user for user in users.get(node, ()) if isinstance(user, ServerStep) and user.before == node]
        return any(needs(step, node) for step in steps)

    known = [records[node] for node in nodes if node in records]
    models = {digest for record in known for digest in record.models}
    states = {record.state for record in known if record.state}
    return {digest for digest in models if not any(wanted(node) for node in sharing(digest))} | {
        digest for digest in states if not any(continues(node) for node in sharing(digest))
    }

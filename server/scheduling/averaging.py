"""A round's average: from the weights of the round's parts in the ledger to the averaged weights."""

from __future__ import annotations

from functools import partial

from common.model.network import staying_names
from common.model.weights import Weights
from common.plan.graph import Average, ServerStep
from common.strategies import STRATEGIES
from server import server_optimizer
from server.aggregation import LEAST, Contribution, aggregate
from server.freed_memory import give_back
from server.ledger.ledger import Ledger, StageRecord
from server.scheduling.absence import absence_text, absent_from
from server.scheduling.state import RunState, parts_of, slices_described
from server.transport.outcomes import Parked


def average(node: Average, state: RunState, ledger: Ledger) -> StageRecord:
    """Compute a round's average and add its record to the ledger.

    Raises:
        Parked: too few parts are left to average.
        RelayError: a part is missing or unexpected, or its tensors differ from the parent's.
    """
    parts = parts_of(node, state.records)
    if len(parts) < min(LEAST.get(node.strategy, 2), len(node.parts)):
        there = f"only {', '.join(parts)} was" if parts else "nobody was"
        raise Parked(f"{absence_text(absent_from(node, state.skipped))}; {there} left to average")
    parent = ledger.checked(state.records[node.parts[0].parent].models[0])
    # The weight of a part is what its site described before the first training, and not what came with the weights.
    described = slices_described(node, state.descriptions)
    given = {site: Contribution(ledger.checked(record.models[0]), described[site]) for site, record in parts.items()}
    without = staying_names(state.study.model, node.parts[0].stays)
    average_of = partial(aggregate, node.strategy, given, expected=frozenset(parts), parent=parent, without=without)
    moments: Weights = {}
    give_back()
    if isinstance(node, ServerStep):
        before = state.records[node.before].state if node.before else ""
        with server_optimizer.OptimizerStep(
            STRATEGIES[node.strategy], dict(node.settings), ledger.checked(before) if before else None
        ) as step:
            weights = average_of(step=step)
            moments = step.state
    else:
        weights = average_of()
    give_back()
    record = StageRecord(
        key=state.average_key(node, state.records),
        kind="average",
        fold=node.fold,
        parents=tuple(parts[site].models[0] for site in sorted(parts)),
        weights=ledger.put_weights(weights),
        state=ledger.put_weights(moments) if moments else "",
    )
    ledger.put(record)
    del weights, moments
    give_back()
    return record

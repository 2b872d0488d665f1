"""A study on paper begins the stages of a real run in the real order: the same scheduler, dispatcher and channels are
run in a world with a clock of its own, where an epoch takes some seconds, and then on paper."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from common.plan.graph import Evaluate, FineTune, Node
from deploy.planning.federation import Federation, sites_of
from deploy.planning.virtual_run import World, run_virtually
from server.ledger.ledger import StageRecord
from server.scheduling.dispatch import Dispatcher
from server.scheduling.scheduler import Scheduler
from server.scheduling.state import RunState
from server.transport.outcomes import Parked
from tests.faults.benches import bench
from tests.faults.history import Bench, History, world
from tests.faults.hospital import tiny

__all__ = ["tiny"]

SLOWER = {"A": 1.0, "B": 1.37, "C": 1.83}
"""How much slower a site is than the fastest, so that no two stages end at the same moment."""
MESSAGE = 0.15
"""Seconds of a message between the coordinator and a site, about as many as the world's engine takes."""

BENCHES = (
    bench(
        "routes",
        ("A", "B", "C"),
        310.0,
        1e6,
        baseline=True,
        sequential={"routes": (("B", "C", "A"), ("C", "B", "A"), ("A", "C", "B"))},
    ),
    bench("rounds", ("A", "B", "C"), 310.0, 1e6, federated=({"rounds": 3, "local_epochs": 1},), baseline=True),
    bench("growing", ("A", "B", "C"), 310.0, 1e6, sequential={"routes": "greedy"}),
    bench("halving", ("A", "B", "C"), 310.0, 1e6, sequential={"routes": "halving"}),
)


@pytest.mark.parametrize("of", BENCHES, ids=lambda of: of.name)
def test_a_study_on_paper_begins_the_stages_in_the_order_of_a_real_run(
    of: Bench, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[str, list[str]] = defaultdict(list)
    states: list[RunState] = []
    outcome, run = Dispatcher.outcome, Scheduler.run

    def noted(dispatcher: Dispatcher, node: FineTune | Evaluate) -> StageRecord | Parked:
        begun[node.site].append(node.id)
        return outcome(dispatcher, node)

    def kept(scheduler: Scheduler) -> RunState:
        states.append(run(scheduler))
        return states[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Dispatcher, "outcome", noted)
        patch.setattr(Scheduler, "run", kept)
        history = History(of, tmp_path, 0, ())
        history.hospitals.sleep = lambda seconds: history.kernel.sleep(
            seconds * SLOWER[next(name for name in SLOWER if history.kernel.process.name.endswith(name))]
        )
        with world(history):
            assert history.start() == ""
            real = history.kernel.now
    (state,) = states
    assert sum(map(len, begun.values())) >= 9

    on = Federation.model_validate(
        {
            "sites": tuple(
                {"names": (name,), "patients": 9, "slices": 99, "step_seconds": 1.0, "message_seconds": MESSAGE}
                for name in of.study.sites
            )
        }
    )
    sites = sites_of(on, of.study, tmp_path)

    def seconds(node: FineTune | Evaluate) -> float:
        epochs = node.schedule.epochs or 1 / 3 if isinstance(node, FineTune) else 0
        return of.epoch_seconds * SLOWER[node.site] * epochs

    def dice(weights: Node, site: str) -> float:
        if isinstance(weights, FineTune) and weights.site == site:
            return state.records[weights].value(state.score)
        scored = [node for node in state.records if isinstance(node, Evaluate) and node.weights == weights]
        return next(state.records[node].value(state.score) for node in scored if node.site == site)

    on_paper = World(on, sites)
    run_virtually(of.study, state.descriptions, on_paper, seconds, dice=dice)
    order: dict[str, list[str]] = defaultdict(list)
    for stage in on_paper.stages:
        order[stage.node.site].append(stage.node.id)
    assert order == begun
    assert on_paper.clock.now == pytest.approx(real, rel=0.01)

"""How much is left: it never grows, whatever a site has to do once more."""

from __future__ import annotations

from common.plan.graph import FineTune, Schedule, Start
from server.progress.events import Event
from server.scheduling.work import Work


def test_work_that_is_done_once_more_does_not_lengthen_what_is_left() -> None:
    events: list[Event] = []
    work = Work(events.append)
    stage = FineTune("B", 0, Start(), Schedule(4, 0, 4, "best"))
    for node in (stage, FineTune("C", 0, Start(), Schedule(4, 0, 4, "best"))):
        work.add(node, 100.0, waits=False)
    # After its third epoch the worker dies, and the stage goes on from its checkpoint after the first.
    for epoch in (1, 2, 3, 2, 3, 4):
        work.count(stage, epoch / 4, own=True)
        work.report("running", stage, epoch)
    assert [event.epoch for event in events] == [1, 2, 3, 2, 3, 4]
    assert [event.work_left for event in events] == [0.875, 0.75, 0.625, 0.625, 0.625, 0.5]
    work.finish(stage)
    work.report("done", stage)
    assert events[-1].work_left == 0.5

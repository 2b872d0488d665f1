"""The amount and the speed of a run's work, which every event carries."""

from __future__ import annotations

import threading
import time

from common.plan.graph import Evaluate, FineTune, Node, way_of
from server.progress.events import Event, Observer


class Work:
    """The amount of work of all stages at sites, total and finished; the threads of several sites share this object."""

    def __init__(self, observe: Observer) -> None:
        """Begin without work.

        Args:
            observe: is called with the events of `report`.
        """
        self.of: dict[Node, float] = {}
        """For each stage at a site, its work; see `server.scheduling.state.slices_shown`."""
        self._observe = observe
        self._share: dict[Node, float] = {}
        self._finished: set[Node] = set()
        self._all = self._done = self._own = 0.0
        self._counting = threading.Lock()
        self._began = time.monotonic()

    def add(self, node: FineTune | Evaluate, slices: float, *, waits: bool) -> None:
        """Add a stage.

        Args:
            node: the stage.
            slices: its work.
            waits: whether the stage waits for another run, and is thus no part of the remaining time.
        """
        with self._counting:
            self.of[node] = slices
            self._all += slices * (not waits)

    def leave(self, node: Node) -> None:
        """Leave the unfinished work of a node to another run."""
        with self._counting:
            self._all -= self.of.get(node, 0.0) * (1 - self._share.get(node, 0.0))

    def count(self, node: FineTune | Evaluate, share: float, *, own: bool) -> None:
        """Count a share of a stage as done.

        Work repeated after a dead process or refused weights is not counted twice, so the remaining work never grows.

        Args:
            node: the stage.
            share: the finished part of the stage, 0 to 1.
            own: whether this run did the work, which then counts for the run's speed.
        """
        with self._counting:
            before = self._share.get(node, 0.0)
            self._share[node] = max(share, before)
            further = (self._share[node] - before) * self.of[node]
            self._done += further
            self._own += further * own

    def finish(self, node: Node) -> None:
        """Count a node as settled, by this run or an earlier run."""
        if isinstance(node, FineTune | Evaluate):
            self.count(node, 1.0, own=False)
            self._finished.add(node)

    def report(self, kind: str, node: FineTune | Evaluate, epoch: int = 0, dice: float | None = None) -> None:
        """Call the observer with an event about a stage and the progress of the run.

        Args:
            kind: the event's kind; see `Event.kind`.
            node: the stage.
            epoch: epochs trained.
            dice: validation Dice of the last epoch, 0 to 1.
        """
        total = self._all or 1.0
        elapsed = max(time.monotonic() - self._began, 1e-6)
        self._observe(
            Event(
                kind=kind,
                site=node.site,
                text=way_of(node) if isinstance(node, FineTune) else way_of(node.weights),
                stage=_stage(node),
                fold=node.fold,
                epoch=epoch,
                epochs=node.schedule.epochs if isinstance(node, FineTune) else 0,
                dice=dice,
                stages_done=len(self._finished),
                stages=len(self.of),
                work_left=max(0.0, 1 - self._done / total),
                rate=self._own / total / elapsed,
            )
        )


def _stage(node: FineTune | Evaluate) -> str:
    """Return the kind of a stage; see `Event.stage`."""
    if isinstance(node, Evaluate):
        return node.split
    return "fine-tune" if node.trains else "re-estimate"

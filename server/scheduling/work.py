"""How much of a run's work is done, and how fast it goes: what every event says beside its own."""

from __future__ import annotations

import threading
import time

from common.plan.graph import Evaluate, FineTune, Node, way_of
from server.progress.events import Event, Observer


class Work:
    """The sums over all stages at sites, kept up as they change. Channels' threads count here as well."""

    def __init__(self, observe: Observer) -> None:
        self.of: dict[Node, float] = {}
        """Of every stage at a site, what it takes; see `server.scheduling.state.slices_shown`."""
        self._observe = observe
        self._share: dict[Node, float] = {}
        self._finished: set[Node] = set()
        self._all = self._done = self._own = 0.0
        self._counting = threading.Lock()
        self._began = time.monotonic()

    def add(self, node: FineTune | Evaluate, slices: float, *, waits: bool) -> None:
        """Args: waits: for another run; it is no part of the time that is left."""
        with self._counting:
            self.of[node] = slices
            self._all += slices * (not waits)

    def leave(self, node: Node) -> None:
        """Leave what is not done of a node to another run."""
        with self._counting:
            self._all -= self.of.get(node, 0.0) * (1 - self._share.get(node, 0.0))

    def count(self, node: FineTune | Evaluate, share: float, *, own: bool) -> None:
        """Count a share of a stage as done. Args: own: by this run, which knows by it how fast it is.

        What a stage has to do once more, since its process died or its weights were refused, is not counted twice:
        the work that is left never grows.
        """
        with self._counting:
            before = self._share.get(node, 0.0)
            self._share[node] = max(share, before)
            further = (self._share[node] - before) * self.of[node]
            self._done += further
            self._own += further * own

    def finish(self, node: Node) -> None:
        """Count a node as settled, by this run or an earlier one."""
        if isinstance(node, FineTune | Evaluate):
            self.count(node, 1.0, own=False)
            self._finished.add(node)

    def report(self, kind: str, node: FineTune | Evaluate, epoch: int = 0, dice: float | None = None) -> None:
        """Call the observer with what a stage does, and how far the run is."""
        total = self._all or 1.0
        elapsed = max(time.monotonic() - self._began, 1e-6)
        self._observe(
            Event(
                kind=kind,
                site=node.site,
                text=way_of(node) if isinstance(node, FineTune) else way_of(node.weights),
                stage="fine-tune" if isinstance(node, FineTune) else node.split,
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

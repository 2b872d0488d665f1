"""Places for the workers of a machine: as many at once as asked for, and no more than fit into its memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common.text import short_bytes
from deploy.memory import free_memory

log = logging.getLogger("relay")

LOOK_EVERY = 0.5
"""Seconds between two looks at the free memory."""


@dataclass(eq=False)
class Worker:
    """A worker that has a place."""

    kind: str
    """What it does; workers of a kind are taken to need the same memory."""
    held: int = 0
    """The most bytes that it has held, as far as it has said."""


class Places:
    """Places for workers, of which the next is given away once its worker fits beside those that run.

    What a kind of worker needs is the most that any of that kind has held in this run. Of the first of a kind nothing
    is known: the second waits until the first has finished some part of its work, such as an epoch, or has ended. A
    worker alone always gets a place, since it needs its memory at any time.

    Args:
        at_once: the most workers at once.
        free: returns the free bytes of this machine; None where they are not known, and nobody waits for memory.
    """

    def __init__(self, at_once: int, *, free: Callable[[], int | None] = free_memory) -> None:
        self._at_once, self._free = at_once, free
        self._changed = threading.Condition()
        self._running: list[Worker] = []
        self._needs: dict[str, int] = {}
        self._warned = False

    @contextmanager
    def place(self, kind: str) -> Iterator[Worker]:
        """Wait for a place, and hold it."""
        worker = Worker(kind)
        with self._changed:
            while not self._fits(kind):
                self._changed.wait(LOOK_EVERY)
            self._running.append(worker)
        try:
            yield worker
        finally:
            with self._changed:
                self._running.remove(worker)
                self._changed.notify_all()

    def note(self, worker: Worker, held: int) -> None:
        """Note the most bytes that a worker has held, once it has finished some part of its work."""
        with self._changed:
            worker.held = held
            self._needs[worker.kind] = max(self._needs.get(worker.kind, 0), held)
            self._changed.notify_all()

    def lost(self) -> int:
        """Note that the system ended a worker, most often for want of memory: fewer than ran then run from now on.

        Called while the worker still has its place.

        Returns:
            The most workers at once from now on.
        """
        with self._changed:
            self._at_once = max(1, len(self._running) - 1)
            return self._at_once

    def _fits(self, kind: str) -> bool:
        if not self._running:
            return True
        if len(self._running) >= self._at_once:
            return False
        free = self._free()
        if free is None:
            return True
        if kind not in self._needs:
            return all(worker.kind != kind for worker in self._running)
        # Those that run may not yet hold all that they will.
        to_come = sum(max(0, self._needs.get(worker.kind, 0) - worker.held) for worker in self._running)
        fits = self._needs[kind] + to_come <= free
        if not fits and not self._warned:
            self._warned = True
            log.warning(
                "A stage takes %s of memory, and %s are free: for now fewer than %d stages run at once.",
                short_bytes(self._needs[kind]),
                short_bytes(max(0, free - to_come)),
                self._at_once,
            )
        return fits

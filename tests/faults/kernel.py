"""One thread that plays many machines: tasks take turns, the clock jumps to what comes next, a seed decides.

Production code sees `time`, `threading` and `queue` of the kernel in the place of Python's own. A task gives way
to others where it sleeps, waits, touches a file or asks Flower's engine; who goes on is drawn from the seed.
"""

from __future__ import annotations

import math
import queue
import random
import threading
import types
from collections.abc import Callable
from typing import Any

import greenlet
from flwr.supercore.task_identity import TaskIdentity

MOST_TURNS = 400_000
"""More turns than any history takes that gets anywhere."""


class Killed(BaseException):
    """Raised in every task of a process that was killed, and whenever it touches anything afterwards."""


class Stuck(AssertionError):
    """Nobody can go on."""


class Process:
    """What a SIGKILL ends: all its tasks at once. `node` is Flower's id of where it runs."""

    def __init__(self, name: str, actor: str, node: int) -> None:
        self.name, self.actor, self.node = name, actor, node
        self.alive = True
        self.at_end: list[Callable[[], object]] = []
        """What the operating system does when it ends: locks are let go, children follow."""

    def __repr__(self) -> str:
        return self.name


class Task:
    """One thread of a process."""

    def __init__(self, process: Process, work: Callable[[], object], parent: greenlet.greenlet) -> None:
        self.process = process
        self.wake = 0.0
        self.condition: Callable[[], bool] | None = None
        self.greenlet = greenlet.greenlet(work, parent)

    def ready(self, now: float) -> bool:
        return self.wake <= now or (self.condition is not None and self.condition())


class Kernel:
    """The tasks, the clock and the seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.jumped: dict[str, float] = {}
        """By actor, how far its clocks have jumped."""
        self.tasks: list[Task] = []
        self.turns = 0
        self._hub = greenlet.getcurrent()
        self._thread = threading.get_ident()
        self._turn: Task | None = None
        self._failures: list[BaseException] = []

    @property
    def current(self) -> Task | None:
        """Whose turn it is. Nobody's in a real thread: one that another test has left still writes, and is let be."""
        return self._turn if threading.get_ident() == self._thread else None

    @property
    def process(self) -> Process:
        """Whose code is running; only within a task."""
        assert self.current is not None
        return self.current.process

    def spawn(self, process: Process, work: Callable[[], object]) -> None:
        """A new thread of a process."""

        def guarded() -> None:
            try:
                work()
            except Killed:
                assert not process.alive, "killed, and yet alive"
            except BaseException as error:
                self._failures.append(error)

        self.tasks.append(Task(process, guarded, self._hub))

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def wait(self, ready: Callable[[], bool], seconds: float = math.inf) -> bool:
        """Let others go on until something is so; returns whether it is, and not that time ran out."""
        task = self.current
        assert task is not None
        self.check_alive()
        if ready():
            return True
        task.wake, task.condition = self.now + max(seconds, 0.0), ready
        self._hub.switch()
        self.check_alive()
        return ready()

    def pause(self) -> None:
        """Somebody else may come in here; mostly nobody does."""
        if len(self.tasks) > 1 and self.random.random() < 0.3:
            self.sleep(0.0)
        else:
            self.check_alive()

    def check_alive(self) -> None:
        if self.current is not None and not self.current.process.alive:
            raise Killed

    def kill(self, process: Process) -> None:
        """As SIGKILL: at once, with all its threads. Raises Killed if the caller is among them."""
        if process.alive:
            process.alive = False
            for end in process.at_end:
                end()
            self.check_alive()

    def end(self, process: Process) -> None:
        """A process that ends by itself, from its own last task: threads that are left end with it."""
        process.alive = False
        for end in process.at_end:
            end()

    def run(self, until: Callable[[], bool]) -> None:
        """Let the tasks take turns until something is so.

        Raises:
            Stuck: nobody can go on, or all go on for ever.
        """
        while True:
            self._bury()
            if until():
                return
            self.turns += 1
            if self.turns > MOST_TURNS:
                raise Stuck(f"no end after {self.now / 3600:.1f} hours")
            ready = [task for task in self.tasks if task.ready(self.now)]
            if ready:
                self._switch(ready[0] if len(ready) == 1 else self.random.choice(ready))
                continue
            wake = min((task.wake for task in self.tasks), default=math.inf)
            if wake == math.inf:
                raise Stuck(f"nobody can go on: {sorted(task.process.name for task in self.tasks)}")
            self.now = wake

    def close(self) -> None:
        """Kill all that is left. A greenlet that waits for ever is never collected, nor is what it holds open."""
        for process in {task.process: None for task in self.tasks}:
            self.kill(process)
        self._bury()

    def _switch(self, task: Task) -> None:
        task.wake, task.condition = math.inf, None
        self._turn = task
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, task.process.node
        task.greenlet.switch()
        self._turn = None
        if task.greenlet.dead:
            self.tasks.remove(task)
        if self._failures:
            raise self._failures.pop()

    def _bury(self) -> None:
        """Let the tasks of killed processes end, before anything else happens."""
        for task in [task for task in self.tasks if not task.process.alive]:
            if task.greenlet:  # it has begun: it is told, and whatever it does on the way out is of no effect
                self._switch(task)
                assert task.greenlet.dead, "a killed task went on"
            else:
                self.tasks.remove(task)

    # Python's own modules, as production code sees them.

    def monotonic(self) -> float:
        return 1000.0 + self.now + self.jumped.get(self.process.actor, 0.0)

    def time(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(sleep=self.sleep, monotonic=self.monotonic)

    def threading(self) -> types.SimpleNamespace:
        kernel = self

        class Thread:
            def __init__(self, *, target: Callable[..., object], args: tuple[Any, ...] = (), daemon: bool) -> None:
                assert daemon, "it would hold up the end of the program"
                self.work = lambda: target(*args)

            def start(self) -> None:
                kernel.spawn(kernel.process, self.work)

        class Lock:
            """Who waits for it lets others go on: a real one would hold up the one thread that all tasks share."""

            def __init__(self) -> None:
                self.held = False

            def __enter__(self) -> None:
                if kernel.current is not None:
                    kernel.wait(lambda: not self.held)
                self.held = True

            def __exit__(self, *_: object) -> None:
                self.held = False

        return types.SimpleNamespace(Thread=Thread, Lock=Lock)

    def queue(self) -> types.SimpleNamespace:
        kernel = self

        class Queue:
            def __init__(self) -> None:
                self.items: list[Any] = []

            def put(self, item: Any) -> None:
                kernel.pause()
                self.items.append(item)

            def get(self, timeout: float | None = None) -> Any:
                if not kernel.wait(lambda: bool(self.items), math.inf if timeout is None else timeout):
                    raise queue.Empty
                return self.items.pop(0)

        return types.SimpleNamespace(Queue=Queue, SimpleQueue=Queue, Empty=queue.Empty)

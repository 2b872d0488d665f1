"""A virtual clock, and what its processes wait for: time, one of several slots, and bytes over a shared link.

A process is a generator. It yields a wait: a function that is given what goes on once the wait is over.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Generator

Resume = Callable[[], None]
Wait = Callable[[Resume], None]
Process = Generator[Wait, None, None]

MBIT = 1e6 / 8
"""Bytes a second of one MBit/s."""
LEAST = 1e-9
"""Seconds; two moments that are closer are the same one."""


class Clock:
    """Seconds since the beginning, and what happens when."""

    def __init__(self) -> None:
        """Begin at 0, with nothing to come."""
        self.now = 0.0
        self._events: list[tuple[float, int, Resume]] = []
        self._number = 0

    def at(self, moment: float, then: Resume) -> None:
        """Have something done at a moment; of several at the same moment, what was planned first comes first."""
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, then))

    def sleep(self, seconds: float) -> Wait:
        """Return the wait for a number of seconds."""
        return lambda resume: self.at(self.now + seconds, resume)

    def begin(self, process: Process) -> None:
        """Begin a process, or go on with it after a wait."""
        wait = next(process, None)
        if wait is not None:
            wait(lambda: self.begin(process))

    def step(self) -> None:
        """Go on to the next event."""
        self.now, _, then = heapq.heappop(self._events)
        then()

    def pass_by(self, seconds: float) -> None:
        """Let so many seconds pass, and all that happens in them."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.step()
        self.now = until


class Slots:
    """A number of slots, taken in the order of asking."""

    def __init__(self, clock: Clock, count: int) -> None:
        """Begin with all slots free."""
        self.clock, self.count, self._free = clock, count, count
        self._waiting: deque[Resume] = deque()
        self.held_seconds = 0.0
        """Seconds for which slots were held, over all slots."""
        self._taken_at: deque[float] = deque()

    def take(self, resume: Resume) -> None:
        """Wait for a slot, and take it."""
        if not self._free:
            self._waiting.append(resume)
            return
        self._free -= 1
        self._taken_at.append(self.clock.now)
        resume()

    def release(self) -> None:
        """Give a slot back; whoever waits longest takes it."""
        # Which of the slots is given back does not matter to the sum of the seconds for which they were held.
        self.held_seconds += self.clock.now - self._taken_at.popleft()
        self._free += 1
        if self._waiting:
            self.take(self._waiting.popleft())


class SharedLink:
    """One direction of the coordinator's link, shared evenly by all transfers that go on at the same time.

    No transfer is faster than its site's own link; what such a transfer leaves goes to the others (max-min fairness).
    """

    def __init__(self, clock: Clock, capacity: float) -> None:
        """Begin idle.

        Args:
            clock: the clock.
            capacity: bytes a second.
        """
        self.clock, self.capacity = clock, capacity
        self.carried = self.busy_seconds = 0.0
        """Bytes that went over the link, and the seconds in which any did."""
        self._left: dict[int, float] = {}
        self._fastest: dict[int, float] = {}
        self._rates: dict[int, float] = {}
        self._then: dict[int, Resume] = {}
        self._number = self._plan = 0
        self._since = 0.0

    def carry(self, size: float, fastest: float) -> Wait:
        """Return the wait for some bytes to arrive.

        Args:
            size: the bytes.
            fastest: bytes a second of the site's own link.
        """

        def wait(resume: Resume) -> None:
            self._bring_up_to_now()
            self._number += 1
            self._left[self._number], self._fastest[self._number] = float(size), fastest
            self._then[self._number] = resume
            self.carried += size
            self._plan_ahead()

        return wait

    def _bring_up_to_now(self) -> None:
        passed = self.clock.now - self._since
        self._since = self.clock.now
        if self._left:
            self.busy_seconds += passed
        for number, rate in self._rates.items():
            self._left[number] -= rate * passed

    def _plan_ahead(self) -> None:
        """Share the link among all transfers, and look again when the first of them has arrived."""
        self._rates, room = {}, self.capacity
        for place, number in enumerate(sorted(self._left, key=self._fastest.__getitem__)):
            self._rates[number] = min(self._fastest[number], room / (len(self._left) - place))
            room -= self._rates[number]
        self._plan += 1
        plan = self._plan
        first = min((self._left[number] / rate for number, rate in self._rates.items()), default=math.inf)
        if first < math.inf:
            self.clock.at(self.clock.now + max(0.0, first), lambda: self._look(plan))

    def _look(self, plan: int) -> None:
        if plan != self._plan:
            return  # another transfer has begun or arrived since, and changed the rates
        self._bring_up_to_now()
        arrived = [number for number, left in self._left.items() if left <= LEAST * self._rates[number] + LEAST]
        arrived = arrived or [min(self._left, key=lambda number: self._left[number] / self._rates[number])]
        then = [self._then.pop(number) for number in arrived]
        for number in arrived:
            del self._left[number], self._fastest[number], self._rates[number]
        self._plan_ahead()
        for resume in then:
            resume()

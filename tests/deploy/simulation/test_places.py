"""Places for workers: as many as asked for, no more than fit into the memory, and always one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from deploy.simulation.places import Places, Worker

GB = 1_000_000_000


class Machine:
    """A machine whose free memory is what its workers leave of it, and threads that want places on it."""

    def __init__(self, memory: int | None, at_once: int = 2) -> None:
        self.memory, self.taken = memory, 0
        self.places = Places(at_once, free=lambda: None if self.memory is None else self.memory - self.taken)
        self.inside: dict[str, Worker] = {}
        self._leave: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def comes(self, name: str, kind: str = "train") -> None:
        self._leave[name] = threading.Event()

        def work() -> None:
            with self.places.place(kind) as worker:
                self.inside[name] = worker
                self._leave[name].wait(20)
                del self.inside[name]

        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def holds(self, name: str, memory: int) -> None:
        """A worker has taken memory, and says so after a part of its work."""
        self.taken += memory
        self.places.note(self.inside[name], memory)

    def goes(self, name: str, memory: int = 0) -> None:
        self.taken -= memory
        self._leave[name].set()

    def close(self) -> None:
        for event in self._leave.values():
            event.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    with ExitStack() as held:

        def made(memory: int | None, at_once: int = 2) -> Machine:
            found = Machine(memory, at_once)
            held.callback(found.close)
            return found

        yield made


def soon(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def never(condition: Callable[[], bool]) -> bool:
    time.sleep(1.2)  # more than two looks at the memory
    return not condition()


def test_no_more_than_asked_for_are_inside(machine: Callable[..., Machine]) -> None:
    of = machine(None)
    for name in "abc":
        of.comes(name)
    assert soon(lambda: len(of.inside) == 2) and never(lambda: len(of.inside) > 2)
    of.goes(next(iter(of.inside)))
    assert soon(lambda: len(of.inside) == 2 and set(of.inside) != {"a", "b"})


def test_the_second_of_a_kind_waits_until_it_is_known_what_the_first_takes(machine: Callable[..., Machine]) -> None:
    of = machine(8 * GB)
    of.comes("a")
    assert soon(lambda: "a" in of.inside)
    of.comes("b")
    assert never(lambda: "b" in of.inside)
    of.holds("a", 3 * GB)
    assert soon(lambda: "b" in of.inside)


def test_what_does_not_fit_waits_until_there_is_room_and_one_always_runs(
    machine: Callable[..., Machine], caplog: pytest.LogCaptureFixture
) -> None:
    of = machine(8 * GB)
    of.comes("a")
    assert soon(lambda: "a" in of.inside)
    of.holds("a", 5 * GB)
    of.comes("b")
    assert never(lambda: "b" in of.inside)
    assert caplog.messages == [
        "A stage takes 5 GB of memory, and 3 GB are free: for now fewer than 2 stages run at once."
    ]
    of.goes("a", 5 * GB)
    assert soon(lambda: "b" in of.inside)
    of.memory = 1 * GB
    of.goes("b")
    of.comes("c")
    assert soon(lambda: "c" in of.inside), "alone it gets a place, whatever it needs"


def test_memory_that_a_worker_has_still_to_take_is_kept_for_it(machine: Callable[..., Machine]) -> None:
    of = machine(8 * GB, at_once=3)
    of.comes("a")
    assert soon(lambda: "a" in of.inside)
    of.holds("a", 3 * GB)
    of.comes("b")
    assert soon(lambda: "b" in of.inside)
    of.comes("c")
    assert never(lambda: "c" in of.inside), "5 GB are free, of which the second will take 3"


def test_other_work_beside_needs_its_own_memory_alone(machine: Callable[..., Machine]) -> None:
    of = machine(8 * GB)
    of.comes("a")
    assert soon(lambda: "a" in of.inside)
    of.holds("a", 6 * GB)
    of.comes("b", "evaluate")
    assert soon(lambda: "b" in of.inside), "nothing is known of its kind, and none of it runs"
    of.holds("b", 1 * GB)
    of.goes("b", 1 * GB)
    assert soon(lambda: "b" not in of.inside)
    of.comes("c", "evaluate")
    assert soon(lambda: "c" in of.inside)


def test_when_the_system_has_ended_a_worker_one_fewer_runs_and_one_always(machine: Callable[..., Machine]) -> None:
    of = machine(None, at_once=3)
    for name in "abc":
        of.comes(name)
    assert soon(lambda: len(of.inside) == 3)
    assert of.places.lost() == 2
    for name in "abcd":
        of.comes(f"later {name}") if name == "d" else of.goes(name)
    for name in "ef":
        of.comes(name)
    assert soon(lambda: len(of.inside) == 2) and never(lambda: len(of.inside) > 2)
    assert of.places.lost() == 1 and of.places.lost() == 1

"""Keeps programs running: starts them, starts them again with growing pauses, ends them and theirs with itself."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
SETTLED = 120.0
"""Seconds after which a program that runs has not failed to start: the next pause is short again."""
END_WITHIN = 15.0
LARGEST_LOG = 20_000_000
LEFT_FOR = 3.0
"""Seconds after the end of a program in which the processes that it started end by themselves."""
LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Program:
    """What is to run."""

    name: str
    command: Sequence[str]
    log: Path | None
    """Its output is added there; None: to this process's own."""
    environment: Mapping[str, str]
    folder: Path | None = None
    """Where it runs; None: where this process does."""


class Supervisor:
    """Programs that shall run. Call `tend` again and again, from the main thread, and `end` at last."""

    def __init__(self, programs: Sequence[Program], tell: Callable[[str], None]) -> None:
        self._programs = list(programs)
        self._tell = tell
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._since: dict[str, float] = {}
        self._left: dict[int, float] = {}
        self._pause = dict.fromkeys((program.name for program in programs), FIRST_PAUSE)
        self._next = dict.fromkeys((program.name for program in programs), 0.0)
        self.starts = dict.fromkeys((program.name for program in programs), 0)

    def tend(self) -> None:
        """Start what is due; note what ended."""
        now = time.monotonic()
        for group in [group for group, ended in self._left.items() if now - ended > LEFT_FOR]:
            del self._left[group]
            _signal_group(group, signal.SIGKILL)
        for program in self._programs:
            name, process = program.name, self._running.get(program.name)
            if process is not None and process.poll() is not None:
                del self._running[name]
                self._left[process.pid] = now
                self._wait_before(name, now)
                log = f" Its log: {program.log}" if program.log else ""
                self._tell(
                    f"{name} ended ({_ending(process.returncode)}); it is started again in"
                    f" {self._next[name] - now:.0f} s.{log}"
                )
            if name not in self._running and now >= self._next[name]:
                self._start(program)

    def uptime(self, name: str) -> float:
        """Seconds since a program was started; 0 while it is down."""
        return time.monotonic() - self._since[name] if name in self._running else 0.0

    def restart(self, name: str) -> None:
        """End a program that is up and does nothing; `tend` starts it again."""
        if process := self._running.get(name):
            _end([process])

    def end(self) -> None:
        """End all, the last started first, and whatever they started."""
        _end([self._running[p.name] for p in reversed(self._programs) if p.name in self._running])
        self._running.clear()
        for group in self._left:
            _signal_group(group, signal.SIGKILL)
        self._left.clear()

    def _start(self, program: Program) -> None:
        self.starts[program.name] += 1
        self._since[program.name] = time.monotonic()
        with _output(program.log) as out:
            try:
                self._running[program.name] = subprocess.Popen(
                    program.command,
                    env={**os.environ, **program.environment},
                    cwd=program.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others
                    preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()) if LINUX else None,
                )
            except OSError as error:
                self._wait_before(program.name, time.monotonic())
                self._tell(f"{program.name} cannot be started ({error.strerror}).")

    def _wait_before(self, name: str, now: float) -> None:
        pause = FIRST_PAUSE if now - self._since[name] > SETTLED else self._pause[name]
        self._next[name] = now + pause
        self._pause[name] = min(LONGEST_PAUSE, 2 * pause)


def a_free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """An event that is set by SIGTERM or Ctrl-C."""
    over = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        over.set()

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield over
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.terminate()
    until = time.monotonic() + END_WITHIN
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    until = time.monotonic() + LEFT_FOR
    for process in processes:
        while _signal_group(process.pid, 0) and time.monotonic() < until:
            time.sleep(0.05)
        _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, kind: int) -> bool:
    """Send a signal, 0 for none, to what a program started and what that started; return whether there is anything."""
    try:
        os.killpg(group, kind)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_with_parent(how: signal.Signals, parent: int | None = None) -> None:
    """In a child, on Linux: get a signal when the thread that started it ends, as when its process is killed.

    Args:
        parent: the parent's process id, where it may have ended already.
    """
    ctypes.CDLL(None).prctl(1, how)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


@contextmanager
def _output(path: Path | None) -> Iterator[int | None]:
    if path is None:
        yield None
        return
    with suppress(FileNotFoundError):
        if path.stat().st_size > LARGEST_LOG:
            path.replace(path.with_name(f"{path.name}.1"))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"

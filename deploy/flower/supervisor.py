"""Keep programs running: start them, restart them after growing pauses, and end them together with this process.

Each program has a process group of its own. A supervisor that ends in order ends the groups itself; if it is killed,
its guard does (`deploy.flower.guard`), and Linux sends SIGTERM to the programs if the guard was killed too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
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
"""Seconds before the first restart of an ended program, and the limit of the doubling pauses."""
SETTLED = 120.0
"""Seconds of running after which the pause before a program's next restart is short again."""
END_WITHIN = 15.0
"""Seconds given to a program to end after SIGTERM; afterwards the program gets SIGKILL."""
LARGEST_LOG = 20_000_000
"""The largest size of a log in bytes; the content of a larger log moves to NAME.1, also while its program runs."""
LOOK_AT_LOGS = 30.0
"""Seconds between two looks at the sizes of the logs."""
LEFT_FOR = 3.0
"""Seconds given to a program's child processes to end by themselves after the program's end."""
LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Program:
    """Describe a program for the supervisor to keep running."""

    name: str
    command: Sequence[str]
    log: Path | None
    """The file to which the program's output is appended; None: the output of this process."""
    environment: Mapping[str, str]
    folder: Path | None = None
    """The working folder of the program; None: the working folder of this process."""


class Supervisor:
    """Keep programs running. Call `tend` again and again from the main thread, and `end` once at the end.

    Args:
        programs: the programs, in the order in which they are started.
        notify: gets a sentence for each end of a program and each failed start.
    """

    def __init__(self, programs: Sequence[Program], notify: Callable[[str], None]) -> None:
        self._programs = list(programs)
        self._notify = notify
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._since: dict[str, float] = {}
        self._left: dict[int, float] = {}
        self._pause = dict.fromkeys((program.name for program in programs), FIRST_PAUSE)
        self._next = dict.fromkeys((program.name for program in programs), 0.0)
        self.starts = dict.fromkeys((program.name for program in programs), 0)
        self._guard: subprocess.Popen[bytes] | None = None
        self._looked = 0.0

    def tend(self) -> None:
        """Note ended programs, kill the processes left over by ended programs, and start the programs now due."""
        now = time.monotonic()
        if now - self._looked > LOOK_AT_LOGS:
            self._looked = now
            for path in [program.log for program in self._programs if program.log]:
                _rotate(path)
        for group in [group for group, ended in self._left.items() if now - ended > LEFT_FOR]:
            del self._left[group]
            _signal_group(group, signal.SIGKILL)
            self._tell_guard("-", group)
        for program in self._programs:
            name, process = program.name, self._running.get(program.name)
            if process is not None and process.poll() is not None:
                del self._running[name]
                self._left[process.pid] = now
                self._wait_before(name, now)
                log = f" Its log: {program.log}" if program.log else ""
                self._notify(
                    f"{name} ended ({_ending(process.returncode)}); it is started again in"
                    f" {self._next[name] - now:.0f} s.{log}"
                )
            if name not in self._running and now >= self._next[name]:
                self._start(program)

    def uptime(self, name: str) -> float:
        """Return the seconds since a program was started; 0 while the program is down."""
        return time.monotonic() - self._since[name] if name in self._running else 0.0

    def restart(self, name: str) -> None:
        """End a running program; the next calls of `tend` start the program again."""
        if process := self._running.get(name):
            _end([process])

    def end(self) -> None:
        """End all programs, the last started first, and every process started by the programs."""
        _end([self._running[p.name] for p in reversed(self._programs) if p.name in self._running])
        self._running.clear()
        for group in self._left:
            _signal_group(group, signal.SIGKILL)
        self._left.clear()
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(OSError):
                self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

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
                    start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the programs
                    preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()) if LINUX else None,
                )
            except OSError as error:
                self._wait_before(program.name, time.monotonic())
                self._notify(f"{program.name} cannot be started ({error.strerror}).")
                return
        self._tell_guard("+", self._running[program.name].pid)

    def _tell_guard(self, what: str, group: int) -> None:
        """Have the guard watch a process group, or no longer; a guard that was killed is started again."""
        if self._guard is None or self._guard.poll() is not None:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))],
                stdin=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
            watched = [f"+{pid}\n" for pid in [*(p.pid for p in self._running.values()), *self._left]]
        else:
            watched = [f"{what}{group}\n"]
        assert self._guard.stdin is not None
        with suppress(OSError):
            self._guard.stdin.write("".join(watched).encode())

    def _wait_before(self, name: str, now: float) -> None:
        pause = FIRST_PAUSE if now - self._since[name] > SETTLED else self._pause[name]
        self._next[name] = now + pause
        self._pause[name] = min(LONGEST_PAUSE, 2 * pause)


def a_free_port() -> int:
    """Return a port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Yield an event, set by SIGTERM, Ctrl-C or the end of the terminal (unless ignored) while the block runs."""
    over = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        over.set()

    kinds = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        kinds.append(signal.SIGHUP)
    before = {kind: signal.signal(kind, stop) for kind in kinds}
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
    """Send a signal to the process group of a program.

    Args:
        group: the number of the group: the process id of the program.
        kind: the signal; 0 sends none.

    Returns:
        Whether the group has any process.
    """
    try:
        os.killpg(group, kind)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_with_parent(how: signal.Signals, parent: int | None = None) -> None:
    """Let Linux signal this process when the thread that started the process ends, as when the parent is killed.

    Args:
        how: the signal.
        parent: the process id of the parent. This process ends at once if its parent is already another process; None:
            not checked.
    """
    ctypes.CDLL(None).prctl(1, how)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


@contextmanager
def _output(path: Path | None) -> Iterator[int | None]:
    if path is None:
        yield None
        return
    _rotate(path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _rotate(log: Path) -> None:
    """Move the content of a log that has grown too large to NAME.1.

    The content is copied and the log emptied, since its program goes on writing to the same file. A line written
    between the two is lost.
    """
    with suppress(OSError):  # there is no log yet, or the disk is full
        if log.stat().st_size > LARGEST_LOG:
            shutil.copyfile(log, earlier := log.with_name(f"{log.name}.1"))
            earlier.chmod(0o600)
            os.truncate(log, 0)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"

"""Flower's SuperExec of a hospital, which starts this package's launcher and nothing else.

Flower's own looks up a command for each kind of task in PATH, and the coordinator names the kind. Here every kind
starts `deploy.site.launcher`, with the very Python that runs this: the installed app answers, whatever was asked for.
(A task that is refused instead comes back for ever, and the site, which handles one at a time, handles no other.)

Every message is answered by a process of its own, so that nothing of one meets the next. What takes such a process
longest is to import torch, and so one launcher does that once and forks a process for every message (see
`deploy.site.launcher`). However long that takes, a message has one process: its claim is kept alive here, from the
moment at which it is given out until its process has ended, and a message that comes again all the same, or another
one, finds the process before it ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from common.errors import RelayError
from deploy.flower import internals
from deploy.site.claim import LAPSE, Claim
from deploy.site.launcher import Task

LAUNCHER = (sys.executable, "-I", "-m", "deploy.site.launcher")
"""Isolated (-I), so that neither the working folder nor PYTHONPATH gives it code."""

BEAT = 5.0
"""Seconds between two heartbeats; a process that died gets none."""
GRACE = 10.0
"""Seconds in which a process that has answered ends by itself."""


def main() -> None:
    """Takes the arguments of `flower-superexec`."""
    internals.check_claims()
    launchers = Launchers()

    def launch(task: Any) -> str:
        if task.task_type != "flwr-clientapp":
            _say(f"Asked for a task of the kind {task.task_type}; the installed app answers it.")
        try:
            launchers.give(task.task_id, Task(task.runtime_api_address, task.token))
        except OSError as error:
            return f"No process could be started ({error.strerror})."
        return ""

    internals.run_superexec(launch=launch, reconcile=launchers.tend, close=launchers.end)


class Launcher:
    """A process that imports what answers need, and forks one for every message that it is given.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(LAUNCHER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def give(self, task: Task) -> bool:
        """Hand it a message; whether it is there to take it. Its standard input stays open: it ends with this one."""
        assert self._process.stdin is not None
        if not self.alive:
            return False
        try:
            self._process.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
        except BrokenPipeError:
            return False
        return self.alive

    def exit_code(self) -> int:
        """Wait for the end of the process that answers the last message, or of this launcher."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return int(line) if line else self._process.wait()

    def kill(self) -> None:
        """End it and what it has forked, which ends with it."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # this may have interrupted another wait for it
            self._process.wait(GRACE)
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()


class Answering:
    """A message that a launcher was given, whose claim is kept alive until its process has ended."""

    def __init__(self, task_id: int, claim: Claim, launcher: Launcher) -> None:
        self.task_id, self.claim = task_id, claim
        self.exit_code: int | None = None
        self._launcher = launcher
        self._over = threading.Event()
        threading.Thread(target=self._await_end, daemon=True).start()
        threading.Thread(target=self._keep, daemon=True).start()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def end(self, *, grace: float) -> None:
        """Wait for the end of the process, and bring it about after `grace` seconds."""
        if not self._over.wait(grace):
            _say("A process is ended: the SuperNode no longer waits for it to answer its message.")
            self._launcher.kill()
            self._over.wait(GRACE)

    def _await_end(self) -> None:
        self.exit_code = self._launcher.exit_code()
        self._over.set()

    def _keep(self) -> None:
        held = time.monotonic()
        while not self.over:
            answer = self.claim.keep()
            if answer:
                held = time.monotonic()
            elif answer is False or time.monotonic() - held > LAPSE:
                self.end(grace=GRACE)
            self._over.wait(BEAT)


class Launchers:
    """The launcher, started again where it has ended, and the message that it answers: there are never two."""

    def __init__(self) -> None:
        self._launcher: Launcher | None = None
        self._last: Answering | None = None

    def give(self, task_id: int, task: Task) -> None:
        """Return a message to the launcher, or to a fresh one where it has ended.

        The SuperNode handles one message at a time. So the message before has been answered or its claim has lapsed,
        and it may be this one.

        Raises:
            OSError: no process can be started.
        """
        claim = Claim(task)
        claim.keep()
        if last := self._last:
            last.end(grace=0 if last.task_id == task_id else GRACE)
            if last.task_id != task_id and last.exit_code:
                last.claim.close()
        if self._launcher is None or not self._launcher.give(task):
            self._launcher = Launcher()
            self._launcher.give(task)
        self._last = Answering(task_id, claim, self._launcher)

    def tend(self) -> None:
        """Flower calls it every fraction of a second: the imports are done before a message comes."""
        if (self._launcher is None or not self._launcher.alive) and (self._last is None or self._last.over):
            with suppress(OSError):  # no room for it now, and no message that would need it
                self._launcher = Launcher()

    def end(self) -> None:
        """End all at once: nobody is left to take an answer."""
        if self._launcher is not None:
            self._launcher.kill()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))

"""Run Flower's SuperExec at a hospital, confined to starting relay's launcher.

Flower's own SuperExec looks up a command in PATH for each kind of task, and the coordinator names the kind. This
SuperExec starts `deploy.site.launcher` for every kind, with the same Python: the installed app answers a task of any
kind. (Flower would offer a refused task for ever, and the site, which handles one task at a time, would handle no other
task.)

Every message is answered by a process of its own, so nothing of a message is left for the next message. Such a process
would spend most of its time on importing torch; a single launcher therefore imports torch once and forks a process for
every message (see `deploy.site.launcher`). However long an answer takes, a message has a single process: this module
keeps the message's claim alive from handing out the message to the end of the process. If the same message is offered
again all the same, or another message is offered, the earlier process is ended first.
"""

from __future__ import annotations

import json
import signal
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
from deploy.site.launcher import Task, say

LAUNCHER = (sys.executable, "-I", "-m", "deploy.site.launcher")
"""The command of the launcher; isolated (-I), so that the launcher takes no code from the working folder or
PYTHONPATH."""

BEAT = 5.0
"""Seconds between two heartbeats; the claim of a dead process gets no heartbeat."""
GRACE = 10.0
"""Seconds given to a process to end by itself after its answer, or after the lapse of its claim."""

IDLE = 600.0
"""Seconds without a message after which the launcher that waits is ended: it holds more than half of the memory of a
hospital's programs. The next message waits for the imports once more."""

KILLED = (
    "The system ended the process that answered an order (SIGKILL), most often for want of memory. What was finished is"
    " kept, and the coordinator asks again; end other programs, give this machine more memory, or ask for a smaller"
    " network or batch."
)
"""What a hospital reads when the system has ended a process of it."""


def main() -> None:
    """Run the SuperExec with the arguments of `flower-superexec`."""
    internals.check_claims()
    launchers = Launchers()

    def launch(task: Any) -> str:
        if task.task_type != "flwr-clientapp":
            _say(f"Asked for a task of the kind {task.task_type}; the installed app answers it.")
        if task.insecure or not task.root_certificates_path:
            return "The SuperNode was not asked for a certificate; nothing is answered."
        try:
            launchers.give(task.task_id, Task(task.runtime_api_address, task.token, task.root_certificates_path))
        except OSError as error:
            return f"No process could be started ({error.strerror})."
        return ""

    internals.run_superexec(launch=launch, reconcile=launchers.tend, close=launchers.end)


class Launcher:
    """Start a launcher process, which imports the modules for a reply and forks a process for every given message.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(LAUNCHER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.ended = False
        """Whether this process ended it; else it was the system, or the launcher itself."""

    @property
    def alive(self) -> bool:
        """Return whether the launcher's process runs."""
        return self._process.poll() is None

    def give(self, task: Task) -> bool:
        """Give the launcher a message, by a line on its standard input, which stays open until the SuperExec ends.

        Args:
            task: the message.

        Returns:
            Whether the launcher runs and took the message.
        """
        assert self._process.stdin is not None
        if not self.alive:
            return False
        try:
            self._process.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
        except BrokenPipeError:
            return False
        return self.alive

    def exit_code(self) -> int:
        """Wait for the end of the last message's process, or of the launcher, and return the exit code."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return int(line) if line else self._process.wait()

    def kill(self) -> None:
        """End the launcher together with its forked process."""
        self.ended = True
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # this call may have interrupted another wait for the same process
            self._process.wait(GRACE)
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()


class Answering:
    """Keep the claim on a message alive until the end of the answering process.

    Args:
        task_id: Flower's number of the message.
        claim: the claim on the message.
        launcher: the launcher in charge of the message.
    """

    def __init__(self, task_id: int, claim: Claim, launcher: Launcher) -> None:
        self.task_id, self.claim = task_id, claim
        self.exit_code: int | None = None
        self._launcher = launcher
        self._over = threading.Event()
        threading.Thread(target=self._await_end, daemon=True).start()
        threading.Thread(target=self._keep, daemon=True).start()

    @property
    def over(self) -> bool:
        """Return whether the answering process has ended."""
        return self._over.is_set()

    def end(self, *, grace: float) -> None:
        """Wait at most `grace` seconds for the end of the process, and then kill the launcher."""
        if not self._over.wait(grace):
            _say("A process is ended: the SuperNode no longer waits for it to answer its message.")
            self._launcher.kill()
            self._over.wait(GRACE)

    def _await_end(self) -> None:
        self.exit_code = self._launcher.exit_code()
        if self.exit_code == -signal.SIGKILL and not self._launcher.ended:
            say(KILLED)
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
    """Hold the launcher, replaced after its end, and the message being answered: never two messages."""

    def __init__(self) -> None:
        self._launcher: Launcher | None = None
        self._last: Answering | None = None
        self._used = time.monotonic()

    def give(self, task_id: int, task: Task) -> None:
        """Give a message to the launcher, or to a fresh launcher where the last launcher has ended.

        The SuperNode handles one message at a time. The message before has therefore been answered or its claim has
        lapsed; after a lapse, the new message may be the same message.

        Args:
            task_id: Flower's number of the message.
            task: the message.

        Raises:
            OSError: no process can be started.
        """
        claim = Claim(task)
        claim.keep()
        if last := self._last:
            last.end(grace=0 if last.task_id == task_id else GRACE)
            if last.task_id != task_id and last.exit_code:
                last.claim.close()
        self._used = time.monotonic()
        if self._launcher is None or not self._launcher.give(task):
            self._launcher = Launcher()
            self._launcher.give(task)
        self._last = Answering(task_id, claim, self._launcher)

    def tend(self) -> None:
        """Start a launcher where none runs, for the imports to be done before a message comes; end one that is idle.

        Flower calls this function several times a second.
        """
        if self._last is not None and not self._last.over:
            self._used = time.monotonic()
            return
        idle = time.monotonic() - self._used > IDLE
        alive = self._launcher is not None and self._launcher.alive
        if idle and alive and self._launcher is not None:
            self._launcher.kill()
        elif not idle and not alive:
            with suppress(OSError):  # no process can be started now, and no message waits for a process
                self._launcher = Launcher()

    def end(self) -> None:
        """End the launcher at once, when the SuperExec ends: nobody is left to take a reply."""
        if self._launcher is not None:
            self._launcher.kill()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))

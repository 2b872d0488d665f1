"""Flower's SuperExec of a hospital, which starts this package's launcher and nothing else.

Flower's own looks up a command for each kind of task in PATH, and the coordinator names the kind. Here every kind
starts `deploy.site.launcher`, with the very Python that runs this: the installed app answers, whatever was asked for.
(A task that is refused instead comes back for ever, and the site, which handles one at a time, handles no other.)

Every message is answered by a process of its own, so that nothing of one meets the next. What takes such a process
longest is to import torch, and so one that has done so already waits while no other works. However long that takes,
a message has one process: its claim is kept alive here, from the moment at which it is given out until its process has
ended, and a message that comes again all the same, or another one, finds the process before it ended.
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


class Answering:
    """A process that was given a message, whose claim is kept alive until the process has ended."""

    def __init__(self, task_id: int, claim: Claim, process: subprocess.Popen[bytes]) -> None:
        self.task_id, self.claim, self.process = task_id, claim, process
        threading.Thread(target=self._keep, daemon=True).start()

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def end(self, *, grace: float) -> None:
        """Wait for the end of the process, and bring it about after `grace` seconds."""
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            _say("A process is ended: the SuperNode no longer waits for it to answer its message.")
            self.process.kill()
            self.process.wait()

    def _keep(self) -> None:
        held = time.monotonic()
        while not self.over:
            answer = self.claim.keep()
            if answer:
                held = time.monotonic()
            elif answer is False or time.monotonic() - held > LAPSE:
                self.end(grace=GRACE)
            time.sleep(BEAT)


class Launchers:
    """The process that answers a message, and the one that waits for the next: there are never more."""

    def __init__(self) -> None:
        self._waiting: subprocess.Popen[bytes] | None = None
        self._last: Answering | None = None

    def give(self, task_id: int, task: Task) -> None:
        """A message to the process that waits, or to a fresh one where none does or it has died.

        The SuperNode handles one message at a time. So the message before has been answered or its claim has lapsed,
        and it may be this one.

        Raises:
            OSError: no process can be started.
        """
        claim = Claim(task)
        claim.keep()
        last = self._last
        if last and last.task_id == task_id:
            last.end(grace=0)
        taken, self._waiting = self._waiting or _started(), None
        if last:
            last.end(grace=GRACE)
            if last.task_id != task_id and last.process.returncode:
                last.claim.close()
        if not _hand_over(taken, task):
            taken = _started()
            _hand_over(taken, task)
        self._last = Answering(task_id, claim, taken)

    def tend(self) -> None:
        """Flower calls it every fraction of a second. Who waits takes memory, which who trains may need."""
        if self._waiting is None and (self._last is None or self._last.over):
            with suppress(OSError):  # no room for it now, and no message that would need it
                self._waiting = _started()

    def end(self) -> None:
        """End all at once: nobody is left to take an answer."""
        for process in (self._waiting, self._last.process if self._last else None):
            if process is not None:
                process.kill()
                with suppress(subprocess.TimeoutExpired):  # this may have interrupted another wait for it
                    process.wait(GRACE)


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(LAUNCHER, stdin=subprocess.PIPE, bufsize=0)


def _hand_over(launcher: subprocess.Popen[bytes], task: Task) -> bool:
    """Give a launcher its task; returns whether it is still there. Its standard input stays open: it ends with this
    process."""
    assert launcher.stdin is not None
    try:
        launcher.stdin.write(json.dumps(asdict(task)).encode() + b"\n")
    except BrokenPipeError:
        return False
    return launcher.poll() is None


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))

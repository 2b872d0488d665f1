"""Flower's SuperExec of a hospital, which starts this package's launcher and nothing else.

Flower's own looks up a command for each kind of task in PATH, and the coordinator names the kind. Here every kind
starts `deploy.site.launcher`, with the very Python that runs this: the installed app answers, whatever was asked for.
(A task that is refused instead comes back for ever, and the site, which handles one at a time, handles no other.)

Every message is answered by a process of its own, so that nothing of one meets the next. What takes such a process
longest is to import torch, and so one that has done so already waits while no other works.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from common.errors import RelayError
from deploy.site.launcher import Task, flower_module

EXECUTOR = "flwr.supercore.superexec.executor.subprocess_executor"
LAUNCHER = (sys.executable, "-I", "-m", "deploy.site.launcher")
"""Isolated (-I), so that neither the working folder nor PYTHONPATH gives it code."""


def main() -> None:
    """Takes the arguments of `flower-superexec`."""
    executor = flower_module(EXECUTOR, ("SubprocessExecutor", "LaunchResult"))
    for name in ("launch", "reconcile"):
        if not hasattr(executor.SubprocessExecutor, name):
            raise RelayError(f"Flower's SubprocessExecutor has no {name}; install the pinned versions.")
    result = executor.LaunchResult
    launchers = Launchers()

    def launch(self: object, spec: Any) -> Any:
        if spec.task_type != "flwr-clientapp":
            print(f"Asked for a task of the kind {spec.task_type}; the installed app answers it.", file=sys.stderr)
        launchers.give(Task(spec.runtime_api_address, spec.token, spec.parent_pid))
        return result.accepted()

    executor.SubprocessExecutor.launch = launch
    executor.SubprocessExecutor.reconcile = lambda _: launchers.tend()
    from flwr.supercore.cli import flower_superexec

    flower_superexec()


class Launchers:
    """The processes that answer messages, and the one that waits for the next."""

    def __init__(self) -> None:
        self._waiting: subprocess.Popen[str] | None = None
        self._answering: list[subprocess.Popen[str]] = []

    def give(self, task: Task) -> None:
        """A message to the process that waits, or to a fresh one where none does or it has died."""
        taken, self._waiting = self._waiting or _started(), None
        if not _told(taken, task):
            taken = _started()
            _told(taken, task)
        self._answering.append(taken)

    def tend(self) -> None:
        """Flower calls it every fraction of a second. Who waits takes memory, which who trains may need."""
        self._answering = [process for process in self._answering if process.poll() is None]
        if not self._answering and self._waiting is None:
            with suppress(OSError):  # no room for it now, and no message that would need it
                self._waiting = _started()


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(LAUNCHER, stdin=subprocess.PIPE, encoding="utf-8")


def _told(launcher: subprocess.Popen[str], task: Task) -> bool:
    """Whether a launcher is there to be told."""
    assert launcher.stdin is not None
    try:
        with launcher.stdin as line:
            line.write(json.dumps(asdict(task)) + "\n")
    except BrokenPipeError:
        return False
    return launcher.poll() is None


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))

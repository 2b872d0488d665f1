"""End the programs of a supervisor that was killed: run as a script, by `deploy.flower.supervisor`.

Standard input names process groups, a line each: "+123" is to be watched, "-123" no longer. Standard input ends when
the supervisor does, however it ends. Whatever is left of the watched groups then gets SIGTERM, and SIGKILL a little
later. A program that ignores the signal by which Linux tells it of its parent's death, and what such a program started,
would live on otherwise. Only modules of Python's own are imported, so that the guard is there at once and small.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

LEFT_FOR = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def main() -> None:
    """Watch the groups that standard input names, until it ends."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)  # the guard ends with the supervisor, and not before
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        groups.add(group) if line[0] == "+" else groups.discard(group)
    _signal(groups, signal.SIGTERM)
    until = time.monotonic() + LEFT_FOR
    while groups and time.monotonic() < until:
        time.sleep(0.05)
        groups = _signal(groups, 0)
    _signal(groups, signal.SIGKILL)


def _signal(groups: set[int], kind: int) -> set[int]:
    """Send a signal to process groups, and return those that have a process still; 0 sends none."""
    alive = set()
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, kind)
            alive.add(group)
    return alive


if __name__ == "__main__":
    main()

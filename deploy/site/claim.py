"""The claim on a message, which Flower's SuperNode gives out again where nobody keeps the claim alive.

A SuperNode waits half a minute for the first heartbeat of the process that shall answer, and a minute for each further
one. Flower's own client sends the first when it has imported everything, which is too late on a slow machine.
"""

from __future__ import annotations

from contextlib import suppress

from deploy.flower import internals
from deploy.site.launcher import Task

ANSWER_WITHIN = 10.0
"""Seconds in which a SuperNode, which runs on the same machine, answers."""
LAPSE = 60.0
"""Seconds after the last heartbeat at which Flower's claim ends."""


class Claim:
    """The claim that a task's token stands for.

    Flower's own sender of heartbeats ends its process when one is refused, and tries for ever where nobody answers.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def keep(self) -> bool | None:
        """Send one heartbeat.

        Returns:
            Whether the claim holds; not, if it has lapsed or the message is answered. None: the SuperNode is silent.
        """
        task = self._task
        try:
            return internals.send_heartbeat(task.runtime_api_address, task.token, timeout=ANSWER_WITHIN)
        except Exception as error:  # whatever it is, the next heartbeat is sent
            status = getattr(getattr(error, "response", None), "status_code", None)
            return False if status in (401, 403) else None

    def close(self) -> None:
        """End the claim of a process that has answered and died before it said so.

        The SuperNode, which handles one message at a time, would take the lapse of this claim for that of the message
        which it handles by then, and answer it with an error.
        """
        task, details = self._task, "The process ended before it said so."
        with suppress(Exception):
            internals.report_failure(task.runtime_api_address, task.token, details, timeout=ANSWER_WITHIN)

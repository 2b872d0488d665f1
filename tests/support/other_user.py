"""Another user of the same machine, for tests that run as root."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

NOBODY = 65534
"""The number of a user and a group that own nothing."""

needs_another_user = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as another user of this machine"
)


@contextmanager
def as_another_user(attack: Callable[[], None], *, user: int = NOBODY) -> Iterator[int]:
    """Run a function in a process of another user's, until the block ends; gives the process's number.

    The process is forked, so that it has what this one imported: the other user may read none of it on the disk.
    """
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            attack()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

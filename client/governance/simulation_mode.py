"""Whether this process rehearses a study (`relay simulate`) on hospitals that all lie on this machine.

Whoever starts a process says so in its environment, for itself and what it starts; no message can.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

REHEARSING = "RELAY_REHEARSAL"


def rehearsing() -> bool:
    return bool(os.environ.get(REHEARSING))


@contextmanager
def rehearsal() -> Iterator[None]:
    """This process rehearses while the block runs; whom it starts meanwhile has to be told."""
    before = os.environ.get(REHEARSING, "")
    os.environ[REHEARSING] = "1"
    try:
        yield
    finally:
        os.environ[REHEARSING] = before

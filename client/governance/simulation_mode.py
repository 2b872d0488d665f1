"""Whether this process simulates a study (`relay simulate`) on hospitals that all lie on this machine.

The environment of a process decides, for the process and its child processes. No message can change the mode.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SIMULATION = "RELAY_SIMULATION"


def in_simulation_mode() -> bool:
    """Return whether this process simulates a study."""
    return bool(os.environ.get(SIMULATION))


@contextmanager
def simulation_mode() -> Iterator[None]:
    """Simulate while the block runs, here and in processes started meanwhile; earlier processes are unaffected."""
    before = os.environ.get(SIMULATION, "")
    os.environ[SIMULATION] = "1"
    try:
        yield
    finally:
        os.environ[SIMULATION] = before

"""Whether this process rehearses a study (`relay simulate`) on hospitals that all lie on this machine.

Whoever starts a process says so in its environment, for itself and what it starts; no message can.
"""

from __future__ import annotations

import os

REHEARSING = "RELAY_REHEARSAL"


def rehearsing() -> bool:
    return bool(os.environ.get(REHEARSING))

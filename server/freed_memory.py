"""Give memory that is free again back to the system: a copy of a network's weights is tens of megabytes.

The C library keeps freed blocks for later, thread by thread: after a round of ten sites it kept as much as three copies
of the weights that nobody held any more.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """Return glibc's malloc_trim; None on systems with another C library, which have nothing of the kind."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None


def give_back() -> None:
    """Return freed memory to the system; in some milliseconds; do nothing where the C library has no such call."""
    trim = _trim()
    if trim is not None:
        trim(0)

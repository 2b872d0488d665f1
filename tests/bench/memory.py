"""What processes hold."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path


def own_mb(pids: Iterable[int]) -> float:
    """Megabytes of processes' own memory, without what they map of files; those that have ended count nothing."""
    pages = 0
    for pid in pids:
        try:
            resident, shared = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3]
        except (OSError, ValueError):
            continue
        pages += int(resident) - int(shared)
    return pages * resource.getpagesize() / 1e6

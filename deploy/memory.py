"""Memory of this machine: what is free, and the most that a process has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def free_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Return the bytes that processes can still take, the container's limit included; None where nothing tells.

    Args:
        proc: the folder of the kernel's files.
        cgroup: the folder of this container's limits, of the second version of cgroups.
    """
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    known = [
        bytes_free
        for bytes_free in (_field(proc / "meminfo", "MemAvailable"), limit - used if limit and used else None)
        if bytes_free is not None
    ]
    return max(0, min(known)) if known else None


def peak_memory(proc: Path = PROC) -> int:
    """Return the most bytes of memory that this process has held at once.

    The kernel's record of the process itself comes first: `getrusage` also counts what the parent held before this
    program began.
    """
    peak = _field(proc / "self" / "status", "VmHWM")
    if peak is not None:
        return peak
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _field(path: Path, name: str) -> int | None:
    """Return a field of a file of the kernel, "name: number kB", in bytes."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:") and len(line.split()) > 1]
    return int(values[0]) * 1024 if values and values[0].isdecimal() else None


def _number(path: Path) -> int | None:
    """Return the number in a file; None for a missing file, or a word such as "max"."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def fitting(at_once: int, of_each: int, free: int | None) -> int:
    """Return how many processes fit into the free memory, one at least and `at_once` at most.

    Args:
        at_once: the number of processes wanted.
        of_each: the bytes of each.
        free: the free bytes; None where they are not known.
    """
    return at_once if free is None or of_each <= 0 else max(1, min(at_once, free // of_each))

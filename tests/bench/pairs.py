"""Two ways of doing the same thing, measured in turns: what the machine does besides then meets both alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

PAIRS = 5
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Pairs:
    """Seconds of either way, a pair after the other."""

    ours: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(self.ours, self.other, strict=True))

    def cells(self) -> tuple[str, str, str, str]:
        """Median seconds of both, median ratio, range of the ratios."""
        low, high = min(self.ratios), max(self.ratios)
        return (
            f"{statistics.median(self.ours):.3g} s",
            f"{statistics.median(self.other):.3g} s",
            f"{statistics.median(self.ratios):.3g}",
            f"{low:.3g} to {high:.3g}",
        )


def interleaved(ours: Callable[[], float], other: Callable[[], float], pairs: int = PAIRS) -> Pairs:
    """Measure in turns; each call returns its own seconds, so that what is not meant can be left out."""
    found: list[tuple[float, float]] = []
    for number in range(pairs):
        # Who comes first changes, as a warm cache or a throttled core would favour the second.
        found.append((ours(), other()) if number % 2 == 0 else (other(), ours())[::-1])
    return Pairs(tuple(a for a, _ in found), tuple(b for _, b in found))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def show(made: Table, *remarks: str) -> None:
    console = Console(width=120)
    console.print(made)
    for remark in (*remarks, f"On {device()}."):
        console.print(remark, highlight=False, markup=False)


def device() -> str:
    """This machine's processor, its number of cores, and the instruction sets that decide how fast it trains."""
    fields: dict[str, str] = {}
    if (cpu := Path("/proc/cpuinfo")).exists():
        for line in cpu.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    sets = " ".join(name for name in INSTRUCTIONS if name in flags) or "none of the known instruction sets"
    return f"{fields.get('model name') or platform.processor()}, {os.cpu_count()} cores, {sets}, {platform.system()}"

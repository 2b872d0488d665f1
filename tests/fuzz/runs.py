"""Runs the child over many files, and starts it again where one of them ended it: that one is found and named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

Batch = tuple[str, list[int]]
TOGETHER = 32
"""Files at a site at a time."""


@dataclass
class Report:
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By kind, how often what came of a file."""
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By kind, each with how to see it again."""
    seeds: dict[str, list[list[int]]] = field(default_factory=lambda: defaultdict(list))
    """By kind, whose faults these are."""

    def fault(self, batch: Batch, text: str, folder: Path) -> None:
        kind, seeds = batch
        again = f"{sys.executable} -m tests.fuzz.child /tmp/again {kind} {' '.join(map(str, seeds))}"
        self.faults[kind].append(
            f"{kind} {seeds}: {text}\nTo see it again: {again}\nThe files: {keep(batch, folder)}\n"
        )
        self.seeds[kind].append(seeds)


def batches(counts: dict[str, int], first: int = 0) -> list[Batch]:
    return [
        (kind, list(range(start, min(start + TOGETHER, first + count))))
        for kind, count in counts.items()
        for start in range(first, first + count, TOGETHER)
    ]


def run(todo: Iterable[Batch], folder: Path) -> Report:
    report, waiting = Report(), deque(todo)
    log = folder / "child.log"
    while waiting:
        with log.open("wb") as errors:
            command = [sys.executable, "-m", "tests.fuzz.child", str(folder), "-"]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
            assert child.stdin is not None and child.stdout is not None
            with child, child.stdin as to_it:
                to_it.write(json.dumps(list(waiting)) + "\n")
                to_it.close()
                for line in child.stdout:
                    _hear(json.loads(line), waiting, report, folder)
        if child.returncode == 0:
            assert not waiting, "the child ended before its work did"
            break
        kind, seeds = waiting.popleft()
        if len(seeds) > 1:  # which of them was it?
            waiting.extendleft((kind, [seed]) for seed in reversed(seeds))
        else:
            tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            report.fault((kind, seeds), f"the process ended with {child.returncode}: {tail}", folder)
    return report


def _hear(entry: dict[str, object], waiting: deque[Batch], report: Report, folder: Path) -> None:
    kind = waiting[0][0]
    match entry:
        case {"fault": str(text), "seeds": list(seeds)}:
            report.fault((kind, seeds), text, folder)
        case {"ends": _, "outcomes": dict(outcomes)}:
            report.outcomes[kind].update(outcomes)
            waiting.popleft()


def keep(batch: Batch, folder: Path) -> Path:
    """Write the files of some seeds to where they stay."""
    from tests.fuzz import settings
    from tests.fuzz.patients import FORMATS, mutated
    from tests.fuzz.plain import write

    kind, seeds = batch
    for seed in seeds:
        place = folder / "kept" / f"{kind}-{seed}"
        if place.exists():
            continue
        if kind in FORMATS:
            write(mutated(kind, seed), place)
        elif kind == "toml":
            write({"file.toml": settings.text_of(seed)}, place)
    return folder / "kept"

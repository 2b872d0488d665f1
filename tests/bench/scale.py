"""How the coordinator's memory and time grow with sites, rounds and weights, on the embedded grid.

    python -m tests.bench.scale            # the table of docs/performance.md; half an hour
    python -m tests.bench.scale --quick    # the same without 100 sites and 200 MB

Everything but training and scoring is real: files, readers, a worker process a message, checks on both sides,
approvals, the ledger. The network is a toy of the wanted size. Each case runs in a process of its own, so its peak
memory is the coordinator's alone, sites being other processes; what it holds before the study begins is taken off.
Told is the memory of its own; what it maps of the ledger's files is the system's to take back, and stands beside.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

GREEDY = {"sequential": {"routes": "greedy", "max_hops": 2}}


def rounds(count: int) -> dict[str, Any]:
    return {"federated": [{"rounds": count, "batch_norm": "average", "then_target": False}]}


CASES: list[dict[str, Any]] = [
    *({"what": "FedAvg, 20 rounds", "sites": sites, "mb": 1, "methods": rounds(20)} for sites in (10, 30, 100)),
    *({"what": "FedAvg, 2 rounds", "sites": 10, "mb": mb, "methods": rounds(2)} for mb in (1, 10, 54, 200)),
    *({"what": "greedy routes, 2 hops", "sites": sites, "mb": 0.1, "methods": GREEDY} for sites in (10, 30, 100)),
]


def main(*words: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from tests.bench.pairs import device

    quick = "--quick" in words
    table = Table(title="The coordinator, by sites and weights", title_justify="left")
    titles = ("", "sites", "MB", "messages", "s in all", "ms a message", "its processor ms", "peak MB", "mapped MB")
    for title in titles:
        table.add_column(title, justify="right" if title else "left")
    for case in CASES:
        if quick and (case["sites"] > 30 or case["mb"] > 54):
            continue
        environment = os.environ | {"RELAY_BENCH_MB": str(case["mb"]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.bench.scale", "--case", json.dumps(case)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        row = (
            case["what"],
            str(case["sites"]),
            str(case["mb"]),
            str(found["messages"]),
            f"{found['seconds']:.0f}",
            f"{1000 * found['seconds'] / found['messages']:.0f}",
            f"{1000 * found['processor'] / found['messages']:.0f}",
            f"{found['peak_mb']:.0f}",
            f"{found['mapped_mb']:.0f}",
        )
        print(*row, sep="\t", file=sys.stderr, flush=True)
        table.add_row(*row)
    Console(width=120).print(table)
    print(f"On {device()}.")


def measure(case: dict[str, Any]) -> dict[str, float]:
    """In the process of a case."""
    import deploy.simulation.local_grid
    from server.study_run import run_study
    from tests.support.hospitals import approve_everywhere, small_study, write_hospitals

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = folder / "steps"
        os.environ["RELAY_BENCH_STEPS"] = str(steps)
        import tests.bench.identity

        assert tests.bench.identity.build_toy
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["deploy.simulation.worker_imports", "tests.bench.identity"])
        forkserver.ensure_running()
        names = {f"S{number:02}": 4 for number in range(case["sites"])}
        sites = write_hospitals(folder, names, slices=3)
        methods = {name: tuple(part) if isinstance(part, list) else part for name, part in case["methods"].items()}
        study = small_study(
            sites=tuple(names), split={"folds": 2, "use_folds": 1}, training={"epochs": 1}, methods=methods
        )
        approve_everywhere(sites, study)
        with deploy.simulation.local_grid.LocalGrid(sites, at_once=2) as grid:
            before, processor, began = _memory(), time.process_time(), time.perf_counter()
            with Peak() as peak:
                run_study(grid, study, folder / "out", beside=folder, observe=lambda _: None)
            seconds, used = time.perf_counter() - began, time.process_time() - processor
        note = json.loads((folder / "out" / "run.json").read_text(encoding="utf-8"))
    return {
        "messages": note["messages"],
        "seconds": seconds,
        "processor": used,
        "peak_mb": peak.own - before[0],
        "mapped_mb": peak.mapped - before[1],
    }


class Peak:
    """The most memory that this process holds while a block runs, looked at fifty times a second; megabytes."""

    def __init__(self) -> None:
        self.own = self.mapped = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            own, mapped = _memory()
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)


def _memory() -> tuple[float, float]:
    """Megabytes of this process: its own, files in memory included, and of files on a disk that it maps."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return (int(found["RssAnon"]) + int(found["RssShmem"])) / 1000, int(found["RssFile"]) / 1000


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
    else:
        main(*sys.argv[1:])

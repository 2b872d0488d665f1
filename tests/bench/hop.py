"""2a. What the framework itself costs a hop: laps of three sites on the embedded grid, without training.

    python -m tests.bench.hop [LAPS]

Coordinator, hospitals' app, messages, checks on both sides, ledger and what a site keeps are the real ones, with
54.9 MB of weights; training and scoring alone are replaced, in the workers, by the identity.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from multiprocessing import forkserver
from pathlib import Path

MODEL = {"architecture": "UnetPlusPlus", "encoder": "efficientnet-b3", "encoder_weights": "none"}
NVFLARE = 2.75
"""Seconds a hop of NVFlare 2.9.0's simulator."""


def main(laps: int = 3) -> None:
    began = time.perf_counter()
    from rich.console import Console
    from rich.table import Table

    import deploy.simulation.local_grid
    import server.ledger.ledger
    import server.scheduling.dispatch
    import server.transport.site_channel
    from server.progress.events import Event
    from server.study_run import run_study
    from tests.bench.pairs import device
    from tests.support.hospitals import approve_everywhere, small_study, write_hospitals

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = folder / "steps"
        steps.touch()
        os.environ["RELAY_BENCH_STEPS"] = str(steps)
        from tests.bench.identity import note, watch

        # The fork server is started here, with a module more than the grid would give it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["deploy.simulation.worker_imports", "tests.bench.identity"])
        forkserver.ensure_running()
        sites = write_hospitals(folder, {"A": 6, "B": 6, "C": 6})
        study = small_study(
            model=MODEL,
            split={"use_folds": 1, "source": "same-fold"},
            methods={"sequential": {"routes": (("A", "B", "C") * laps,)}},
        )
        approve_everywhere(sites, study)
        watch(server.ledger.ledger.Ledger, "put_weights", "keep the weights")  # type: ignore[arg-type]
        watch(server.ledger.ledger.Ledger, "put", "keep the record")  # type: ignore[arg-type]
        watch(server.ledger.ledger.Ledger, "file", "the parent's file, its digest")  # type: ignore[arg-type]
        watch(server.scheduling.dispatch, "check_fit", "do the weights fit")
        watch(server.transport.site_channel, "to_record", "Flower's record of the weights")
        watch(server.transport.site_channel, "from_record", "weights from Flower's record")
        hops: list[float] = []
        sent: dict[str, float] = {}

        def observe(event: Event) -> None:
            if event.stage == "fine-tune" and event.kind == "running" and not event.epoch:
                sent.update(at=time.perf_counter(), processor=time.process_time())
                steps.write_text("")
            if event.stage == "fine-tune" and event.kind == "done":
                hops.append(time.perf_counter() - sent["at"])
                note("processor time of the coordinator", time.process_time() - sent["processor"])
                collected.append(steps.read_text())

        collected: list[str] = []
        with deploy.simulation.local_grid.LocalGrid(sites, at_once=1) as grid:
            run_study(grid, study, folder / "out", beside=folder, observe=observe)
            worker = statistics.median(_empty_workers(context, 5))
    total: dict[str, list[float]] = defaultdict(list)
    for text in collected[1:]:  # the first hop pays for what is worked out once
        parts: dict[str, float] = defaultdict(float)
        for label, _, seconds in (line.partition("\t") for line in text.splitlines()):
            parts[label] += float(seconds)
        for label, seconds in parts.items():
            total[label].append(seconds)
    hop = statistics.median(hops[1:])
    table = Table(title=f"One hop of 54.9 MB: {hop:.2f} s (NVFlare 2.9.0: {NVFLARE} s)", title_justify="left")
    table.add_column("step")
    table.add_column("ms", justify="right")
    for label, values in sorted(total.items(), key=lambda entry: -statistics.median(entry[1])):
        table.add_row(label, f"{1000 * statistics.median(values):.0f}")
    table.add_section()
    table.add_row("a worker's start and end alone", f"{1000 * worker:.0f}")
    table.add_row("the first hop", f"{1000 * hops[0]:.0f}")
    table.add_row(f"a hop, median of {len(hops) - 1}", f"{1000 * hop:.0f}")
    table.add_row("a hop, the quickest", f"{1000 * min(hops[1:]):.0f}")
    Console().print(table)
    print(f"On {device()}.")
    print(f"{time.perf_counter() - began:.0f} s in all, start-up included.")


def _empty_workers(context: multiprocessing.context.ForkServerContext, count: int) -> list[float]:
    """Seconds from asking for a worker to its end, where it has nothing to do."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        process = context.Process(target=os.getpid)
        process.start()
        process.join()
        found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""A study in a process of its own, which kills itself and all its workers where it is told to.

    python -m tests.support.study_process STUDY OUT WHEN NAME=site.toml …

WHEN is "never", "done:3" (after the third stage of this run), "answer:4" (at the fourth leg's answer),
"inside:2:0.3" (0.3 seconds after the second stage was sent), "worker:2:0.3" (then the worker alone), or
"hold" (prints a line and waits once it holds the result folder).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.simulation.local_grid import LocalGrid
    from server.progress.events import Event


def kill_all() -> None:
    os.killpg(0, signal.SIGKILL)


def kill_workers(grid: LocalGrid) -> None:
    for process in list(grid._alive.values()):
        process.kill()
    print("killed", flush=True)


def main(study: str, out: str, when: str, *named: str) -> int:
    # Workers import the main module again: what only the coordinator needs is imported here.
    from common.config.study import load_study
    from common.errors import RelayError
    from deploy.simulation.local_grid import LocalGrid
    from server.progress.wording import line_of
    from server.study_run import run_study

    sites = {name: Path(path) for name, _, path in (entry.partition("=") for entry in named)}
    kind, _, rest = when.partition(":")
    count, _, seconds = rest.partition(":")
    seen = 0
    with LocalGrid(sites, at_once=1) as grid:

        def observe(event: Event) -> None:
            nonlocal seen
            print(event.kind, line_of(event), sep="\t", flush=True)
            happened = {
                "done": event.kind == "done",
                "answer": event.kind == "running" and event.epoch > 0,
                "inside": event.kind == "running" and event.epoch == 0,
                "worker": event.kind == "running" and event.epoch == 0,
            }
            seen += happened.get(kind, False)
            if happened.get(kind) and seen == int(count):
                if not seconds:
                    kill_all()
                call = (lambda: kill_workers(grid)) if kind == "worker" else kill_all
                threading.Timer(float(seconds), call).start()
            if kind == "hold":
                time.sleep(3600)

        try:
            run_study(grid, load_study(Path(study)), Path(out), beside=Path(study).parent, observe=observe)
        except RelayError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

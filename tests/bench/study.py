"""1. A whole sequential study on the embedded grid against a plain PyTorch loop that does the same training.

    python -m tests.bench.study [PAIRS]

Both train with one thread, one stage at a time, from patients that are prepared already; start-up stands apart. The
plain loop holds all patients in one process and does nothing but train and score (`tests.end_to_end.plain_loop`): it
hands on the same weights, bit for bit, which is checked.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROUTE = ("B", "C", "A")


def main(pairs: int = 5, pixels: int = 128, epochs: int = 7) -> None:
    # Here and not above: every worker imports the program's main module, and that of `relay` imports next to nothing.
    import torch

    from deploy.simulation.local_grid import LocalGrid
    from server.study_run import run_study
    from tests.bench.pairs import interleaved, show, table
    from tests.end_to_end.plain_loop import PlainLoop, Tensors, digest
    from tests.support.hospitals import approve_everywhere, forget_stages, small_study, write_hospitals

    torch.set_num_threads(1)
    study = small_study(
        preprocessing={"pixels": pixels, "spacing_mm": 56 / pixels, "minimum_mask_pixels": 50},
        split={"use_folds": 1, "source": "same-fold"},
        training={"epochs": epochs, "batch": 16, "precision": "float32"},
        methods={"sequential": {"routes": (ROUTE,)}},
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sites = write_hospitals(folder, {"A": 14, "B": 14, "C": 14}, slices=9)
        approve_everywhere(sites, study)
        loop = PlainLoop(study, sites)  # prepares all patients
        plain: list[Tensors] = []
        numbers = iter(range(1000))

        def by_hand() -> float:
            began = time.perf_counter()
            weights = loop.start()
            for site in ROUTE:
                weights = loop.fine_tune(site, 0, weights).weights
            plain.append(weights)
            return time.perf_counter() - began

        starts: list[float] = []
        watch = Watch()
        with watch:

            def federated() -> float:
                forget_stages(sites)
                approve_everywhere(sites, study)
                began = time.perf_counter()
                out = folder / f"out-{next(numbers)}"
                with LocalGrid(sites, at_once=1) as grid:
                    # The fork server has imported torch once a first worker is there.
                    worker = multiprocessing.get_context("forkserver").Process(target=os.getpid)
                    worker.start()
                    worker.join()
                    ready = time.perf_counter()
                    results = run_study(grid, study, out, beside=folder, observe=lambda _: None)
                    took = time.perf_counter() - ready
                starts.append(ready - began)
                if plain:
                    assert results["rows"][0]["weights"] == digest(plain[-1]), "another model came out"
                return took

            found = interleaved(federated, by_hand, pairs)
    made = table("1. A sequential study of three hospitals", "", "relay", "plain loop", "ratio", "range of ratios")
    made.add_row("wall time, preprocessing warm", *found.cells())
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    show(
        made,
        f"The grid's start stands apart: {statistics.median(starts):.2f} s. Peak memory: coordinator and plain loop"
        f" together {own:.0f} MB (one process here), the hospitals' workers {watch.peak_mb:.0f} MB.",
    )


class Watch:
    """The most memory that this process's children have held at once, looked at ten times a second."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        from tests.bench.memory import own_mb
        from tests.support.federation import descendants

        while not self._over.wait(0.1):
            self.peak_mb = max(self.peak_mb, own_mb(descendants(os.getpid())))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""2b. A hop over Flower's deployed engine: SuperLink with TLS and node authentication, on the loopback interface.

    python -m tests.bench.deployed [PAIRS]

UNet++ with EfficientNet-B3 (54.9 MB): the same study once on the embedded grid and once through SuperLink, SuperNode
and the launcher, in turns. What a hop costs more is the difference of what the stages took, from the order to the
record in the ledger.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(pairs: int = 5) -> None:
    # Here and not above: every worker imports the program's main module, and that of `relay` imports next to nothing.
    from client.site_config import load_site
    from common.config.study import study_toml
    from tests.bench.memory import own_mb
    from tests.bench.pairs import interleaved, show, table
    from tests.support.federation import Federation, descendants
    from tests.support.hospitals import approve_everywhere, forget_stages, run_on_grid, small_study, write_hospitals

    study = small_study(
        sites=("A", "B"),
        model={"architecture": "UnetPlusPlus", "encoder": "efficientnet-b3", "encoder_weights": "none"},
        split={"use_folds": 1, "source": "same-fold"},
        training={"epochs": 1, "precision": "float32"},
        methods={"sequential": {"routes": (("A", "B", "A", "B"),)}},
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sites = write_hospitals(folder / "hospitals", {"A": 5, "B": 5}, slices=5)
        (folder / "study.toml").write_text(study_toml(study), encoding="utf-8")
        numbers = iter(range(1000))

        def fresh() -> Path:
            forget_stages(sites)
            approve_everywhere(sites, study)
            return folder / f"out-{next(numbers)}"

        def embedded() -> float:
            out = fresh()
            run_on_grid(study, sites, out)
            return _a_stage(out)

        for site in sites.values():
            shutil.rmtree(load_site(site).folder / "keys", ignore_errors=True)
        with Federation(folder, sites) as federation:
            federation.start("superlink", "superexec", "A", "B")
            federation.wait_until_connected("A", "B")

            def deployed() -> float:
                out = fresh()
                run = federation.study(str(folder / "study.toml"), "--out", str(out))
                _, errors = run.communicate(timeout=900)
                if run.returncode:
                    raise subprocess.CalledProcessError(run.returncode, "relay study run", stderr=errors)
                return _a_stage(out)

            found = interleaved(deployed, embedded, pairs)
            time.sleep(15)  # the processes that wait for the next order have imported what they need
            waiting = statistics.mean(
                own_mb([federation.pid(name), *descendants(federation.pid(name))]) for name in ("A", "B")
            )
    made = table("2b. A stage with its hop of 54.9 MB", "", "SuperLink, TLS", "embedded", "ratio", "range of ratios")
    made.add_row("order to record, training of one epoch included", *found.cells())
    more = statistics.median(a - b for a, b in zip(found.ours, found.other, strict=True))
    show(
        made,
        f"A hop over the deployed engine costs {more:.2f} s more than embedded."
        f" A hospital's processes that wait for the next order hold {waiting:.0f} MB together.",
    )


def _a_stage(out: Path) -> float:
    """Median seconds of the trainings; the first of each site is left out, which pays for what is worked out once."""
    note = json.loads((out / "run.json").read_text(encoding="utf-8"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "ledger").glob("*.json")]
    trained = {record["key"] for record in records if record["kind"] == "fine-tune"}
    times = sorted(seconds for key, seconds in note["stage_seconds"].items() if key in trained)
    return statistics.median(times[: len(times) - 2] or times)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

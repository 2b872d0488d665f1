"""How many copies of the weights the coordinator holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

MB = 64
SITES = 8


@pytest.mark.slow
def test_the_coordinator_holds_a_few_copies_of_the_weights_however_many_sites_answer() -> None:
    """Its own memory's peak, in a process of its own, while eight real workers send it their weights at once.

    Three copies: two messages with weights at a time, and the average; with them what a run of any size takes, since
    the three are never there in full at the same time.
    """
    part = {"rounds": 1, "batch_norm": "average", "then_target": False}
    case = {"sites": SITES, "methods": {"federated": [part]}}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.scale", "--case", json.dumps(case)],
        env=os.environ | {"RELAY_BENCH_MB": str(MB), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["messages"] >= 6 * SITES
    assert MB < found["peak_mb"] < 3 * MB

"""The benchmark of a hop names functions of the program in strings, which mypy does not follow."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_hop_is_measured_step_by_step() -> None:
    command = [sys.executable, "-m", "tests.bench.hop", "1"]
    out = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    assert "keep the record" in out and "everything" in out and "a hop, median of 2" in out

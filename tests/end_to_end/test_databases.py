"""A coordinator whose database is held by somebody, or gone, changes nothing of a result."""

from __future__ import annotations

import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.end_to_end.test_deployed import Bench, bench, ended, federation, until_said
from tests.support.federation import Federation

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

__all__ = ["bench", "federation"]


def test_a_database_that_somebody_holds(bench: Bench, federation: Federation, tmp_path: Path) -> None:
    """As a backup does, or a curious administrator: nobody else can write for a while, three times."""
    federation.start("superlink", "superexec", "A", "B")
    out = tmp_path / "out"
    run = federation.study(str(bench.study), "--out", str(out))
    until_said(out, "A: B → A", federation)
    for _ in range(3):
        with sqlite3.connect(federation.coordinator.superlink / "state.db", timeout=60) as database:
            database.execute("BEGIN EXCLUSIVE")
            time.sleep(8.0)
            database.rollback()
        time.sleep(2.0)
    code, _, errors = ended(federation, run, seconds=480)
    assert code == 0, errors + federation.told()
    bench.assert_equal(out)


def test_a_database_that_is_gone(bench: Bench, federation: Federation, tmp_path: Path) -> None:
    """The coordinator stops, its database is deleted, and it starts: the hospitals are made known again."""
    federation.start("superlink", "superexec", "A", "B")
    out = tmp_path / "out"
    run = federation.study(str(bench.study), "--out", str(out))
    until_said(out, "[1/", federation)
    federation.kill("superexec", signal.SIGTERM)
    federation.kill("superlink", signal.SIGTERM)
    for path in federation.coordinator.superlink.glob("state.db*"):
        path.unlink()
    federation.start("superlink", "superexec")
    code, _, errors = ended(federation, run, seconds=480)
    assert code == 0, errors + federation.told()
    assert federation.said("superlink").count("Site A was made known to the SuperLink.") == 2
    bench.assert_equal(out)

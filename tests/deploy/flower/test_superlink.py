"""The SuperLink's database waits its turn, where SQLite alone would refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Many threads read and then write in one transaction, as Flower does; prints how many were refused.
WORK = """
import sys, threading, time
from sqlalchemy import create_engine, text
if sys.argv[2] == "turns":
    from deploy.flower.superlink import take_turns
    take_turns()
engine = create_engine(f"sqlite:///{sys.argv[1]}", connect_args={"check_same_thread": False})
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE t (n INTEGER)"))
    connection.execute(text("INSERT INTO t VALUES (0)"))
refused = []

def add():
    for _ in range(20):
        try:
            with engine.begin() as connection:
                if sys.argv[2] != "turns":
                    connection.execute(text("BEGIN"))
                (n,) = connection.execute(text("SELECT n FROM t")).one()
                time.sleep(0.002)
                connection.execute(text("UPDATE t SET n = :n"), {"n": n + 1})
        except Exception as error:
            refused.append(error)

threads = [threading.Thread(target=add) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with engine.begin() as connection:
    print(len(refused), *connection.execute(text("SELECT n FROM t")).one())
"""


@pytest.mark.parametrize("how", ["turns", "as Flower has it"])
def test_who_reads_and_then_writes_is_not_refused(tmp_path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path / "state.db"), how],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    refused, counted = map(int, done.stdout.split())
    assert refused + counted == 120, "an addition was lost"
    assert (refused == 0) == (how == "turns"), "and without turns some are refused, or this shows nothing"

"""The SuperLink's database waits its turn, where SQLite alone would refuse."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.flower.control import QUIET
from deploy.flower.supervisor import a_free_port

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


def test_a_database_of_a_newer_flower_is_told_in_a_sentence(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        database.execute("INSERT INTO alembic_version VALUES ('of-tomorrow')")
    command = [sys.executable, "-I", "-m", "deploy.flower.superlink", "--insecure", "--database", tmp_path / "state.db"]
    done = subprocess.run(
        [*command, "--host", "127.0.0.1", "--port", str(a_free_port())],
        env={**os.environ, **QUIET, "FLWR_HOME": str(tmp_path / "flower")},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 1
    assert "written by another Flower than the one installed here (Can't locate revision" in done.stderr
    assert "move the database away" in done.stderr.splitlines()[-1]

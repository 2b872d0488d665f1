"""Locks are held by one or shared by several, and a killed holder holds nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common import locks
from tests.support.hospitals import REPO

HOLD = """
import sys, time
from pathlib import Path
from common import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@contextmanager
def another_process(kind: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, kind, str(path)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_a_killed_holder_holds_nothing(path: Path, kind: str) -> None:
    with another_process(kind, path) as process:
        with pytest.raises(BlockingIOError, match="lock"), locks.exclusive(path, wait=False):
            pass
        process.kill()
        process.wait()
        with locks.exclusive(path, wait=False):
            pass


def test_several_share_a_lock_and_one_alone_excludes_them(path: Path) -> None:
    with another_process("shared", path), locks.shared(path, wait=False), locks.shared(path, wait=False):
        pass
    with (
        another_process("exclusive", path),
        pytest.raises(BlockingIOError),
        locks.shared(path, wait=False),
    ):
        pass


def test_threads_of_one_process_exclude_each_other_and_wait(path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locks.exclusive(path):
            order.append("second")

    thread = threading.Thread(target=second)
    with locks.exclusive(path):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_is_released_whatever_its_holder_raises(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.exclusive(path):
        raise ZeroDivisionError
    with locks.exclusive(path, wait=False):
        pass


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, locks.shared(tmp_path / "none" / "lock"):
        pass
    assert error.value.filename == str(tmp_path / "none" / "lock")


def test_no_other_module_takes_locks_by_itself() -> None:
    rooms = ("client", "common", "deploy", "server")
    files = {path.relative_to(REPO) for room in rooms for path in (REPO / room).rglob("*.py")}
    takers = {path for path in files if re.search(r"^import (fcntl|filelock)$", (REPO / path).read_text("utf-8"), re.M)}
    assert takers == {Path("common/locks.py")}

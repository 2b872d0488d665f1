"""Locks between processes and threads, each a file: exclusive (one holder) or shared (any number of holders).

Both kinds are the operating system's `flock`. The system releases the lock when the holder's process ends, even when
killed; the remaining empty file locks nothing. A child process forked while its parent holds a lock shares the lock,
which is released when both processes have ended.

The package filelock takes exclusive locks by the same call, but shared locks by an SQLite database, which a process
must not hold open when it forks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path, *, wait: bool = True, mode: int = 0o600) -> Iterator[None]:
    """Hold a file's exclusive lock while the block runs.

    Args:
        path: the lock's file, which is made if need be, and stays.
        wait: whether to wait until the lock is free.
        mode: the permissions of the file, where it is made.

    Raises:
        BlockingIOError: the lock is held, and `wait` is False.
        OSError: the file cannot be opened, or its file system has no locks (ENOLCK, EOPNOTSUPP).
    """
    with _held(path, fcntl.LOCK_EX, wait, mode):
        yield


@contextmanager
def shared(path: Path, *, wait: bool = True, mode: int = 0o600) -> Iterator[None]:
    """Hold a file's shared lock while the block runs: other shared holders are allowed, exclusive holders are not.

    Arguments and errors are the same as in `exclusive`.
    """
    with _held(path, fcntl.LOCK_SH, wait, mode):
        yield


@contextmanager
def _held(path: Path, how: int, wait: bool, mode: int) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        try:
            fcntl.flock(handle, how if wait else how | fcntl.LOCK_NB)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from None
        yield
    finally:
        os.close(handle)

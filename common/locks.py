"""Locks between processes and threads, each a file: exclusive, with one holder, or shared, with any number.

Both are the system's own `flock`. It is released when the holder's process ends, killed ones included, and what is
left of it, an empty file, locks nothing. The package filelock takes exclusive locks by the same call, but shared ones
by a SQLite database, which a process must not hold open when it forks: a second thing to understand for one call.
A child that was forked while a lock was held shares it, and it is released when both have ended.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path, *, wait: bool = True, mode: int = 0o600) -> Iterator[None]:
    """Hold a file's lock alone.

    Args:
        path: the lock's file; it is made if need be, and stays.
        wait: for whoever holds it.
        mode: the file's, where it is made.

    Raises:
        BlockingIOError: it is held, and `wait` is False.
        OSError: the file cannot be opened, or its file system has no locks (ENOLCK, EOPNOTSUPP).
    """
    with _held(path, fcntl.LOCK_EX, wait, mode):
        yield


@contextmanager
def shared(path: Path, *, wait: bool = True, mode: int = 0o600) -> Iterator[None]:
    """Hold a file's lock as others may at the same time, but for an exclusive holder. See `exclusive`."""
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

"""Atomic writes: a file exists completely or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path


def write_atomically(
    path: Path, content: bytes | Sequence[bytes | memoryview], *, durable: bool = False, mode: int = 0o666
) -> None:
    """Write a file atomically, by renaming a temporary file.

    Args:
        path: the file; an existing file is replaced.
        content: the bytes, whole or as consecutive pieces.
        durable: also flush file and folder to the disk, for safety against a loss of power.
        mode: the file's permissions, narrowed further by the process's umask.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            _keep_name(path.parent)
    except OSError as error:
        # The error of a full disk has no file name, and the temporary name would mean nothing to a user.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _keep_name(folder: Path) -> None:
    """Flush a folder to the disk: without the flush, a loss of power may lose a new name in the folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

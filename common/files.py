"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path


def write_atomically(
    path: Path, content: bytes | Sequence[bytes | memoryview], *, durable: bool = False, mode: int = 0o666
) -> None:
    """Write a file so that it is there whole or not at all; `durable` also survives a loss of power.

    `mode` is further narrowed by the process's umask.
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
        # A full disk is told without a name, and a temporary one says nothing.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _keep_name(folder: Path) -> None:
    """Return a new name in a folder survives a loss of power only when the folder is written too."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

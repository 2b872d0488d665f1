"""A disk of a few megabytes, which a test fills and empties. Only root can make one, and only on Linux."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """One that is mounted."""

    folder: Path

    def fill(self) -> None:
        """Leave no byte, and no room for another name."""
        with (self.folder / ".filler").open("wb") as file:
            size, step = 0, 1 << 22
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError:
                    step //= 2
        (self.folder / ".names").mkdir()
        with suppress(OSError):
            for number in range(100_000):
                (self.folder / ".names" / str(number)).touch()

    def empty(self) -> None:
        """Give back what `fill` took."""
        (self.folder / ".filler").unlink()
        for path in (self.folder / ".names").iterdir():
            path.unlink()
        (self.folder / ".names").rmdir()


@contextmanager
def small_disk(folder: Path, *, megabytes: int = 300) -> Iterator[SmallDisk]:
    """Mount one at a folder, which is made if it is missing. Skips the test where that cannot be done."""
    folder.mkdir(exist_ok=True)
    options = f"size={megabytes}m,nr_inodes=4k,mode=0755"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "relay-test", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here; root can on Linux")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # whoever still has files open keeps them

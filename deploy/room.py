"""Say that a disk is full: the programs at work say it only in logs, and these lie on that very disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from common.errors import DiskFull
from common.text import short_bytes

LEAST = 10_000_000
"""Bytes below which a disk is called full: a database, a log and a model's weights need more."""
LOOK_EVERY = 10.0
"""Seconds between two looks at a disk."""
REPEAT = 600.0
"""Seconds after which a disk that is still full is spoken of again."""


def full_disk(folders: Sequence[Path]) -> str:
    """Return a sentence about the first folder whose disk is full; empty if there is room on all.

    Args:
        folders: folders, each of which is there.
    """
    for folder in folders:
        if (free := shutil.disk_usage(folder).free) < LEAST:
            return f"The disk that holds {folder} is full ({short_bytes(free)} are left); make room there"
    return ""


def check_room(folders: Sequence[Path]) -> None:
    """Refuse to go on where a disk is full.

    Args:
        folders: as of `full_disk`.

    Raises:
        DiskFull: the disk of one of the folders is full.
    """
    if sentence := full_disk(folders):
        raise DiskFull(f"{sentence} and start again: what is finished is kept.")


class Room:
    """Look at the disks of some folders, and report each change: full, and room again.

    Args:
        folders: as of `full_disk`.
        then: what happens once there is room: the end of a sentence.
    """

    def __init__(self, folders: Sequence[Path], then: str) -> None:
        self._folders, self._then = folders, then
        self._looked = self._said_at = float("-inf")
        self._full = False

    def news(self, now: float) -> list[str]:
        """Return the sentences to print now.

        Args:
            now: the time, of `time.monotonic()`.
        """
        if now - self._looked < LOOK_EVERY:
            return []
        self._looked = now
        before, sentence = self._full, full_disk(self._folders)
        self._full = bool(sentence)
        if sentence and (not before or now - self._said_at > REPEAT):
            self._said_at = now
            return [f"{sentence}; {self._then}."]
        return ["There is room on the disk again."] if before and not sentence else []

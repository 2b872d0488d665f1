"""Write paths as words of a systemd unit."""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import RelayError

PLAIN = re.compile(r"[\w/.,+@=:%-]+")
"""A word valid without quotes in a systemd unit."""


def unit_word(path: Path) -> str:
    """Return a path as a single word of a systemd unit, quoted and escaped as systemd.syntax(7) says."""
    text = printable(path).replace("%", "%%")
    if PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def printable(path: Path) -> str:
    """Return a path's text.

    Raises:
        RelayError: the path holds a line end or another character allowed in neither file.
    """
    if not str(path).isprintable():
        raise RelayError(
            f"{str(path)!r} cannot stand in such a file; use a path without line ends or control characters."
        )
    return str(path)

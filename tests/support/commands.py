"""`relay` in the process of a test: the same command without the seconds that importing torch takes anew."""

from __future__ import annotations

from pathlib import Path

from deploy.cli.commands import Call
from deploy.cli.program import invoke


def relay_here(*words: str | Path) -> int:
    """Run a command; returns its exit code. What a user would be told as one sentence is raised as a RelayError."""
    return invoke(Call(tuple(map(str, words))))

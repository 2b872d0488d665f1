"""`relay` in the process of a test: the same command without the seconds that importing torch takes anew."""

from __future__ import annotations

from pathlib import Path

from deploy.cli import parser
from deploy.command import Command


def relay_here(*words: str | Path) -> int:
    """Run a command; returns its exit code. What a user would be told as one sentence is raised as a RelayError."""
    chosen = parser().parse_args([str(word) for word in words])
    command: Command = chosen.command
    return command.run(chosen)

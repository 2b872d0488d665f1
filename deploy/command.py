"""What a command of `relay` is, whichever table it stands in."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command: its words, what it says of itself, what it takes and what it does."""

    words: tuple[str, ...]
    about: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    """Returns the exit code."""
    stopped: str = "Stopped."
    """What Ctrl-C leaves behind."""


def whole_number(least: int) -> Callable[[str], int]:
    """A kind of argument: a whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f'"{text}" is no whole number of at least {least}')
        return number

    return read

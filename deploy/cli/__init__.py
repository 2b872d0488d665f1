"""The command `relay`. A file holds a group of commands, and is loaded when one of them is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 not all done, 2 wrongly called, 130 stopped by Ctrl-C.

    Args:
        argv: the words after `relay`. None: this process is `relay`, and those are its arguments.
    """
    if argv is None:
        from prostate_relay import use_own_packages

        use_own_packages()
    from deploy.cli.program import run

    return run(sys.argv[1:] if argv is None else argv)

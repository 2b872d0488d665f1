"""Hold the command `relay`: a file for each group of commands, imported when a command of the group is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after `relay`. None: this process is `relay`, and the words are its arguments.

    Returns:
        The exit code: 0 done, 1 not all done, 2 wrongly called, 130 stopped by Ctrl-C.
    """
    if argv is None:
        from prostate_relay import use_own_packages

        use_own_packages()
    from deploy.cli.program import run

    return run(sys.argv[1:] if argv is None else argv)

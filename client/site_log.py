"""The site's own log, site.log: the only place where errors are written in full."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

LARGEST = 20_000_000
"""The largest size of the log in bytes; a larger one is renamed to NAME.1 when the log is opened."""


def open_site_log(path: Path) -> None:
    """Send the logger `relay.site` to a file instead of standard error.

    Args:
        path: the log file, created if need be and readable by its owner alone (mode 0600).

    Raises:
        OSError: the file cannot be opened.
    """
    logger = logging.getLogger("relay.site")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    # Otherwise a log on a full disk would fill standard error, and so another log, with tracebacks.
    logging.raiseExceptions = False
    path.touch(mode=0o600)
    with suppress(OSError):
        # Each message has a process of its own, which opens the log anew.
        if path.stat().st_size > LARGEST:
            path.replace(path.with_name(f"{path.name}.1"))
            path.touch(mode=0o600)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)

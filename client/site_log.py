"""The site's own log, site.log: the one place where errors are written in full."""

from __future__ import annotations

import logging
from pathlib import Path


def open_site_log(path: Path) -> None:
    """Send the logger `relay.site` to a file; until then it writes to standard error.

    Args:
        path: made if need be, readable by its owner alone (mode 0600).

    Raises:
        OSError: the file cannot be opened.
    """
    logger = logging.getLogger("relay.site")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logging.raiseExceptions = False  # a log on a full disk shall not fill another one with tracebacks
    path.touch(mode=0o600)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)

"""Requests at Flower's engine, which fails at some of them while its database is busy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

log = logging.getLogger("relay.coordinator")

HICCUPS = 10
"""So often in a row may the engine fail at one request."""

Item = TypeVar("Item")


def asked(ask: Callable[[], Iterable[Item]]) -> Iterable[Item]:
    """What Flower's engine answers; a request at which it failed itself (HTTP 500 and above) is made again.

    Raises whatever the last request raised.
    """
    for hiccup in range(HICCUPS):
        try:
            return ask()
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if status < 500 or hiccup == HICCUPS - 1:
                raise
            log.warning("Flower's engine failed at a request (HTTP %d); it is made again.", status)
            time.sleep(min(30.0, 2.0**hiccup))
    raise AssertionError("not reached")

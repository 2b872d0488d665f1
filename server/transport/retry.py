"""Requests to Flower's SuperLink, which fails at some of them while its database is busy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

log = logging.getLogger("relay.coordinator")

HICCUPS = 10
"""So often in a row may the SuperLink fail at one request."""

Item = TypeVar("Item")


def retry_on_server_error(request: Callable[[], Iterable[Item]]) -> Iterable[Item]:
    """Return what the SuperLink answers; a request at which it failed itself (HTTP 500 and above) is made again.

    Raises:
        Exception: whatever the last request raised.
    """
    for hiccup in range(HICCUPS):
        try:
            return request()
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if status < 500 or hiccup == HICCUPS - 1:
                raise
            log.warning("The SuperLink failed at a request (HTTP %d); it is made again.", status)
            time.sleep(min(30.0, 2.0**hiccup))
    raise AssertionError("not reached")

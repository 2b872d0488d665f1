"""Retries of requests to Flower's SuperLink, some of which fail while its database is busy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

log = logging.getLogger("relay.coordinator")

HICCUPS = 10
"""The number of tries of a request."""

Item = TypeVar("Item")


def retry_on_server_error(request: Callable[[], Iterable[Item]]) -> Iterable[Item]:
    """Return the result of a request to the SuperLink, repeated after server errors (HTTP 500 and above).

    Args:
        request: makes the request.

    Raises:
        Exception: the error of the last try.
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

"""Whether anybody works with a site's private folder: who empties it must know."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from client.site_config import SiteConfig
from common.errors import RelayError

LOCK = "in-use.lock"


@contextmanager
def shared_lock(site: SiteConfig) -> Iterator[None]:
    """Work with a site's folder, as others may at the same time. Waits while it is being emptied."""
    with _locked(site, fcntl.LOCK_SH):
        yield


@contextmanager
def exclusive_lock(site: SiteConfig) -> Iterator[None]:
    """Have a site's folder to oneself.

    Raises:
        RelayError: somebody works with it.
    """
    with _locked(site, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def _locked(site: SiteConfig, how: int) -> Iterator[None]:
    # The system lets go of it when the process ends, however it ends.
    handle = os.open(site.private() / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            raise RelayError(
                f"Site {site.name} is at work (relay site start, or a study on this machine); stop that first."
            ) from None
        yield
    finally:
        os.close(handle)

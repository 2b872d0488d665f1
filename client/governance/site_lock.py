"""The lock on a site's private folder: shared while working with the folder, exclusive while emptying the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from client.site_config import SiteConfig
from common import locks
from common.errors import Locked

LOCK = "in-use.lock"


@contextmanager
def shared_lock(site: SiteConfig) -> Iterator[None]:
    """Hold the shared lock on a site's folder, and wait while another process holds the exclusive lock."""
    with locks.shared(site.private() / LOCK):
        yield


@contextmanager
def exclusive_lock(site: SiteConfig) -> Iterator[None]:
    """Hold the exclusive lock on a site's folder.

    Raises:
        Locked: another process works with the folder.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locks.exclusive(site.private() / LOCK, wait=False))
        except BlockingIOError:
            raise Locked(
                f"Site {site.name} is at work (relay site start, or a study on this machine); stop that first."
            ) from None
        yield

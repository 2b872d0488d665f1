"""Whether anybody works with a site's private folder: who empties it must know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from client.site_config import SiteConfig
from common import locks
from common.errors import Locked

LOCK = "in-use.lock"


@contextmanager
def shared_lock(site: SiteConfig) -> Iterator[None]:
    """Work with a site's folder, as others may at the same time. Waits while it is being emptied."""
    with locks.shared(site.private() / LOCK):
        yield


@contextmanager
def exclusive_lock(site: SiteConfig) -> Iterator[None]:
    """Have a site's folder to oneself.

    Raises:
        Locked: somebody works with it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locks.exclusive(site.private() / LOCK, wait=False))
        except BlockingIOError:
            raise Locked(
                f"Site {site.name} is at work (relay site start, or a study on this machine); stop that first."
            ) from None
        yield

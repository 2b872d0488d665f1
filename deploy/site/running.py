"""Whether a hospital's programs run: `relay site start` holds a lock in the private folder."""

from __future__ import annotations

from client.site_config import SiteConfig
from common import locks

STARTED = "started.lock"
"""The name of the lock in the private folder by which a site runs once."""


def is_started(site: SiteConfig) -> bool:
    """Return whether `relay site start` runs for a site."""
    path = site.private() / STARTED
    if not path.exists():
        return False
    try:
        with locks.shared(path, wait=False):
            return False
    except BlockingIOError:
        return True

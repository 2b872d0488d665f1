"""A site's secret key, and the key with which the site divides its patients."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

from client.data.splits import PUBLIC
from client.site_config import SiteConfig
from common.digest import keyed_digest
from common.errors import RelayError
from common.files import write_atomically


def site_key(site: SiteConfig) -> bytes:
    """Return the site's secret, 32 bytes, created once and stored in the site's private folder with mode 0600.

    Raises:
        RelayError: the file of the secret is damaged.
    """
    path = site.private() / "site.key"
    if not path.exists():
        fresh = path.with_name(f".site.key-{secrets.token_hex(8)}")
        write_atomically(fresh, secrets.token_bytes(32), durable=True, mode=0o600)
        # A link never replaces the key that another process may have created first.
        with suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    key = path.read_bytes()
    if len(key) != 32:
        raise RelayError(f"The site's key {path} is damaged; remove it, and a new one is made.")
    return key


def split_key(site: SiteConfig) -> bytes:
    """Return the key with which a site divides its patients (`client.data.splits`), as `split_key` in its file says.

    Raises:
        RelayError: the file of the site's secret is damaged.
    """
    if site.split_key == "public":
        return PUBLIC
    # Not the secret itself: nothing that one key makes shall say anything about what the other makes.
    return bytes.fromhex(keyed_digest(site_key(site), b"split"))

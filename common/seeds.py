"""Seeds from names: random state never depends on a generator's earlier use."""

from __future__ import annotations

from common.digest import digest_of


def seed_of(*names: str | int) -> int:
    """Return a seed of 63 bits from names, such as the study's seed, a site, a fold and an epoch.

    The seed is the first eight bytes, as a big-endian number without its last bit, of the sha256 of the names joined by
    "/".
    """
    content = "/".join(str(name) for name in names)
    return int(digest_of(content.encode())[:16], 16) >> 1

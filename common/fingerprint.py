"""Fingerprints: digests as people compare them over the telephone, twenty digits in groups of four.

Twenty hexadecimal digits are 80 bits. Machines compare all 64 digits of a digest.
"""

from __future__ import annotations


def format_fingerprint(digest: str) -> str:
    """Return the first 20 digits of a digest in groups of four."""
    return " ".join(digest[k : k + 4] for k in range(0, 20, 4))


def parse_fingerprint(text: str) -> str:
    """Return the digits of a typed fingerprint, without spaces, dashes, colons and capitals."""
    return "".join(text.replace("-", " ").replace(":", " ").lower().split())

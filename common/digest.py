"""Digests: sha256, in hexadecimal digits. What is compared, named or sealed by content is so by one of these.

Results on disks and at other sites are found by these values, so what a function gives for a content never changes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from pathlib import Path


def digest_of(content: bytes | memoryview | Iterable[bytes | memoryview]) -> str:
    """Return the digest of bytes, in one piece or in several that follow each other."""
    digest = hashlib.sha256()
    for piece in [content] if isinstance(content, bytes | memoryview) else content:
        digest.update(piece)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's content, read in pieces: what `sha256sum` prints.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_json(content: object) -> str:
    """Return the digest of plain values by their canonical JSON: keys sorted, no spaces, ASCII alone."""
    return digest_of(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def keyed_digest(key: bytes, content: bytes) -> str:
    """Return the HMAC of bytes under a secret key: whoever lacks the key cannot try out contents."""
    return hmac.new(key, content, "sha256").hexdigest()

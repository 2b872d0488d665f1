"""Digests: sha256 in hexadecimal digits, for contents that are compared, named or sealed.

Results on disks and at other sites are found by their digests, so the digest that a function here gives for a content
must never change.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from pathlib import Path


def digest_of(content: bytes | memoryview | Iterable[bytes | memoryview]) -> str:
    """Return the digest of bytes.

    Args:
        content: the bytes, in one piece or as consecutive pieces.
    """
    digest = hashlib.sha256()
    for piece in [content] if isinstance(content, bytes | memoryview) else content:
        digest.update(piece)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's content, as `sha256sum` prints it; the file is read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_json(content: object) -> str:
    """Return the digest of plain values by their canonical JSON: sorted keys, no spaces, ASCII only."""
    return digest_of(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def keyed_digest(key: bytes, content: bytes) -> str:
    """Return the HMAC-SHA256 of bytes; without the key nobody can find the content by trial."""
    return hmac.new(key, content, "sha256").hexdigest()

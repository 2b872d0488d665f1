"""Digests: sha256 in hexadecimal digits, for comparing, naming and sealing contents.

Results on disks and at other sites are found by their digests, so the functions here must never change the digest of a
content.
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
        content: the bytes, whole or as consecutive pieces.
    """
    digest = hashlib.sha256()
    for piece in [content] if isinstance(content, bytes | memoryview) else content:
        digest.update(piece)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's content, the same as `sha256sum` prints; the file is read in pieces.

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

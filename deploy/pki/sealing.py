"""Seal a file for one reader and sign it, and open such a file: HPKE (RFC 9180) and ECDSA, both of `cryptography`.

A sealed file has a first line, a head as JSON, a signature, and the sealed content. The head is readable by everybody
who carries the file; content and head belong together, since the head is part of what HPKE binds (`info`) and of what
is signed. Keys are those of the enrolment, ECDSA over P-384.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from common.errors import RelayError
from deploy.pki.certificates import Key, is_signed, sign

FIRST = b"relay parcel 1\n"
LONGEST_HEAD = 20_000
_SUITE = Suite(KEM.P384, KDF.HKDF_SHA384, AEAD.AES_256_GCM)

Head = Mapping[str, str]


def seal(content: bytes, head: Head, *, to: ec.EllipticCurvePublicKey, by: Key) -> bytes:
    """Return the sealed file of a content.

    Args:
        content: the content, which `to`'s owner alone can read.
        head: texts that stand outside.
        to: the reader's key.
        by: the writer's key.
    """
    text = json.dumps(head, sort_keys=True).encode() + b"\n"
    sealed = _SUITE.encrypt(content, to, FIRST + text)
    signature = sign(by, FIRST + text + sealed).encode() + b"\n"
    return b"".join((FIRST, text, signature, sealed))


def unseal(file: bytes, name: str, *, key: Key, writer: Callable[[Head], ec.EllipticCurvePublicKey]) -> bytes:
    """Return the content of a sealed file.

    Args:
        file: the file.
        name: its name, for errors.
        key: the reader's key.
        writer: returns the key of the writer whom the head names; raises RelayError for a writer from whom nothing is
            taken.

    Raises:
        RelayError: the file is no parcel, was changed, is not the writer's, or is sealed for another reader.
    """
    first, text, signature, sealed = _parts(file, name)
    try:
        head = json.loads(text)
        if not isinstance(head, dict) or not all(isinstance(value, str) for value in head.values()):
            raise ValueError
    except ValueError:
        raise _damaged(name) from None
    if not is_signed(writer(head), signature.decode("ascii", "replace"), first + text + sealed):
        raise RelayError(f"{name} was changed on its way, or is not of whom it says; ask for it again.")
    try:
        return _SUITE.decrypt(sealed, key, FIRST + text)
    except InvalidTag:
        raise RelayError(f"{name} is sealed for another reader; it was brought to the wrong place.") from None


def _parts(file: bytes, name: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the first line, the head with its line end, the signature, and the sealed content."""
    end = file.find(b"\n", len(FIRST), LONGEST_HEAD) + 1
    second = file.find(b"\n", end, end + 1000) + 1
    if not file.startswith(FIRST) or not end or not second:
        raise _damaged(name)
    return FIRST, file[len(FIRST) : end], file[end : second - 1], file[second:]


def _damaged(name: str) -> RelayError:
    return RelayError(f"{name} is no parcel that relay sealed, or was cut off on its way; ask for it again.")

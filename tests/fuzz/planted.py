"""Names that are planted in every file that is fuzzed, and the search for them in what would leave."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote

NAME, GIVEN, PATIENT_ID, BORN = "Zwetschgenröster", "Ottokar", "PID-480231", "Xylander-Wirsing"
WARD, USER = "Klinik Nordstern", "q.quittenbaum"
PATIENT = f"{PATIENT_ID} {NAME} {GIVEN}"
"""What a patient's folder or file is called, and the PatientID."""

TEXTS = (NAME, "zwetschgenr", GIVEN, PATIENT_ID, "480231", BORN, WARD, "Nordstern", USER, "quittenbaum")
ENDINGS = (".dcm", ".nrrd", ".nii", ".mhd", ".mha", ".raw", ".toml", "dataset.json", "Traceback")
"""No file's name and no error's text has anything to do in an answer."""


def found_in(content: bytes, *, also: tuple[str, ...] = ()) -> list[str]:
    """The planted texts that stand in some bytes, in whatever spelling."""
    lower = content.lower()
    return [
        text
        for text in (*TEXTS, *ENDINGS, *also)
        if any(form in content or form.lower() in lower for form in forms(text))
    ]


@functools.cache
def forms(text: str) -> tuple[bytes, ...]:
    """The ways in which a text may stand in bytes; a bare digest can be tried out, so it counts too."""
    spelled = {text, text.lower(), text.upper(), text.casefold(), *_normalised(text)}
    return tuple({form for spelling in spelled for form in _written(spelling)})


def _normalised(text: str) -> Iterator[str]:
    yield from (unicodedata.normalize(how, text) for how in ("NFC", "NFD"))
    yield text.replace(" ", "^")


def _written(text: str) -> Iterator[bytes]:
    for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        yield text.encode(encoding, "ignore")
    for encoding in ("utf-8", "latin-1", "utf-16-le"):
        plain = text.encode(encoding, "ignore")
        yield from (quote(plain).encode(), plain.hex().encode(), plain.hex(" ").encode())
        yield from _in_base64(plain)
    yield json.dumps(text)[1:-1].encode()
    yield text.encode("unicode_escape")
    yield text[::-1].encode()
    for digest in ("md5", "sha1", "sha256"):
        made = hashlib.new(digest, text.encode())
        yield from (made.digest(), made.hexdigest().encode())


def _in_base64(plain: bytes) -> Iterator[bytes]:
    """What of a text does not depend on what stands around it, for each of the three places it may begin at."""
    for before in range(3):
        start, end = -(-before * 4 // 3), (before + len(plain)) * 4 // 3
        packed = base64.b64encode(bytes(before) + plain)[start + (before > 0) : end - 1]
        if len(packed) > 5:
            yield from (packed, packed.replace(b"+", b"-").replace(b"/", b"_"))

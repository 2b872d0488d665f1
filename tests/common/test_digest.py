"""Digests are what `sha256sum` and `openssl` say of the same bytes, and stay so for what lies on disks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from common.digest import digest_of, digest_of_file, digest_of_json, keyed_digest
from tests.support.hospitals import REPO


def sha256sum(content: bytes) -> str:
    return subprocess.run(["sha256sum"], input=content, capture_output=True, check=True).stdout.decode().split()[0]


def test_a_digest_is_what_sha256sum_says() -> None:
    assert digest_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of(b"relay") == sha256sum(b"relay")
    assert digest_of(memoryview(b"relay")) == sha256sum(b"relay")


def test_pieces_have_the_digest_of_the_whole() -> None:
    pieces = [b"re", memoryview(b"la"), b"", b"y"]
    assert digest_of(pieces) == digest_of(iter(pieces)) == sha256sum(b"relay")


def test_a_file_has_the_digest_of_its_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000  # more than one piece
    (tmp_path / "file").write_bytes(content)
    assert digest_of_file(tmp_path / "file") == sha256sum(content)


def test_equal_values_have_one_digest_however_they_are_ordered() -> None:
    canonical = rb'{"a":[1,2.5,null],"b":{"c":"\u00e9","d":true}}'
    for same in ({"b": {"d": True, "c": "é"}, "a": (1, 2.5, None)}, {"a": [1, 2.5, None], "b": {"c": "é", "d": True}}):
        assert digest_of_json(same) == sha256sum(canonical)
    assert digest_of_json([1, 2]) != digest_of_json([2, 1])


def test_a_keyed_digest_is_the_hmac_of_rfc_4231() -> None:
    """Test case 2."""
    found = keyed_digest(b"Jefe", b"what do ya want for nothing?")
    assert found == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_no_other_module_makes_digests() -> None:
    rooms = ("client", "common", "deploy", "server")
    files = {path.relative_to(REPO) for room in rooms for path in (REPO / room).rglob("*.py")}
    makers = {path for path in files if re.search(r"^import (hashlib|hmac)$", (REPO / path).read_text("utf-8"), re.M)}
    assert makers == {Path("common/digest.py")}

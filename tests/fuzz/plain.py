"""Mutations of any bytes whatever, and what all the others share. A seed gives the same file again."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.fuzz.planted import BORN, GIVEN, NAME, PATIENT_ID, USER, WARD

Random = random.Random

PHI = (NAME, f"{NAME}^{GIVEN}", PATIENT_ID, BORN, WARD, USER, f"/home/{USER}/{NAME}.dcm")
NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "-3",
    "40",
    "255",
    "32768",
    "100000",
    "4294967296",
    "-9223372036854775808",
    "9" * 400,
)
FLOATS = (
    "nan",
    "inf",
    "-inf",
    "0",
    "-0.0",
    "-1",
    "1e-30",
    "1e-300",
    "1e30",
    "1e308",
    "1e999",
    "0x10",
    "1,5",
    "1.5.2",
    "",
)


@dataclass(frozen=True)
class Link:
    """In a file's place: a link to somewhere else."""

    to: str


@dataclass(frozen=True)
class Fifo:
    """In a file's place: a pipe that nobody writes to. Who opens it waits for ever."""


Entry = bytes | Link | Fifo
Files = dict[str, Entry]
"""A patient's files, by their path below the site's folder."""


def write(files: Mapping[str, Entry], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case Link(to):
                path.symlink_to(to)
            case Fifo():
                os.mkfifo(path)
            case _:
                path.write_bytes(content)


def harm(content: bytes, rng: Random) -> bytes:
    """Bits, bytes and blocks changed, anywhere, or where a header is likely to be."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = rng.choice(_PLAIN)(content, rng)
    return content


def elsewhere(entry: Entry, rng: Random) -> Entry:
    """The file is not what lies there."""
    return rng.choice(
        (
            Fifo(),
            Link("/dev/zero"),
            Link("/dev/tty"),
            Link("/etc/passwd"),
            Link("/proc/self/mem"),
            Link(f"/home/{USER}/{NAME}.nii"),
            Link("."),
            b"",
            entry,
        )
    )


def packed(content: bytes, rng: Random) -> bytes:
    """Gzip of some bytes: sound, cut, with something behind it, with a wrong checksum, twice, or swollen."""
    whole = gzip.compress(content, 1, mtime=0)
    name = NAME.encode()
    return rng.choice(
        (
            lambda: whole,
            lambda: whole[: rng.randrange(len(whole))],
            lambda: whole + rng.randbytes(rng.randrange(1, 40)),
            lambda: whole + name,
            lambda: whole[:-8] + rng.randbytes(8),
            lambda: gzip.compress(whole, 1, mtime=0),
            lambda: whole + whole,
            lambda: gzip.compress(content[: rng.randrange(len(content))], 1, mtime=0),
            lambda: whole[:3] + b"\x08" + whole[4:10] + name + b"\0" + whole[10:],  # the name of what was packed
            lambda: harm(whole, rng),
            lambda: whole + swollen(),
            lambda: gzip.compress(content[:1000], 1, mtime=0) + swollen(),
        )
    )()


@cache
def swollen() -> bytes:
    """Six gigabytes of zeros, packed into some megabytes."""
    return gzip.compress(bytes(1 << 24), 9, mtime=0) * 400


def lines(content: list[tuple[str, str]], rng: Random, odd: Mapping[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """A header of keys and values with some of them changed, lost, doubled or moved."""
    changed = list(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        k = rng.randrange(len(changed))
        key, value = changed[k]
        way = rng.randrange(12)
        if way < 6:
            changed[k] = key, rng.choice((*odd.get(key, ()), *odd.get(key, ()), *NUMBERS, *FLOATS, *PHI))
        elif way == 6:
            # Of several numbers one alone.
            pieces = value.split(" ")
            pieces[rng.randrange(len(pieces))] = rng.choice((*NUMBERS, *FLOATS))
            changed[k] = key, " ".join(pieces)
        elif way == 7 and len(changed) > 1:
            del changed[k]
        elif way == 8:
            changed.insert(rng.randrange(len(changed) + 1), (key, rng.choice((value, *odd.get(key, NUMBERS)))))
        elif way == 9:
            changed.insert(rng.randrange(len(changed)), changed.pop(k))
        elif way == 10:
            changed[k] = rng.choice((key.upper(), key.lower(), f" {key}", f"{key} ", NAME, "")), value
        else:
            text = rng.choice(
                (*PHI, "x" * 70_000, "x" * 40_000, "1 " * 9000, "x" * 450, "\r", "\0", "%s%n%d", "é\ud800"[:1])
            )
            changed[k] = key, rng.choice((text, f"{value} {text}", f"{text} {value}"))
    return changed


def _flip(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        if changed:
            place = rng.randrange(min(len(changed), rng.choice((400, len(changed)))))
            changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _behead(content: bytes, rng: Random) -> bytes:
    return content[rng.randrange(min(len(content), 600) + 1) :]


def _block(content: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice((1, 2, 4, 16, 512)))


def _lose(content: bytes, rng: Random) -> bytes:
    start, end = _block(content, rng)
    return content[:start] + content[end:]


def _repeat(content: bytes, rng: Random) -> bytes:
    start, end = _block(content, rng)
    return content[:end] + content[start:end] * rng.choice((1, 2, 50)) + content[end:]


def _swap(content: bytes, rng: Random) -> bytes:
    start, end = _block(content, rng)
    other = rng.randrange(len(content) + 1)
    rest = content[:start] + content[end:]
    return rest[:other] + content[start:end] + rest[other:]


def _fill(content: bytes, rng: Random) -> bytes:
    start, end = _block(content, rng)
    fill = rng.choice((b"\0", b"\xff", b"\x7f", b" ", b"\n", rng.randbytes(1)))
    return content[:start] + fill * (end - start) + content[end:]


def _word(content: bytes, rng: Random) -> bytes:
    """A number of two or four bytes, in either order, at its ends."""
    size = rng.choice((2, 4, 8))
    if len(content) <= size:
        return content
    place = rng.randrange(min(len(content) - size, rng.choice((400, 1 << 30))))
    value = rng.choice((0, 1, -1, 2**15 - 1, 2**16 - 2, 2**31 - 1, 2**32 - 2, -(2**15))) % 2 ** (8 * size)
    return content[:place] + value.to_bytes(size, rng.choice(("little", "big"))) + content[place + size :]


def _name(content: bytes, rng: Random) -> bytes:
    name = rng.choice(PHI).encode(rng.choice(("utf-8", "latin-1", "utf-16-le")))
    place = rng.randrange(len(content) + 1)
    return content[:place] + name + content[place + rng.choice((0, len(name))) :]


_PLAIN: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _flip, _flip, _cut, _behead, _lose, _repeat, _swap, _fill, _word, _word, _name
)  # fmt: skip

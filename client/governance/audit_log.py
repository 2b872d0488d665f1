"""A log in which every line names the digest of the line before, so that a changed or missing line shows.

The digests alone cannot show missing lines at the end of the log, so a note of the end lies beside the log. A log that
differs from its note shows the fault for ever: the next line names the noted end, not the end found. An attacker with
write access to both files can still change both; see `docs/explanation/threat-model.md` for remedies.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from common import locks
from common.digest import digest_of
from common.errors import RelayError
from common.files import write_atomically

NOTHING = digest_of(b"")
"""The digest named by the first line."""
UNKNOWN = "0" * 64
"""The digest named by a line if the log had lines and no note of its end."""


@dataclass(frozen=True)
class End:
    """A log's end, as noted beside the log after the last line."""

    lines: int
    bytes: int
    digest: str
    """sha256 of the last line, without its line end."""


@dataclass(frozen=True)
class Reading:
    """A log as read from the disk."""

    lines: tuple[dict[str, Any], ...]
    """The entry of each line; empty for an unreadable line."""
    digests: tuple[str, ...]
    """sha256 of each line."""
    fault: str
    """The first place where the log differs from the lines written, in plain words; empty if there is none."""


def append(path: Path, entry: Mapping[str, object]) -> None:
    """Append a line, which is on the disk at the return; any number of processes may append at once.

    Args:
        path: the log; created if need be, mode 0600.
        entry: the line's content; the digest of the line before is added.

    Raises:
        RelayError: the folder is on a file system without locks.
        OSError: the log cannot be written.
    """
    with _alone(path), open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        os.chmod(path, 0o600)
        end = _end_to_name(file, _noted(path))
        line = json.dumps({**entry, "before": end.digest}, separators=(",", ":")).encode()
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
        now = End(end.lines + 1, file.seek(0, os.SEEK_END), digest_of(line))
        write_atomically(_note_of(path), json.dumps(asdict(now)).encode(), durable=True, mode=0o600)


def read(path: Path) -> Reading:
    """Read an audit log and compare each line with the digest in the next; a missing log counts as empty.

    Raises:
        OSError: the log cannot be read.
    """
    # The note is read first: a line appended meanwhile lies beyond the noted end, and is no fault.
    end = _noted(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    # Bytes after the last line end belong to an unfinished line, which is being written or was cut short. Nothing left
    # the site with such a line.
    raw = content.split(b"\n")[:-1]
    lines, digests, fault, before = [], [], "", NOTHING
    for number, line in enumerate(raw, start=1):
        entry = _entry(line)
        lines.append(entry)
        digests.append(digest_of(line))
        if not fault and entry.get("before") != before:
            fault = _break(number, entry)
        before = digests[-1]
    return Reading(tuple(lines), tuple(digests), fault or _fault_at_end(digests, end))


def _break(number: int, entry: Mapping[str, Any]) -> str:
    if "before" not in entry:
        return f"line {number} was changed: it cannot be read"
    if entry["before"] == UNKNOWN:
        return f"the note of the end was gone when line {number} was written: lines may be missing before it"
    if number == 1:
        return "line 1 is not the first that was written, or was changed"
    return f"line {number - 1} was changed, or lines between it and line {number} were taken out or put in"


def _fault_at_end(digests: list[str], end: End | None) -> str:
    if end is None:
        return "the note of the end is gone: lines may be missing there" if len(digests) > 1 else ""
    if len(digests) < end.lines:
        return f"line {len(digests) + 1} is gone: {end.lines} lines were written, and {len(digests)} are there"
    if digests[end.lines - 1] != end.digest:
        return f"line {end.lines} was changed, or all lines from an earlier one on were written anew"
    return ""


def _end_to_name(file: BinaryIO, noted: End | None) -> End:
    """Return the end that the next line names, and prepare the file for this line.

    A process killed between a line and its note, or within a line, leaves one line more than noted, or the beginning of
    a line. Such a log is repaired. Any other difference is kept as found, so that the fault shows.
    """
    size = file.seek(0, os.SEEK_END)
    end = start = noted or End(0, 0, NOTHING)
    file.seek(start.bytes)
    *whole, torn = file.read().split(b"\n")
    mended = True
    for line in whole:
        mended = mended and _entry(line).get("before") == end.digest
        end = End(end.lines + 1, end.bytes + len(line) + 1, digest_of(line))
    if mended and torn:
        file.truncate(size - len(torn))
    file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
    if file.read(1) not in (b"", b"\n"):
        file.write(b"\n")
    if noted:
        return end if mended else noted
    return end if mended and end.lines <= 1 else End(end.lines, end.bytes, UNKNOWN)


def _entry(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _note_of(path: Path) -> Path:
    return path.with_suffix(".end")


def _noted(path: Path) -> End | None:
    try:
        end = End(**json.loads(_note_of(path).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    sound = isinstance(end.lines, int) and isinstance(end.bytes, int) and isinstance(end.digest, str)
    return end if sound and end.lines > 0 and end.bytes > 0 else None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    try:
        with locks.exclusive(path.with_suffix(".lock")):
            yield
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise RelayError(
                f"{path.parent} is on a file system without locks; put the site's folder elsewhere."
            ) from None
        raise

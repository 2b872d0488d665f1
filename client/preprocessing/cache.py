"""The site's cache: tensors named by content, and the digests of files, so that nothing is computed twice.

All files lie in the site's private folder. A file is written under another name and then renamed, so a reader sees the
whole file or none. A damaged file counts as missing and is made again.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from common import locks
from common.digest import digest_of, digest_of_file, digest_of_json
from common.errors import DiskFull, RelayError
from common.files import write_atomically

Stat = tuple[int, int, int]
"""A file's size, time of modification and time of change (both in ns); equal values mean equal content."""

Tensors = Mapping[str, NDArray[Any]]

_CHECKSUM = "crc32"


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: the file.
        tensors: the arrays by name.
        metadata: texts stored with the arrays; a checksum is added.

    Raises:
        RelayError: the disk is full, or the folder cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_bytes(path, safetensors.numpy.save(arrays, {**metadata, _CHECKSUM: _checksum(arrays)}))


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]] | None:
    """Return the arrays and metadata of a file from `write_tensors`; None where the file is missing or damaged."""
    metadata = read_metadata(path)
    if metadata is None:
        return None
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError):
        return None
    return (arrays, metadata) if metadata.get(_CHECKSUM) == _checksum(arrays) else None


def read_metadata(path: Path) -> dict[str, str] | None:
    """Return a file's metadata without reading its arrays; None where the file is missing or cut short."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return file.metadata() or None
    except (OSError, safetensors.SafetensorError):
        return None


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file, whole or not at all, readable for its owner alone.

    Args:
        path: the file; its folder is created if need be.
        content: all of the file.
        durable: whether the content must be on the disk at the return, so that a loss of power cannot undo the write.

    Raises:
        RelayError: the disk is full, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, content, durable=durable, mode=0o600)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"The disk of {path.parent} is full; free some space and start again: what is done is kept."
            ) from None
        raise RelayError(
            f"{path.parent} cannot be written ({error.strerror}); give the user that runs relay the right to."
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where the file is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write a JSON object, whole or not at all, readable for its owner alone.

    Args:
        path: the file; its folder is created if need be.
        content: the object.
        durable: as for `write_bytes`.

    Raises:
        RelayError: as for `write_bytes`.
    """
    write_bytes(path, json.dumps(content).encode(), durable=durable)


def stat(path: Path) -> Stat:
    """Return a file's size and times.

    Raises:
        OSError: the file does not exist.
    """
    result = os.stat(path)
    return result.st_size, result.st_mtime_ns, result.st_ctime_ns


def snapshot(folders: Iterable[Path], *, without: Path) -> str:
    """Return a digest of the names and stats of all files below some folders, without the files below `without`."""
    seen: set[tuple[int, int]] = set()
    excluded = os.path.realpath(without)
    lines: list[str] = []

    def walk(folder: str) -> None:
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen or os.path.realpath(folder) == excluded:
            return
        seen.add((here.st_dev, here.st_ino))
        for entry in sorted(os.scandir(folder), key=lambda item: item.name):
            try:
                if entry.is_dir():
                    walk(entry.path)
                    continue
                state = entry.stat()
                lines.append(f"{entry.path}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}")
            except OSError as error:
                lines.append(f"{entry.path}\0{error.errno}")

    for folder in folders:
        lines.append(f"\0{folder}")
        with suppress(OSError):
            walk(str(folder))
    return digest_of("\n".join(lines).encode("utf-8", "surrogateescape"))


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Keep other processes from making the same file meanwhile; a site and the pooled site share their caches."""
    lock = path.parent.parent / "locks" / f"{path.name[:2]}.lock"
    with ExitStack() as held:
        # On a file system without locks some work is done twice; nothing else goes wrong.
        with suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(locks.exclusive(lock))
        yield


class ContentDigests:
    """The sha256 of files' content, remembered by path and stat: an unchanged file is read once."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = dict(known)
        self._used: dict[str, list[Any]] = {}

    def of(self, files: Sequence[Path]) -> str:
        """Return a single digest of the content of files, whatever their order and names.

        Raises:
            OSError: a file cannot be read.
        """
        return digest_of_json([sorted(map(self._one, files))])

    def _one(self, path: Path) -> str:
        state = stat(path)
        known = self._known.get(str(path))
        if isinstance(known, list) and len(known) == 4 and tuple(known[:3]) == state:
            self._used[str(path)] = known
            return str(known[3])
        digest = digest_of_file(path)
        self._used[str(path)] = [*state, digest]
        return digest

    @property
    def used(self) -> dict[str, list[Any]]:
        """Return the stats and digests to remember: all files whose digest was used, by path."""
        return self._used

    @property
    def changed(self) -> bool:
        """Return whether any digest to remember is new."""
        return self._used != self._known


def digest_of_voxels(voxels: NDArray[np.generic]) -> str:
    """Return the digest of an array's shape and values, whatever format or header its file has."""
    return digest_of([repr(voxels.shape).encode(), np.ascontiguousarray(voxels).data])


def _checksum(arrays: Tensors) -> str:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).view(np.uint8).data, total)
    return f"{total:08x}"

"""Files that fail as real ones do: half written, on a full disk, gone with the power, changed on the medium.

What production code calls to write, rename, force to the disk or remove is counted, by who calls it. So is the
reading of a study's ledger. Other reading is left alone: what can be wrong with a file shows in its content.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.kernel import Kernel
from tests.faults.plans import COORDINATOR, MOMENTS

OPEN, UNLINK = Path.open, Path.unlink
LEDGER = ("ledger", "weights")
"""The folders of a study's ledger."""
FILLING = ("write", "append")
"""What a full disk does not take. A rename needs no room."""


@dataclass(frozen=True)
class Loose:
    """What a loss of power may undo: a name that was given or taken, or content that is not on the disk yet."""

    before: bytes | None
    name_safe: bool
    content_safe: bool


class Disks:
    """The disks of all machines. `operation` is told of each use before it is done."""

    def __init__(self, kernel: Kernel, count: Callable[[str], Any]) -> None:
        """Args: count: told what is done; returns what strikes before, in the middle of and after this very one."""
        self.kernel, self.count = kernel, count
        self.full: set[str] = set()
        """Actors whose disk has no room."""
        self.loose: dict[str, dict[Path, Loose]] = {}
        self.written: dict[str, list[Path]] = {}
        """What each actor has given a name, in order."""
        self.removed: list[Path] = []
        """Records that the coordinator has taken away."""
        self._forced: set[Path] = set()
        self._opened: dict[int, Path] = {}

    def operation(
        self, kind: str, path: Path, act: Callable[[], object], half: Callable[[], object] | None = None
    ) -> None:
        """Do something to a file, or be struck at it. `act` does all of it, also after `half`."""
        if not self.kernel.current:  # a person's own doing
            act()
            return
        self.kernel.pause()
        strikes = self.count(kind)
        strikes("before", path)
        if self.kernel.process.actor in self.full and kind in FILLING:
            if half:
                half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if strikes.any("middle"):
            (half or act)()
            strikes("middle", path)
        act()
        strikes("after", path)

    # What stands in the place of Python's own.

    def open(self, path: Path, mode: str, *, opener: Callable[[str, int], int]) -> _File:
        file = builtins.open(path, mode, opener=opener)  # noqa: SIM115
        self._opened[file.fileno()] = path
        return _File(self, path, file)

    def open_path(self, path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        """Only the coordinator reads what it names "ledger" or "weights" in this way."""
        if (
            self.kernel.current
            and self.kernel.process.actor == COORDINATOR
            and path.parent.name in LEDGER
            and mode == "rb"
        ):
            self.kernel.check_alive()
            strikes = self.count("read")
            for moment in MOMENTS:  # who reads sees no difference
                strikes(moment, path)
        return OPEN(path, mode, *rest, **named)

    def fsync(self, descriptor: int) -> None:
        path = self._opened[descriptor]
        self.operation("fsync", path, lambda: self._force(path))

    def replace(self, source: Path, target: Path) -> None:
        def act() -> None:
            self._loosen(target, content_safe=source in self._forced)
            os.replace(source, target)
            if self.kernel.current:
                self.written.setdefault(self.kernel.process.actor, []).append(target)

        self.operation("rename", target, act)

    def unlink(self, path: Path, missing_ok: bool = False) -> None:
        if not self.kernel.current:
            UNLINK(path, missing_ok)
        elif not path.exists():
            self.kernel.check_alive()
            UNLINK(path, missing_ok)
        else:

            def act() -> None:
                if not path.name.endswith(".part"):
                    self._loosen(path, content_safe=True)
                    if path.parent.name == "ledger":
                        self.removed.append(path)
                UNLINK(path, True)

            self.operation("unlink", path, act)

    def rmtree(self, folder: Path, ignore_errors: bool) -> None:
        def half() -> None:
            files = sorted(folder.iterdir()) if folder.exists() else []
            for file in self.kernel.random.sample(files, len(files) // 2):
                UNLINK(file)

        if not self.kernel.current:
            shutil.rmtree(folder, ignore_errors=ignore_errors)
        elif folder.exists():
            self.operation("unlink", folder, lambda: shutil.rmtree(folder, ignore_errors=ignore_errors), half)

    def os(self) -> types.SimpleNamespace:
        def opened(path: Any, flags: int, mode: int = 0o777) -> int:
            descriptor = os.open(path, flags, mode)
            self._opened[descriptor] = Path(path)
            return descriptor

        return types.SimpleNamespace(**{**vars(os), "open": opened, "fsync": self.fsync, "replace": self.replace})

    # Loss of power.

    def _loosen(self, path: Path, *, content_safe: bool) -> None:
        if not self.kernel.current:
            return
        known = self.loose.setdefault(self.kernel.process.actor, {})
        before = known[path].before if path in known and not known[path].name_safe else None
        if before is None and path.exists():
            before = _content(path)
        known[path] = Loose(before, name_safe=False, content_safe=content_safe)

    def _force(self, path: Path) -> None:
        if path.is_dir() and self.kernel.current:
            known = self.loose.setdefault(self.kernel.process.actor, {})
            for name, state in list(known.items()):
                if name.parent == path:
                    known[name] = Loose(state.before, name_safe=True, content_safe=state.content_safe)
                    if state.content_safe:
                        del known[name]
        else:
            self._forced.add(path)

    def power_fails(self, actor: str) -> None:
        """Of what was not forced to the disk, some is there and some is not."""
        random = self.kernel.random
        for path, state in sorted(self.loose.pop(actor, {}).items()):
            if not state.name_safe and random.random() < 0.4:
                UNLINK(path, True)
                if state.before is not None and path.parent.exists():
                    path.write_bytes(state.before)
            elif not state.content_safe and path.exists() and random.random() < 0.5:
                whole = _content(path)
                path.write_bytes(random.choice([b"", whole[: len(whole) // 2], b"\0" * len(whole)]))

    def flip(self, files: Iterable[Path], actor: str) -> Path | None:
        """Change a bit of one of an actor's files; every other time of the last one that it has written."""
        random = self.kernel.random
        found = sorted(path for path in files if path.stat().st_size)
        newest = [path for path in self.written.get(actor, [])[-4:] if path in found]
        if not found:
            return None
        path = newest[-1] if newest and random.random() < 0.5 else random.choice(found)
        content = bytearray(_content(path))
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
        return path


class _File:
    """An open file that is written to."""

    def __init__(self, disks: Disks, path: Path, file: Any) -> None:
        self.disks, self.path, self.file = disks, path, file
        self.flush, self.fileno, self.seek = file.flush, file.fileno, file.seek
        self.read, self.truncate = file.read, file.truncate

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def writelines(self, chunks: Iterable[bytes | memoryview]) -> None:
        content = b"".join(chunks)
        self.disks.operation("write", self.path, lambda: self._put(0, content), lambda: self._put(0, _half(content)))

    def write(self, content: bytes) -> None:
        end = self.file.seek(0, io.SEEK_END)
        self.disks.operation(
            "append", self.path, lambda: self._put(end, content), lambda: self._put(end, _half(content))
        )

    def _put(self, at: int, content: bytes) -> None:
        self.file.seek(at)
        self.file.truncate()
        self.file.write(content)
        self.file.flush()


def _content(path: Path) -> bytes:
    """Read by nobody in the history."""
    with OPEN(path, "rb") as file:
        return file.read()


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]

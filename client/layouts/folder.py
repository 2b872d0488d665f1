"""What lies in a folder, by name: listed once, for recognising a layout and for finding its patients.

Links are followed, and no folder is entered twice. Left aside is what no data set means: hidden files (a Macintosh
leaves "._name" beside each "name") and the folders that systems make.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NOT_DATA = ("__macosx", "lost+found", "$recycle.bin", "system volume information")


@dataclass(frozen=True)
class Folder:
    path: Path
    files: tuple[Path, ...] = ()
    """Those directly in it, sorted; also links that lead nowhere, so that a lost file is told and not passed over."""
    folders: tuple[Folder, ...] = ()
    """Those directly in it, sorted."""
    closed: str = ""
    """Why it cannot be read; empty where it can."""

    @property
    def name(self) -> str:
        return self.path.name

    def tree(self) -> Iterator[Folder]:
        """The folder itself and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.tree()

    def all_files(self) -> Iterator[Path]:
        """The files in the folder and below it."""
        for folder in self.tree():
            yield from folder.files

    def named(self, *names: str) -> tuple[Folder, ...]:
        """The folders at the end of a path of names, upper or lower case alike: none, one, or several."""
        found: tuple[Folder, ...] = (self,)
        for name in names:
            found = tuple(inner for outer in found for inner in outer.folders if alike(inner.name) == alike(name))
        return found


def list_folder(path: Path) -> Folder:
    """List a folder and all below it. Opens no file; what cannot be listed is marked as closed."""
    return _list(path, set())


def alike(name: str) -> str:
    """A name for comparing: upper or lower case alike, in whichever way its accents were stored."""
    return unicodedata.normalize("NFC", name).casefold()


def _list(path: Path, entered: set[tuple[int, int]]) -> Folder:
    files, folders = [], []
    try:
        here = os.stat(path)
        entered.add((here.st_dev, here.st_ino))
        entries = list(os.scandir(path))
    except OSError as error:
        return Folder(path, closed=error.strerror or "unknown reason")
    # Real folders come before links, so that a folder is listed under its own name.
    for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
        if entry.name.startswith(".") or entry.name.lower() in NOT_DATA:
            continue
        inside = path / entry.name
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
            if is_folder:
                there = os.stat(inside)
                if (there.st_dev, there.st_ino) not in entered:
                    folders.append(_list(inside, entered))
                continue
        except OSError:  # a link that leads to itself
            is_file = False
        if is_file or entry.is_symlink():
            files.append(inside)
    return Folder(path, tuple(sorted(files)), tuple(sorted(folders, key=lambda folder: folder.path)))

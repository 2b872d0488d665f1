"""The listing of a folder by names, made once, from which a layout is recognised and its patients are found.

Links are followed, and no folder is entered twice. The listing leaves out hidden files (macOS leaves "._name" beside
each "name") and folders of operating systems.
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
    """A folder and all its subfolders, by names."""

    path: Path
    files: tuple[Path, ...] = ()
    """The files directly in the folder, sorted. Broken links are included, so that a lost file is reported and not
    skipped."""
    folders: tuple[Folder, ...] = ()
    """The folders directly in the folder, sorted."""
    troubles: tuple[tuple[Path, str], ...] = ()
    """Unreadable or unusable entries, or the folder itself, each with a sentence that names the reason."""

    @property
    def name(self) -> str:
        """Return the folder's own name, without its path."""
        return self.path.name

    def tree(self) -> Iterator[Folder]:
        """Yield the folder itself and all its subfolders."""
        yield self
        for folder in self.folders:
            yield from folder.tree()

    def all_files(self) -> Iterator[Path]:
        """Yield all files in the folder and its subfolders."""
        for folder in self.tree():
            yield from folder.files

    def named(self, *names: str) -> tuple[Folder, ...]:
        """Return the folders at the end of a path of names, ignoring case: none, one or several.

        Args:
            *names: the names from the folder inwards.
        """
        found: tuple[Folder, ...] = (self,)
        for name in names:
            found = tuple(inner for outer in found for inner in outer.folders if alike(inner.name) == alike(name))
        return found


def list_folder(path: Path) -> Folder:
    """List a folder and all its subfolders without opening any file."""
    return _list(path, set())


def alike(name: str) -> str:
    """Return a name in a form for comparing: case and the Unicode form of accents do not matter."""
    return unicodedata.normalize("NFC", name).casefold()


def is_text(path: Path) -> bool:
    """Return whether a path can be encoded as UTF-8; GDCM and ITK end the whole process at any other path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _list(path: Path, entered: set[tuple[int, int]]) -> Folder:
    files, folders, troubles = [], [], []
    try:
        here = os.stat(path)
        entered.add((here.st_dev, here.st_ino))
        entries = list(os.scandir(path))
    except OSError as error:
        right = f"The folder {path} cannot be read ({error.strerror}); give the user that runs relay the right to."
        return Folder(path, troubles=((path, right),))
    # Real folders come before links, so that a folder is listed under its own name.
    for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
        inside = path / entry.name
        if entry.name.startswith(".") or entry.name.lower() in NOT_DATA:
            continue
        if not is_text(inside):
            troubles.append((inside, f"The name of {inside} is no UTF-8; rename it."))
            continue
        try:
            if entry.is_dir():
                there = os.stat(inside)
                if (there.st_dev, there.st_ino) not in entered:
                    folders.append(_list(inside, entered))
                continue
            if not entry.is_file() and os.path.exists(inside):  # a pipe or a device: opening it may block for ever
                troubles.append((inside, f"{inside} is neither a file nor a folder; remove it."))
                continue
        except OSError:  # a link to itself
            pass
        files.append(inside)
    folders.sort(key=lambda folder: folder.path)
    return Folder(path, tuple(sorted(files)), tuple(folders), tuple(troubles))

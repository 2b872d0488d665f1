"""`relay site forget`: takes away what a site keeps of studies and could make again, or all that relay keeps there.

What is removed is named here, one by one. Links are removed and never followed, and no folder is entered that is
one of the site's data folders or holds one, by whatever name it is reached.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal

from client.in_use import alone
from client.site import SiteConfig, load_site
from common.errors import RelayError

CAN_BE_MADE_AGAIN = {
    "cache": "prepared patients",
    "locks": "prepared patients",
    "stages": "checkpoints and finished weights",
    "page": "pages that show patients",
    "page.html": "pages that show patients",
}
"""In the private folder, and what it is. Left is what says who this site is, what it approved, answered and sent."""

Identity = tuple[int, int]
"""Device and number of a folder: the same whatever it is called."""


@dataclass
class Removed:
    """What was taken away, and what was left though it was meant to go."""

    files: int = 0
    bytes: int = 0
    kept: list[str] = field(default_factory=list)


def forget(path: Path, *, everything: bool, yes: bool, ask: Callable[[], str] | None = None) -> int:
    """Empty a site's folder; returns the exit code.

    Args:
        everything: keys, logs, approvals and the site file too: the site is as if it had never been.
        yes: do that without asking.
        ask: asks the person in front of the screen for the site's name; None where there is nobody.

    Raises:
        RelayError: the site is at work, nobody confirmed, or something could not be removed.
    """
    site = load_site(path)
    if not site.folder.is_dir():
        print(f"Site {site.name} keeps nothing: there is no folder {site.folder}.")
        return 0
    with alone(site):
        if everything and not yes and (ask is None or ask().strip() != site.name):
            raise RelayError(
                "Nothing was removed."
                if ask
                else f"--everything also removes keys, logs and approvals of site {site.name}; if so meant, add --yes."
            )
        protected = _data_of(site)
        by_kind: dict[str, Removed] = {}
        for entry in sorted(site.folder.iterdir()):
            kind = CAN_BE_MADE_AGAIN.get(entry.name) or ("keys, logs, approvals and the rest" if everything else "")
            if kind:
                _remove(entry, protected, by_kind.setdefault(kind, Removed()))
        if everything:
            rest = by_kind.setdefault("keys, logs, approvals and the rest", Removed())
            for beside in (path.absolute().parent / f"{site.name}.request", path.absolute()):
                _remove(beside, protected, rest)
            with suppress(OSError):
                site.folder.rmdir()
    for kind, removed in by_kind.items():
        print(f"{kind}: {removed.files} files, {decimal(removed.bytes)}")
    total = sum(removed.bytes for removed in by_kind.values())
    print(f"Site {site.name} has forgotten {decimal(total)}. Its images were not touched.")
    if not everything:
        print("Kept: the site file, keys, approvals, what was answered, and the logs. --everything removes these too.")
    else:
        print("If it will not come back, ask the coordinator to shut it out: relay enroll revoke.")
    kept = [name for removed in by_kind.values() for name in removed.kept]
    if kept:
        raise RelayError(f"{len(kept)} things could not be removed, the first of them {kept[0]}.")
    return 0


def _data_of(site: SiteConfig) -> frozenset[Identity]:
    """The folders that must not be entered: those with the images and masks, and all that these lie in."""
    plain = site.member_sites() if site.pooled else (site,)
    found = set()
    for data in (folder for one in plain for folder in (one.images, one.masks) if folder is not None):
        real = data.resolve()
        for folder in (real, *real.parents):
            with suppress(OSError):
                found.add(_identity(folder.stat()))
    return frozenset(found)


def _identity(state: os.stat_result) -> Identity:
    return state.st_dev, state.st_ino


def _remove(path: Path, protected: frozenset[Identity], removed: Removed) -> None:
    """Remove a file, a link or a folder with all that is in it."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return
    try:
        if stat.S_ISDIR(state.st_mode):
            if _identity(state) in protected:
                removed.kept.append(f"{path} (it is where the images lie)")
                return
            for entry in sorted(path.iterdir()):
                _remove(entry, protected, removed)
            if not any(path.iterdir()):
                path.rmdir()
        else:
            os.unlink(path)
            removed.files += 1
            removed.bytes += state.st_size
    except OSError as error:
        removed.kept.append(f"{path} ({error.strerror})")

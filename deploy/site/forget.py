"""Remove a site's reproducible files of studies, or all files of relay at the site: `relay site forget`.

Files and folders to remove are listed here by name. Links are removed and never followed. A data folder of the site, or
a folder above a data folder, is not entered, by whatever name the folder is reached.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.governance.approval import ANSWERED, SIMULATED, Approval, approvals, study_of
from client.governance.site_lock import exclusive_lock
from client.preprocessing.inventory import tasks_of
from client.site_config import SiteConfig, load_site
from client.stages.own_tensors import FOLDER
from client.stages.store import StageStore
from common.errors import RelayError
from common.protocol.messages import EvaluateReply, FineTuneReply
from common.text import count, short_bytes
from deploy.site.approve import digits_of, is_of, sent

CAN_BE_MADE_AGAIN = {
    "cache": "prepared patients",
    "locks": "prepared patients",
    "stages": "checkpoints and finished weights",
    "scores": "scores of single patients",
    "page": "pages that show patients",
    "page.html": "pages that show patients",
}
"""Names in the private folder, and their contents. All other names are kept: keys, approvals, records of answers, logs,
and the models given to the site."""

OWN = "tensors that never left"
"""The content of the private folder's `own/`, which is removed with the study it belongs to, or with everything."""

REST = "keys, logs, approvals and the rest"

Identity = tuple[int, int]
"""Device and inode number of a folder, which are the same under each of its names."""


@dataclass
class Removed:
    """Count removed files and bytes, and list failed removals."""

    files: int = 0
    bytes: int = 0
    kept: list[str] = field(default_factory=list)


def forget(
    path: Path, *, study: str = "", everything: bool = False, yes: bool = False, ask: Callable[[], str] | None = None
) -> int:
    """Remove relay's files at a site.

    Args:
        path: the site's file.
        study: a study file or digits of a hash: remove only files kept for this study alone.
        everything: also remove keys, logs, approvals, the request and the site file.
        yes: remove everything without asking.
        ask: asks the person in front of the screen for the site's name; None where nobody sits there.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: the site is at work, nobody confirmed, or something could not be removed.
    """
    site = load_site(path)
    if not site.folder.is_dir():
        print(f"Site {site.name} keeps nothing: there is no folder {site.folder}.")
        return 0
    with exclusive_lock(site):
        if everything and not yes and (ask is None or ask().strip() != site.name):
            raise RelayError(
                "Nothing was removed."
                if ask
                else f"--everything also removes keys, logs and approvals of site {site.name}; if so meant, add --yes."
            )
        records = _records_of(site, study)
        what_left = sent(site, {digest for record in records for digest in record.variants} if study else None)
        going = _of_studies(site, records) if study else _of_all(site, everything)
        protected = _data_of(site)
        by_kind: dict[str, Removed] = {}
        for entry, kind in going:
            _remove(entry, protected, by_kind.setdefault(kind, Removed()))
        if everything:
            for beside in (path.absolute().parent / f"{site.name}.request", path.absolute()):
                _remove(beside, protected, by_kind.setdefault(REST, Removed()))
            with suppress(OSError):
                site.folder.rmdir()
    for kind, removed in by_kind.items():
        print(f"{kind}: {count(removed.files, 'file')}, {short_bytes(removed.bytes)}")
    total = sum(removed.bytes for removed in by_kind.values())
    print(f"Site {site.name} has forgotten {short_bytes(total)}{_named(records)}. Its images were not touched.")
    if everything:
        print("If it will not come back, ask the coordinator to shut it out: relay enroll revoke.")
    else:
        print(
            "Kept: the site file, keys, approvals, what was answered, the logs, and the models that it was given."
            " --everything removes these too."
        )
    if study:
        print("Kept too: what other studies that run here use as well, and the page, which is of all studies.")
    print(what_left)
    kept = [name for removed in by_kind.values() for name in removed.kept]
    if kept:
        raise RelayError(f"{len(kept)} things could not be removed, the first of them {kept[0]}.")
    return 0


def _records_of(site: SiteConfig, study: str) -> list[Approval]:
    digits = digits_of(study) if study else ""
    records = [record for record in _known(site) if study and is_of(record, digits)]
    if study and not records:
        raise RelayError(f"Site {site.name} never approved a study {study}; relay site approve SITE.toml --list.")
    return records


def _known(site: SiteConfig) -> list[Approval]:
    return [*approvals(site, simulation=False), *approvals(site, simulation=True)]


def _of_all(site: SiteConfig, everything: bool) -> Iterator[tuple[Path, str]]:
    for entry in sorted(site.folder.iterdir()):
        if kind := CAN_BE_MADE_AGAIN.get(entry.name) or (REST if everything else ""):
            yield entry, kind


def _of_studies(site: SiteConfig, records: list[Approval]) -> list[tuple[Path, str]]:
    """Return the files and folders kept for some studies, and for no other study of the site."""
    others = [record for record in _known(site) if not record.left and record not in records]
    stages = _stages_of(site, records) - _stages_of(site, others)
    patients = _patients_of(site, records) - _patients_of(site, others)
    still = {digest for record in others for digest in record.variants}
    own = {site.private() / FOLDER / digest for record in records for digest in record.variants if digest not in still}
    return [
        *((path, CAN_BE_MADE_AGAIN["cache"]) for path in sorted(patients)),
        *((path, CAN_BE_MADE_AGAIN["stages"]) for path in sorted(stages)),
        *((path, OWN) for path in sorted(own)),
    ]


def _stages_of(site: SiteConfig, records: list[Approval]) -> set[Path]:
    """Return the folders of the stages ordered or answered in some studies."""
    digests = {digest for record in records for digest in record.variants}
    stages = site.private() / "stages"
    answered = [site.private() / ANSWERED, site.private() / SIMULATED / ANSWERED]
    store = StageStore(stages)
    found = {
        stages / path.read_text(encoding="ascii", errors="replace")
        for digest in digests
        for folder in answered
        for path in folder.glob(f"{digest}/{'[0-9a-f]' * 64}")
    }
    for folder in stages.glob("*"):
        reply = store.reply(folder.name, FineTuneReply) or store.reply(folder.name, EvaluateReply)
        if reply is not None and reply.study in digests:
            found.add(folder)
    return {folder for folder in found if folder.parent == stages and folder.is_dir()}


def _patients_of(site: SiteConfig, records: list[Approval]) -> set[Path]:
    """Return the prepared files of the site's present patients, prepared with the settings of some studies."""
    found: set[Path] = set()
    for study in filter(None, (study_of(site, record) for record in records)):
        for task in tasks_of(site, study.preprocessing, "")[0]:
            found |= {path for path in (task.corrected, task.slices) if path.exists()}
    return found


def _data_of(site: SiteConfig) -> frozenset[Identity]:
    """Return the identities of the protected folders: the data folders and all folders above them."""
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
    """Remove a file, a link, or a folder with its content, except protected folders."""
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


def _named(records: list[Approval]) -> str:
    names = dict.fromkeys(f'"{record.name}"' for record in records)
    return f" of {', '.join(names)}" if names else ""

"""`relay site check`: what lies at a site and what is wrong with it, for the eyes of who keeps the data."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from client.data_check import Examination, examine
from client.data_check.counts import write_counts
from client.data_check.others import shared
from client.data_check.page import write_page
from client.data_check.words import kind_table, lines, patient_table, remarks, summary, to_json
from client.site_config import SiteConfig, load_site
from common.config.study import POOLED
from common.errors import FaultsFound, RelayError
from deploy.console import bar, terminal

LONGEST = 32
"""Characters of a site's name (`common.config.study.SiteName`)."""


def site_check(path: Path, *, masks: Path | None = None, as_json: bool, counts: Path | None = None) -> int:
    """Check a site, or each member of a pooled one; returns the exit code.

    The code says whether there is anything to train on, not whether all of it is right: a finding is a reason to look
    and may be wrong, and training goes on with it. A script that wants to stop at one reads "suspicious" of --json.

    Args:
        path: the site's file; or a folder of images that no file describes yet.
        masks: the folder of its labels, where the layout keeps them apart.
        counts: a file that gets what may be shared (`client.data_check.counts`).

    Raises:
        RelayError: a folder is missing, no patient of the site can be used, or something cannot be written.
    """
    site = _undescribed(path, masks) if path.is_dir() else load_site(path)
    if masks is not None and not path.is_dir():
        raise RelayError(f'--masks goes with a folder of images; {path} is a site\'s file, which has the key "masks".')
    if counts is not None and not counts.absolute().parent.is_dir():
        raise RelayError(f"There is no folder {counts.parent} to write {counts.name} to; make it, or name another one.")
    members = site.member_sites() if site.pooled else (site,)
    found = [(member, _examined(member)) for member in members]
    pages = [write_page(member, examination) for member, examination in found]
    between = shared({member.name: examination.checkup.patients for member, examination in found})
    if as_json:
        checkups = [to_json(examination.checkup) for _, examination in found]
        content = {"members": checkups, "shared": between} if site.pooled else checkups[0]
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        for (_, examination), page in zip(found, pages, strict=True):
            _print(examination)
            print(f"Contours of all patients, for this site alone: {page}")
        print(*between, sep="\n", end="\n" if between else "")
    if counts is not None:
        write_counts(counts, [(member, examination.checkup) for member, examination in found])
        if not as_json:
            print(f"Counts without names, which may be shared: {counts}")
    for member, examination in found:
        if not any(patient.slices for patient in examination.checkup.patients):
            where = "" if as_json else "; what is wrong with each stands above"
            raise FaultsFound(f"Site {member.name} has no patient that can be used{where}.")
    return 0


def _undescribed(images: Path, masks: Path | None) -> SiteConfig:
    """Return the site that a folder of images would be; its page goes into a folder of the working directory."""
    images = images.absolute()
    letters = re.sub(r"[^A-Za-z0-9_-]+", "-", images.name).strip("-_")
    name = letters if letters[:1].isalpha() and letters != POOLED else f"site-{letters}".rstrip("-")
    name = name[:LONGEST]
    return SiteConfig(
        name=name,
        images=images,
        masks=None if masks is None else masks.absolute(),
        folder=Path(f".relay-{name}").absolute(),
    )


def _examined(site: SiteConfig) -> Examination:
    with bar(f"Reading site {site.name}", unit="patients", stream=sys.stderr) as progress:
        return examine(site, progress=progress)


def _print(examination: Examination) -> None:
    """Return the patients and the kinds of fault as tables; below them a line for each thing to look at."""
    checkup, screen = examination.checkup, terminal()
    if screen is None:
        print(summary(checkup), *lines(checkup), sep="\n")
    else:
        screen.print(summary(checkup), highlight=False, markup=False)
        screen.print(patient_table(checkup))
        screen.print(kind_table(checkup))
    for who, kind, sentence in remarks(checkup):
        line = f"{who}, {kind}: {sentence}"
        if screen is None:
            print(line)
        else:
            screen.print(line, style="red" if kind == "unusable" else "yellow", highlight=False, markup=False)

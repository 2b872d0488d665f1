"""Show a site's data and their faults to the keeper of the data: `relay site check`."""

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
from common.config.study import PreprocessingConfig
from common.config.values import POOLED
from common.errors import FaultsFound, RelayError
from deploy.console import bar, terminal

LONGEST = 32
"""Characters of the longest site name (`common.config.values.SiteName`)."""


def site_check(
    path: Path,
    *,
    masks: Path | None = None,
    grid: PreprocessingConfig | None = None,
    as_json: bool,
    counts: Path | None = None,
) -> int:
    """Check the data of a site, or of each member of a pooled site.

    The exit code says whether the site has a patient to train on, and not whether all data are right: a finding is a
    reason to look at a patient, may be wrong, and keeps no patient from training. A script can stop at a finding by
    reading "suspicious" in the output of --json.

    Args:
        path: the site's file, or a folder of images without a site file.
        masks: the folder of the labels, where `path` is a folder and the layout keeps labels apart.
        grid: a study's grid, which the glands are held against; None: any grid.
        as_json: print JSON.
        counts: a file for the shareable counts (`client.data_check.counts`).

    Returns:
        The exit code, 0.

    Raises:
        RelayError: a folder is missing, no patient of the site can be used, or a file cannot be written.
    """
    site = _undescribed(path, masks) if path.is_dir() else load_site(path)
    if masks is not None and not path.is_dir():
        raise RelayError(f'--masks goes with a folder of images; {path} is a site\'s file, which has the key "masks".')
    if counts is not None and not counts.absolute().parent.is_dir():
        raise RelayError(f"There is no folder {counts.parent} to write {counts.name} to; make it, or name another one.")
    members = site.member_sites() if site.pooled else (site,)
    found = [(member, _examined(member, grid)) for member in members]
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
    """Return settings for a folder of images; the page about them goes into a new folder of the working directory."""
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


def _examined(site: SiteConfig, grid: PreprocessingConfig | None) -> Examination:
    with bar(f"Reading site {site.name}", unit="patients", stream=sys.stderr) as progress:
        minimum = (grid or PreprocessingConfig()).minimum_mask_pixels
        return examine(site, minimum_pixels=minimum, grid=grid, progress=progress)


def _print(examination: Examination) -> None:
    """Print the patients and the kinds of fault as tables, and below them a line for each thing to look at."""
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

"""Write synthetic hospitals in the real data sets' own layouts.

The three sites have three scanners: A like TCIA Prostate-3T, B like PROSTATE-DIAGNOSIS, C like I2CVB. They serve to try
the software without patients. They do not show which method is better on real patients.

The glands are drawn, or come from a folder of real masks; in the latter case only the images are made up.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from common.errors import DiskFull, RelayError
from common.text import count, short_bytes

if TYPE_CHECKING:
    from deploy.phantom.masks import RealGland

__all__ = ["REAL_SHAPES", "write_hospitals"]

VERSION = 1
"""A version number, raised whenever the same arguments give other files."""

MARKER, UNFINISHED = "phantom.json", ".phantom-unfinished"
_TWELVE_EACH: Mapping[str, int] = MappingProxyType({"A": 12, "B": 12, "C": 12})
_BYTES_PER_PATIENT = 26e6

REAL_SHAPES = (
    "The images are made up, but the glands have the shapes of real patients' masks: handle these files as you must"
    " handle the masks, and keep to their licence (the NCI-ISBI 2013 masks: CC BY 3.0, so name their source)."
)
"""The conditions for keeping or passing on hospitals with real glands."""


def write_hospitals(
    folder: Path,
    *,
    patients: Mapping[str, int] = _TWELVE_EACH,
    anatomy: Mapping[str, Path] = MappingProxyType({}),
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Write synthetic hospitals and their site files, or do nothing where the same hospitals exist already.

    Args:
        folder: gets A/, B/, C/ and site-a.toml, site-b.toml, site-c.toml.
        patients: the number of patients at each site; a site missing here is not written.
        anatomy: site to a folder of label volumes, whose glands the site's patients get, in the order of the files'
            names and on the masks' own grids. A site missing here has drawn glands.
        seed: the same seed, patients and masks give the same pixels. A patient depends on seed, site, number and mask
            alone.
        progress: called with the number of patients done and the number of all patients.

    Returns:
        Site name to the path of its site.toml.

    Raises:
        RelayError: the folder holds something else, an argument is invalid, a mask cannot be used, there are fewer
            masks than patients, or the disk is full.
    """
    from deploy.phantom.hospitals import HOSPITALS, write_patient
    from deploy.phantom.masks import digest, read_glands

    unknown = sorted({*patients, *anatomy} - set(HOSPITALS))
    if unknown:
        known = ", ".join(HOSPITALS)
        raise RelayError(f"There is no synthetic hospital {unknown[0]!r}: choose among {known}.")
    if seed < 0 or not patients or min(patients.values()) < 1:
        raise RelayError("Synthetic hospitals need a seed of 0 or more and at least one patient each.")
    for site in sorted(set(anatomy) - set(patients)):
        raise RelayError(f"Hospital {site} has masks and no patients; ask for patients there, or leave its masks out.")
    folder = Path(folder)
    sites = {site: folder / f"site-{site.lower()}.toml" for site in HOSPITALS if site in patients}
    wanted: dict[str, object] = {"version": VERSION, "seed": seed, "patients": {site: patients[site] for site in sites}}
    glands = read_glands({site: anatomy[site] for site in sites if site in anatomy}, patients)
    if glands:
        wanted["anatomy"] = {site: digest(masks) for site, masks in glands.items()}
    try:
        if _already_there(folder, sites, wanted):
            return sites
        jobs = [
            (site, index, glands[site][index] if site in glands else None)
            for site in sites
            for index in range(patients[site])
        ]
        _start(folder, [gland for _, _, gland in jobs])
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            running = [
                pool.submit(write_patient, folder / site, site, index, seed, gland) for site, index, gland in jobs
            ]
            try:
                for done, future in enumerate(as_completed(running), start=1):
                    future.result()
                    if progress:
                        progress(done, len(jobs))
            finally:
                for future in running:
                    future.cancel()
        for site, path in sites.items():
            about = f"Synthetic patients. {REAL_SHAPES}" if site in glands else "Synthetic patients."
            path.write_text(_site_file(site, about, HOSPITALS[site].site_file), encoding="utf-8")
        (folder / MARKER).write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        (folder / UNFINISHED).unlink()
    except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeError
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise RelayError(
            f"The synthetic hospitals could not be written to {folder}: {reason}. "
            "See that the folder can be written to and the disk is not full, and run it again."
        ) from error
    return sites


def _site_file(site: str, about: str, own: str) -> str:
    return f'# {about}\nname = "{site}"\n{own}folder = "site-{site.lower()}-private"\npatient_scores = true\n'


def _already_there(folder: Path, sites: Mapping[str, Path], wanted: dict[str, object]) -> bool:
    """Return whether the folder holds exactly the wanted hospitals.

    Raises:
        RelayError: the folder is a file, or holds anything else.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise RelayError(f"{folder} is a file; name a folder for the synthetic hospitals.")
    marker = folder / MARKER
    if marker.is_file():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        whole = all(path.is_file() and (folder / site).is_dir() for site, path in sites.items())
        if found == wanted and whole:
            return True
        raise RelayError(
            f"{folder} holds other synthetic hospitals, or some of their files are gone; "
            "name another folder or remove this one."
        )
    if any(folder.iterdir()) and not (folder / UNFINISHED).is_file():
        raise RelayError(f"{folder} holds other files; name an empty or a new folder for the synthetic hospitals.")
    return False


def _start(folder: Path, patients: Sequence[RealGland | None]) -> None:
    """Claim the folder, and remove the hospitals left by an interrupted run.

    Raises:
        DiskFull: the patients need more space than the disk has left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / UNFINISHED).is_file():
        for site in ("A", "B", "C"):
            if (folder / site).is_dir():
                shutil.rmtree(folder / site)
    free = shutil.disk_usage(folder).free
    # an image and, at site C, a mask, each of two bytes a voxel; site B's second series is much smaller
    needed = sum(
        max(_BYTES_PER_PATIENT, 4.2 * math.prod(gland.shape)) if gland else _BYTES_PER_PATIENT for gland in patients
    )
    if free < needed:
        raise DiskFull(
            f"{count(len(patients), 'synthetic patient')} take up to {short_bytes(needed)} and {folder} has"
            f" {short_bytes(free)} left; make room, or ask for fewer patients."
        )
    (folder / UNFINISHED).write_text("", encoding="utf-8")

"""Synthetic hospitals, written in the real data sets' own layouts.

Three sites with three scanners: A like TCIA Prostate-3T, B like PROSTATE-DIAGNOSIS, C like I2CVB. They
serve to try the software without patients. They say nothing about which method is better on real ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import MappingProxyType

from common.errors import RelayError

__all__ = ["write_hospitals"]

VERSION = 1
"""Raised whenever the same arguments would give other files."""

MARKER, UNFINISHED = "phantom.json", ".phantom-unfinished"
_TWELVE_EACH: Mapping[str, int] = MappingProxyType({"A": 12, "B": 12, "C": 12})
_MB_PER_PATIENT = 26


def write_hospitals(
    folder: Path,
    *,
    patients: Mapping[str, int] = _TWELVE_EACH,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Path]:
    """Write synthetic hospitals and their site files; where they already are, do nothing.

    Args:
        folder: gets A/, B/, C/ and site-a.toml, site-b.toml, site-c.toml.
        patients: how many at each site; a site left out is not written.
        seed: same seed and patients, same pixels. A patient depends on seed, site and number alone.
        progress: called with (patients done, patients in all).

    Returns:
        Site name to the path of its site.toml.

    Raises:
        RelayError: folder holds something else, an argument makes no sense, or the disk is full.
    """
    from deploy.phantom.hospitals import HOSPITALS, write_patient

    unknown = sorted(set(patients) - set(HOSPITALS))
    if unknown:
        known = ", ".join(HOSPITALS)
        raise RelayError(f"There is no synthetic hospital {unknown[0]!r}: choose among {known}.")
    if seed < 0 or not patients or min(patients.values()) < 1:
        raise RelayError("Synthetic hospitals need a seed of 0 or more and at least one patient each.")
    folder = Path(folder)
    sites = {site: folder / f"site-{site.lower()}.toml" for site in HOSPITALS if site in patients}
    wanted = {"version": VERSION, "seed": seed, "patients": {site: patients[site] for site in sites}}
    try:
        if _already_there(folder, sites, wanted):
            return sites
        _start(folder, sum(patients.values()))
        jobs = [(site, index) for site in sites for index in range(patients[site])]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            running = [pool.submit(write_patient, folder / site, site, index, seed) for site, index in jobs]
            try:
                for done, future in enumerate(as_completed(running), start=1):
                    future.result()
                    if progress:
                        progress(done, len(jobs))
            finally:
                for future in running:
                    future.cancel()
        for site, path in sites.items():
            path.write_text(_site_file(site, HOSPITALS[site].site_file), encoding="utf-8")
        (folder / MARKER).write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        (folder / UNFINISHED).unlink()
    except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeError
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise RelayError(
            f"The synthetic hospitals could not be written to {folder}: {reason}. "
            "See that the folder can be written to and the disk is not full, and run it again."
        ) from error
    return sites


def _site_file(site: str, own: str) -> str:
    return (
        f'# Synthetic patients.\nname = "{site}"\n{own}folder = "site-{site.lower()}-private"\npatient_scores = true\n'
    )


def _already_there(folder: Path, sites: Mapping[str, Path], wanted: dict[str, object]) -> bool:
    """Whether folder holds exactly these hospitals; refuses a folder that holds anything else."""
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


def _start(folder: Path, patients: int) -> None:
    """Claim the folder, and clear away what an interrupted run of ours left there."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / UNFINISHED).is_file():
        for site in ("A", "B", "C"):
            if (folder / site).is_dir():
                shutil.rmtree(folder / site)
    free = shutil.disk_usage(folder).free / 1e6
    needed = patients * _MB_PER_PATIENT
    if free < needed:
        raise RelayError(
            f"{patients} synthetic patients take up to {needed} MB and {folder} has {free:.0f} MB left; "
            "make room, or ask for fewer patients."
        )
    (folder / UNFINISHED).write_text("", encoding="utf-8")

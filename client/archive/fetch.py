"""Series and labels from the archive into the site's folder of images: `relay site fetch`.

Studies are searched by date and patient (QIDO-RS), their series by modality and description. With the series come all
segmentations and RTSTRUCT files of the same study. Files are named after UIDs; a file is written whole or not at all,
so that a second call fetches only what is missing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.archive.connection import connect, speaking
from client.site_config import ArchiveConfig, SiteConfig
from common.errors import RelayError, Unreachable
from common.files import write_atomically

if TYPE_CHECKING:
    from dicomweb_client.api import DICOMwebClient

LABELS = ("SEG", "RTSTRUCT")
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
MODALITY, DESCRIPTION, PATIENT, DATE = "00080060", "0008103E", "00100020", "00080020"
ORIGINAL = (("application/dicom", "*"),)
"""Files as the archive keeps them, in whatever compression."""
UID = re.compile(r"[0-9][0-9.]{0,63}")

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Instance:
    """One file in the archive."""

    study: str
    series: str
    uid: str

    def path(self, folder: Path) -> Path:
        """Return the file's place in a folder."""
        return folder / self.study / self.series / f"{self.uid}.dcm"


@dataclass(frozen=True)
class Fetched:
    """What was fetched, in counts."""

    studies: int
    series: int
    labels: int
    """Series of segmentations or RTSTRUCT files."""
    files: int
    """Files written now."""
    there: int
    """Files that lay there already."""
    failed: int
    """Files that the archive did not give, or gave damaged."""
    unlabelled: int
    """Studies with images and without a label, which were left."""


def fetch(site: SiteConfig, url: str, *, progress: Callable[[int, int], None] | None = None) -> Fetched:
    """Fetch what the site's query matches and what is not there yet.

    Args:
        site: a plain site with a query, `[archive]` in its file.
        url: the address of the DICOMweb server.
        progress: is called with the number of files done, and of all.

    Raises:
        RelayError: the site has no query, the archive refuses or is none, or nothing matches.
        Unreachable: the archive does not answer.
        OSError: a file cannot be written.
    """
    if site.archive is None:
        raise RelayError(
            f'Site {site.name} has no query for the archive; write [archive] into its file, or keep "images".'
        )
    client = connect(url)
    wanted: list[Instance] = []
    studies = series = labels = unlabelled = 0
    with speaking(url):
        for study in _studies(client, site.archive):
            images, drawn = _series(client, study, site.archive)
            if not images:
                continue
            if not drawn and not site.archive.unlabelled:
                unlabelled += 1
                continue
            studies, series, labels = studies + 1, series + len(images), labels + len(drawn)
            for uid in (*images, *drawn):
                found = _all(partial(client.search_for_instances, study, uid), INSTANCE)
                wanted += [Instance(study, uid, one) for one in found]
    if not wanted:
        raise RelayError(_nothing(site, unlabelled))
    missing = [one for one in wanted if not one.path(site.images).is_file()]
    failed, there = 0, len(wanted) - len(missing)
    for done, one in enumerate(missing, start=1):
        failed += not _write(client, url, one, site.images)
        if progress:
            progress(there + done, len(wanted))
    return Fetched(studies, series, labels, len(missing) - failed, there, failed, unlabelled)


def _studies(client: DICOMwebClient, query: ArchiveConfig) -> Iterator[str]:
    """Yield the studies of the query's dates and patients, each once; a server may overlook a filter."""
    seen = set()
    for patient in query.patients or ("",):
        filters = {"ModalitiesInStudy": query.modality, "StudyDate": query.study_dates, "PatientID": patient}
        given = {name: value for name, value in filters.items() if value}
        for uid, entry in _all(partial(client.search_for_studies, search_filters=given), STUDY).items():
            if patient and _text(entry, PATIENT) not in (patient, ""):
                continue
            if query.study_dates and not _within(_text(entry, DATE), query.study_dates):
                continue
            if uid not in seen:
                seen.add(uid)
                yield uid


def _series(client: DICOMwebClient, study: str, query: ArchiveConfig) -> tuple[list[str], list[str]]:
    """Return a study's series of images that match the query, and its series of labels."""
    images, labels = [], []
    found = _all(partial(client.search_for_series, study, fields=["SeriesDescription"]), SERIES)
    for uid, entry in found.items():
        modality = _text(entry, MODALITY)
        if modality in LABELS:
            labels.append(uid)
        elif modality == query.modality and re.search(query.description, _text(entry, DESCRIPTION), re.IGNORECASE):
            images.append(uid)
    return images, labels


def _all(search: Callable[..., Sequence[Entry]], tag: str) -> dict[str, Entry]:
    """Return all answers to a search by the UID in a tag, page by page: a server may limit a page.

    Some servers answer with the first page again in place of the next, which ends the search too.
    """
    found: dict[str, Entry] = {}
    while True:
        page = {_uid(entry, tag): entry for entry in (search(offset=len(found)) if found else search())}
        if page.keys() <= found.keys():
            return found
        found |= page


def _write(client: DICOMwebClient, url: str, one: Instance, folder: Path) -> bool:
    """Write one file of the archive, whole or not at all; returns whether that was done."""
    content = io.BytesIO()
    try:
        with speaking(url):
            dataset = client.retrieve_instance(one.study, one.series, one.uid, media_types=ORIGINAL)
            if str(dataset.SOPInstanceUID) != one.uid:
                return False
            dataset.save_as(content, enforce_file_format=True)
    except (Unreachable, MemoryError):
        raise
    except Exception:  # pydicom's errors are of any kind
        return False
    path = one.path(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in (path.parent.parent, path.parent):  # `parents` alone would leave them open to others
        made.mkdir(mode=0o700, exist_ok=True)
    write_atomically(path, content.getvalue(), mode=0o600)
    return True


def _nothing(site: SiteConfig, unlabelled: int) -> str:
    if unlabelled:
        return (
            f"{unlabelled} studies of the archive match the query of site {site.name}, and none has a segmentation or"
            " an RTSTRUCT; write unlabelled = true into [archive] to fetch them without."
        )
    return f"Nothing in the archive matches the query of site {site.name}; change [archive] in its file."


def _within(date: str, dates: str) -> bool:
    first, dash, last = dates.partition("-")
    if not date:
        return True
    return (not first or first <= date) and (not last or date <= last) if dash else date == first


def _text(entry: Entry, tag: str) -> str:
    values = entry.get(tag, {}).get("Value") or [""]
    return str(values[0] if values[0] is not None else "").strip(" \0")


def _uid(entry: Entry, tag: str) -> str:
    """Return a UID, which becomes the name of a folder or file.

    Raises:
        ValueError: it is none.
    """
    uid = _text(entry, tag)
    if not UID.fullmatch(uid):
        raise ValueError("no UID")
    return uid

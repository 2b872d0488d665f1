"""The studies that a site has approved. The site carries out orders of approved studies alone.

In the private folder, approved/ holds two files for each study that was ever approved: the study itself, and the record
of the approval. The record says by whom, when and within which limits the study was approved, and whether the site has
left the study since. Each approval and each departure is also a line of an append-only log.

A study simulated on this machine (`relay simulate`) is approved for no coordinator. A simulation's approvals, and the
commitments made under them, lie in simulation/; no process that answers a coordinator reads this folder.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from client.governance import audit_log
from client.governance.disclosure import Disclosure
from client.governance.simulation_mode import in_simulation_mode
from client.site_config import SiteConfig
from common.config.study import Study, load_study, study_toml
from common.errors import RelayError
from common.files import write_atomically
from common.fingerprint import format_fingerprint
from common.protocol.messages import Digest
from common.protocol.refusals import Refusal, Refused

FOLDER = "approved"
LOG = "approvals.jsonl"
ANSWERED = "answered"
SIMULATED = "simulation"

log = logging.getLogger("relay.site")


class Approval(BaseModel):
    """The record of a study's approval by a person at the site. No part of the record ever leaves the site."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: Digest
    name: str
    variants: tuple[Digest, ...] = Field(min_length=1)
    """The digests of the plain studies of every repeat and network; the coordinator's orders name a plain study."""
    at: str
    """The time of the approval, UTC, ISO 8601."""
    by: str
    """The name of the approving user on the site's machine."""
    largest_elsewhere: int | None = None
    """The most training slices that another site may claim in a fold; None: no limit, as where all sites belong to the
    same person."""
    disclosure: Disclosure | None = None
    """The disclosure shown when the study was approved."""
    left: str = ""
    """The time at which the site left the study; empty while the site takes part."""
    left_by: str = ""
    simulation: bool = False
    """Whether the approval holds for simulations on this machine alone, and for no coordinator's order."""

    @property
    def scorings(self) -> int | None:
        """The most scorings, by the disclosure; None where none was shown."""
        return None if self.disclosure is None else self.disclosure.validations + self.disclosure.tests


def approve(
    site: SiteConfig, study: Study, *, largest_elsewhere: int | None = None, disclosure: Disclosure | None = None
) -> Approval:
    """Approve a study, and so each of its variants, for a site from now on.

    A second approval of a study lets each of its stages be answered once more, and lets its census and routes change.
    In simulation mode an approval holds for simulations alone, and changes no approval given or taken back outside of
    simulations.

    Args:
        site: the site.
        study: the study as the coordinator published it.
        largest_elsewhere: the most training slices that another site may claim in a fold; None for no limit.
        disclosure: the disclosure shown to the approving person.
    """
    folder = _place(site, simulation=in_simulation_mode()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    variants = study.variants
    record = Approval(
        study=study.digest,
        name=study.name,
        variants=tuple(variant.digest for variant in variants),
        at=_now(),
        by=_user(),
        largest_elsewhere=largest_elsewhere,
        disclosure=disclosure,
        simulation=in_simulation_mode(),
    )
    for digest in record.variants:
        shutil.rmtree(answered_folder(site, digest), ignore_errors=True)
    write_atomically(folder / f"{record.study}.toml", study_toml(study).encode(), durable=True)
    _keep(site, record, "simulated" if record.simulation else "approved")
    return record


def leave(site: SiteConfig, record: Approval) -> Approval:
    """Take an approval back: from now on the site refuses every order of the study, and no data of the study leaves."""
    record = record.model_copy(update={"left": _now(), "left_by": _user()})
    _keep(site, record, "left")
    return record


def approvals(site: SiteConfig, *, simulation: bool | None = None) -> list[Approval]:
    """Return all approvals in the order of their time, including approvals of studies that the site has left.

    Args:
        site: the site.
        simulation: True for simulations' approvals, False for all others; by default the approvals of this process.
    """
    found = []
    simulation = in_simulation_mode() if simulation is None else simulation
    for path in (_place(site, simulation=simulation) / FOLDER).glob("*.json"):
        try:
            found.append(Approval.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            log.error("The approval %s cannot be read, and counts for nothing.", path)
    return sorted(found, key=lambda record: (record.at, record.study))


def study_of(site: SiteConfig, record: Approval) -> Study | None:
    """Return the site's own copy of an approved study; None where the copy is gone or differs from the approval."""
    try:
        study = load_study(_place(site, simulation=record.simulation) / FOLDER / f"{record.study}.toml")
    except RelayError:
        return None
    return study if study.digest == record.study else None


def approved(site: SiteConfig, digest: str) -> Study:
    """Return the plain study of a digest, as the site approved it.

    Raises:
        Refused: the site has not approved such a study, or has left the study.
    """
    # The study is looked up among the approvals: no file name is made of a message's content.
    records = approvals(site)
    for record in taking_part(records, digest):
        study = study_of(site, record)
        for variant in study.variants if study else ():
            if variant.digest == digest:
                return variant
        log.error('The copy of "%s" is not what was approved here; approve it again.', record.name)
    if any(digest in record.variants and record.left for record in records):
        raise Refused(Refusal.LEFT)
    known = (
        "; ".join(f'{format_fingerprint(record.study)} "{record.name}"' for record in records if not record.left)
        or "none"
    )
    log.warning(
        "A study of the hash %s was asked for. Those that this site approved: %s.", format_fingerprint(digest), known
    )
    raise Refused(Refusal.UNKNOWN_STUDY)


def taking_part(records: list[Approval], digest: str) -> Iterator[Approval]:
    """Yield the approvals of a plain study, without studies that the site has left."""
    return (record for record in records if digest in record.variants and not record.left)


def answered_folder(site: SiteConfig, digest: str) -> Path:
    """Return the folder of the commitments of a plain study; see `client.governance.commitments`."""
    return _place(site, simulation=in_simulation_mode()) / ANSWERED / digest


def _place(site: SiteConfig, *, simulation: bool) -> Path:
    return site.private() / SIMULATED if simulation else site.private()


def _keep(site: SiteConfig, record: Approval, what: str) -> None:
    path = _place(site, simulation=record.simulation) / FOLDER / f"{record.study}.json"
    write_atomically(path, record.model_dump_json(indent=1).encode(), durable=True, mode=0o600)
    audit_log.append(
        site.private() / LOG,
        {
            "time": record.left or record.at,
            "action": what,
            "study": record.study,
            "name": record.name,
            "by": record.left_by or record.by,
            "largest_elsewhere": record.largest_elsewhere,
        },
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container a user may have a number and no name
        return f"user {os.getuid()}"

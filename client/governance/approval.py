"""The studies that a site has approved. It runs nothing else.

In the private folder, approved/ holds two files for each study that was ever approved: the study itself, and the
record of the approval, which says by whom, when and within which limits, and whether the site has left the study
since. Who did what stands besides in a log that is only ever added to.

A study that is simulated on this machine (`relay simulate`) is approved for no coordinator. The approvals of a
simulation, and what was answered under them, lie in simulation/, where no process looks that answers a coordinator.
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
    """That a person at the site let a study run there. Nothing of it ever leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: Digest
    name: str
    variants: tuple[Digest, ...] = Field(min_length=1)
    """Of every repeat and network: the studies that the coordinator asks for."""
    at: str
    """UTC, ISO 8601."""
    by: str
    """The user's name on the site's machine."""
    largest_elsewhere: int | None = None
    """No other site may claim more training slices in a fold; None: not limited, as where one person owns all."""
    disclosure: Disclosure | None = None
    """What was shown when it was approved."""
    left: str = ""
    """When the site left the study; empty while it takes part."""
    left_by: str = ""
    simulation: bool = False
    """It holds on this machine alone, and for no coordinator's order."""


def approve(
    site: SiteConfig, study: Study, *, largest_elsewhere: int | None = None, disclosure: Disclosure | None = None
) -> Approval:
    """Let a study, and so each of its variants, run at a site from now on.

    Approving a study again lets each of its stages be answered once more, and its census and routes be others. In a
    simulation it holds for simulations, and changes nothing of what was approved or left in earnest.
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
    """Take an approval back: from now on every order of the study is refused, and nothing of it leaves."""
    record = record.model_copy(update={"left": _now(), "left_by": _user()})
    _keep(site, record, "left")
    return record


def approvals(site: SiteConfig, *, simulation: bool | None = None) -> list[Approval]:
    """All approvals, those of studies that the site has left included, in the order in which they were given.

    Args:
        simulation: those of simulations, or those in earnest; by default those that hold in this process.
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
    """Return the site's own copy of a study that it approved; None where it is gone or not what was approved."""
    try:
        study = load_study(_place(site, simulation=record.simulation) / FOLDER / f"{record.study}.toml")
    except RelayError:
        return None
    return study if study.digest == record.study else None


def approved(site: SiteConfig, digest: str) -> Study:
    """Return the plain study of that digest, as the site approved it.

    Raises:
        Refused: the site has approved none such, or has left it.
    """
    # Looked for among what is there: no file name is made of what was sent.
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
    """Return the approvals of a plain study that the site has not left."""
    return (record for record in records if digest in record.variants and not record.left)


def answered_folder(site: SiteConfig, digest: str) -> Path:
    """Return the folder of what the coordinator is held to in a plain study; see `client.governance.commitments`."""
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

"""The studies that a site has approved. It runs nothing else.

In the private folder, approved/ holds two files for each study that was ever approved: the study itself, and the
record of the approval, which says by whom, when and within which limits, and whether the site has left the study
since. Who did what stands besides in a log that is only ever added to.

Who rehearses a study on this machine (`relay simulate`) has approved nothing for a coordinator. The approvals of a
rehearsal, and what was answered under them, lie in rehearsal/, where no process looks that answers a coordinator.
"""

from __future__ import annotations

import json
import logging
import os
import pwd
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from client.governance import audit_log
from client.governance.disclosure import Asked
from client.governance.simulation_mode import rehearsing
from client.preprocessing import cache
from client.site_config import SiteConfig
from common.config.study import POOLED, Study, load_study, study_toml
from common.errors import RelayError
from common.files import write_atomically
from common.fingerprint import format_fingerprint
from common.plan import Census, Choices
from common.plan.graph import Node
from common.protocol.messages import Digest
from common.protocol.refusals import Refusal, Refused

FOLDER = "approved"
LOG = "approvals.jsonl"
ANSWERED = "answered"
CHOICES = "choices.json"
CENSUS = "census.json"
REHEARSAL = "rehearsal"

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
    asked: Asked | None = None
    """What was shown when it was approved."""
    left: str = ""
    """When the site left the study; empty while it takes part."""
    left_by: str = ""
    rehearsal: bool = False
    """It holds on this machine alone, and for no coordinator's order."""


def approve(
    site: SiteConfig, study: Study, *, largest_elsewhere: int | None = None, asked: Asked | None = None
) -> Approval:
    """Let a study, and so each of its variants, run at a site from now on.

    Approving a study again lets each of its stages be answered once more, and its census and routes be others. In a
    rehearsal it holds for rehearsals, and changes nothing of what was approved or left in earnest.
    """
    folder = _place(site, rehearsal=rehearsing()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    variants = study.variants
    record = Approval(
        study=study.digest,
        name=study.name,
        variants=tuple(variant.digest for variant in variants),
        at=_now(),
        by=_user(),
        largest_elsewhere=largest_elsewhere,
        asked=asked,
        rehearsal=rehearsing(),
    )
    for digest in record.variants:
        shutil.rmtree(_answered(site, digest), ignore_errors=True)
    write_atomically(folder / f"{record.study}.toml", study_toml(study).encode(), durable=True)
    _keep(site, record, "rehearsed" if record.rehearsal else "approved")
    return record


def leave(site: SiteConfig, record: Approval) -> Approval:
    """Take an approval back: from now on every order of the study is refused, and nothing of it leaves."""
    record = record.model_copy(update={"left": _now(), "left_by": _user()})
    _keep(site, record, "left")
    return record


def approvals(site: SiteConfig, *, rehearsal: bool | None = None) -> list[Approval]:
    """All approvals, those of studies that the site has left included, in the order in which they were given.

    Args:
        rehearsal: those of rehearsals, or those in earnest; by default those that hold in this process.
    """
    found = []
    for path in (_place(site, rehearsal=rehearsing() if rehearsal is None else rehearsal) / FOLDER).glob("*.json"):
        try:
            found.append(Approval.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            log.error("The approval %s cannot be read, and counts for nothing.", path)
    return sorted(found, key=lambda record: (record.at, record.study))


def study_of(site: SiteConfig, record: Approval) -> Study | None:
    """The site's own copy of a study that it approved; None where it is gone or not what was approved."""
    try:
        study = load_study(_place(site, rehearsal=record.rehearsal) / FOLDER / f"{record.study}.toml")
    except RelayError:
        return None
    return study if study.digest == record.study else None


def approved(site: SiteConfig, digest: str) -> Study:
    """The plain study of that digest, as the site approved it.

    Raises:
        Refused: the site has approved none such, or has left it.
    """
    # Looked for among what is there: no file name is made of what was sent.
    records = approvals(site)
    for record in _taking_part(records, digest):
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


def hold_to_limits(site: SiteConfig, study: Study, census: Census) -> None:
    """Refuse a census that would have the site work longer than it was told when it approved.

    The longer baseline trains as long as the target's longest route, of which the census alone says how long it is:
    who made another site larger than any is could order a training without end.

    Raises:
        Refused: another site has more training slices than the approval allows for.
    """
    limits = [record.largest_elsewhere for record in _taking_part(approvals(site), study.digest)]
    most = max((count for name, counts in census.items() if name != site.name for count in counts), default=0)
    if not any(limit is None or most <= limit for limit in limits):
        log.warning("Another site claims %d training slices; the approval allows for %s.", most, limits)
        raise Refused(Refusal.BEYOND_APPROVAL)


def hold_to(site: SiteConfig, study: Study, choices: Choices) -> None:
    """Let the hops of growing routes only be added to: who could take one back could try all routes.

    Raises:
        Refused: a hop is another one than was told before.
    """
    path = _answered(site, study.digest) / CHOICES
    known = {target: tuple(chosen) for target, chosen in cache.read_json(path).items()}
    longest = dict(known)
    for target, chosen in choices.items():
        before = known.get(target, ())
        # An order that was under way for long may know less than a later one.
        if chosen[: len(before)] != before and before[: len(chosen)] != chosen:
            raise Refused(Refusal.ANSWERED)
        longest[target] = max(before, chosen, key=len)
    if longest != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(longest).encode(), durable=True)


def hold_to_census(site: SiteConfig, study: Study, census: Census) -> None:
    """Let a study be planned with one census: with each other one it asks for other trainings, one after the other.

    Raises:
        Refused: the study was planned with another one before.
    """
    path = _answered(site, study.digest) / CENSUS
    known = cache.read_json(path)
    told = {name: list(census[name]) for name in (*study.sites, POOLED) if name in census}
    if not known:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(told).encode(), durable=True)
    elif known != told:
        raise Refused(Refusal.ANSWERED)


def answer_once(site: SiteConfig, study: Study, node: Node, key: str) -> None:
    """Bind a stage of an approved study to the weights and data that it is first asked for with.

    Whoever could have one stage worked out from any number of weights could ask the data any number of
    questions. The same question again, after a lost answer, is no other question.

    Raises:
        Refused: the stage was asked for with others before.
    """
    folder = _answered(site, study.digest)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / node.id
    if not path.exists():
        # Durably: what a loss of power left of it would bind the stage to nothing, or to something else.
        write_atomically(path, key.encode(), durable=True)
    elif path.read_bytes() != key.encode():
        raise Refused(Refusal.ANSWERED)


def _taking_part(records: list[Approval], digest: str) -> Iterator[Approval]:
    return (record for record in records if digest in record.variants and not record.left)


def _place(site: SiteConfig, *, rehearsal: bool) -> Path:
    return site.private() / REHEARSAL if rehearsal else site.private()


def _answered(site: SiteConfig, digest: str) -> Path:
    return _place(site, rehearsal=rehearsing()) / ANSWERED / digest


def _keep(site: SiteConfig, record: Approval, what: str) -> None:
    path = _place(site, rehearsal=record.rehearsal) / FOLDER / f"{record.study}.json"
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

"""The auditor over all that left: which sets of patients stand behind the numbers that ever left a site.

`released.jsonl` in the private folder, a log like that of the egress filter (`audit_log`), has a line for each answer
about sets of patients of which no number had left before, over all studies, repeats, folds, descriptions and
approvals. The patients' names in it never leave. The same set again is no new question. A new set is released only if
what then has left tells of no fewer persons than the site's `minimum_patients` (`client.governance.isolation`):

- Where the site divides its patients by a public key, a coordinator may know who is in which set. Then the patients of
  whom all sets together make no difference must be so many: every cell.
- Where it divides by its secret, nobody else knows the sets, and the same rule would forbid nearly every repeat. Then
  no sum of multiples of figures may be about fewer, so that even who learned the sets could not solve for them.

`docs/explanation/threat-model.md` says what that does not cover.

A figure counts by its patients alone. Two figures of different models, or of different kinds, cannot be subtracted from
one another to any use, so that taking them for the same is only the stricter.

Simulations leave no trace here: nothing of them leaves the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from client.data.splits import Split
from client.governance import audit_log
from client.governance.isolation import isolates, smallest_cell
from client.governance.simulation_mode import in_simulation_mode
from client.site_config import SiteConfig
from common import locks
from common.errors import RelayError
from common.protocol.refusals import Refusal, Refused

LOG = "released.jsonl"
LOCK = "released-sets.lock"

log = logging.getLogger("relay.site")


@dataclass(frozen=True)
class PatientSets:
    """The sets of patients behind the numbers of an answer."""

    sets: tuple[frozenset[str], ...] = ()
    persons: Mapping[str, str] = field(default_factory=dict)
    """By patient, the person of whom the patient is one of several visits."""

    def __or__(self, other: PatientSets) -> PatientSets:
        """Return the sets of two answers."""
        return PatientSets(tuple(dict.fromkeys((*self.sets, *other.sets))), {**self.persons, **other.persons})


def admit(site: SiteConfig, behind: PatientSets, *, study: str) -> None:
    """Note that numbers about sets of patients leave, or refuse; what is noted is on the disk at the return.

    Args:
        site: this site.
        behind: the sets.
        study: the digest of the plain study.

    Raises:
        Refused: with all that left before, the numbers would tell of fewer persons than the site's file allows.
        RelayError: the record is damaged while the site's file wants 2 patients or more, or on a file system without
            locks.
    """
    if in_simulation_mode() or not behind.sets:
        return
    with locks.exclusive(site.private() / LOCK):
        known = released(site)
        new = _unknown(behind, known)
        if not new:
            return
        if too_few_together(site, known, behind):
            log.error(
                "Blocked at the door: with what left before, numbers about %d further sets of patients would tell of"
                " fewer than %d patients.",
                len(new),
                site.minimum_patients,
            )
            raise Refused(Refusal.COMBINED)
        audit_log.append(
            site.private() / LOG,
            {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "study": study,
                "sets": [sorted(one) for one in new],
                "persons": {name: behind.persons[name] for name in sorted(set().union(*new)) if name in behind.persons},
            },
        )


def admitted(site: SiteConfig, behind: PatientSets, *, study: str) -> bool:
    """Return whether numbers about sets of patients may leave, and if so note that they leave; see `admit`."""
    try:
        admit(site, behind, study=study)
    except Refused:
        return False
    return True


def too_few_together(site: SiteConfig, known: PatientSets, further: PatientSets) -> bool:
    """Return whether numbers about further sets, with those that left, would tell of fewer persons than allowed."""
    if site.minimum_patients <= 1 or not _unknown(further, known):
        return False
    return tells_of_too_few(site, known | further)


def tells_of_too_few(site: SiteConfig, together: PatientSets) -> bool:
    """Return whether numbers about some sets, all taken together, tell of fewer persons than the site allows."""
    if not together.sets:
        return False
    if site.split_key == "public":
        return smallest_cell(together.sets, persons=together.persons) < site.minimum_patients
    return isolates(together.sets, site.minimum_patients, persons=together.persons)


def released(site: SiteConfig) -> PatientSets:
    """Return the sets of patients about which numbers have left the site; of a damaged record, those still told there.

    Raises:
        RelayError: the record is damaged, and the site's file wants 2 patients or more behind what leaves.
        OSError: the record cannot be read.
    """
    path = site.private() / LOG
    reading = audit_log.read(path)
    if reading.fault:
        fault = (
            f"The record {path} of what left this site is damaged ({reading.fault}); restore it from a backup. Without"
            " it the site cannot tell what its numbers give away together."
        )
        if site.minimum_patients > 1:
            raise RelayError(fault)
        log.error("%s", fault)
    found = PatientSets()
    for line in reading.lines:
        found |= PatientSets(tuple(frozenset(one) for one in line.get("sets", ())), line.get("persons", {}))
    return found


def _unknown(behind: PatientSets, known: PatientSets) -> list[frozenset[str]]:
    """Return the sets of an answer about which no number has left; of nobody, there is no number."""
    before = set(known.sets)
    return [one for one in dict.fromkeys(behind.sets) if one and one not in before]


def sets_behind_description(split: Split, persons: Mapping[str, str]) -> PatientSets:
    """Return the sets of patients behind a site's description: all, and those of every part of the division.

    Args:
        split: the division.
        persons: by patient, the person of whom the patient is one of several visits.
    """
    folds = range(len(split.validation))
    everybody = frozenset(split.test).union(*split.validation)
    parts = (everybody, split.test, *split.validation, *(split.train(fold) for fold in folds))
    return PatientSets(tuple(dict.fromkeys(map(frozenset, parts))), persons)

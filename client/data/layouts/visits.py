"""Visits of one person: patients of a layout that a split must keep together, by the site's pattern or by PatientID."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from client.data.layouts import Source
from common.errors import RelayError
from common.text import count, listed

BY_NUMBER, BY_PREFIX = r"^(\d+)_", r"^(.+)[-_. ][^-_. ]+$"
_LAST_PART = re.compile(BY_PREFIX)
MOST_VISITS = 4
"""The mean number of names behind a prefix up to which the prefix is taken for a person, and not for a hospital."""
SHOWN = 3


def grouped(sources: Sequence[Source], pattern: str) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """Return the sources with their persons, and notes about persons with several visits.

    The person of a source is the name of the person's first source by name; empty where the person has one source, so
    that a site without visits is divided as ever.

    Args:
        sources: the patients as a layout found them, with the DICOM PatientID as `person` where the layout has one.
        pattern: the site's pattern with one group; empty to group by PatientID.

    Raises:
        RelayError: no patient's name matches the pattern.
    """
    notes: list[str] = []
    if pattern:
        matches = {source.patient: re.search(pattern, source.patient) for source in sources}
        missed = sorted(name for name, match in matches.items() if match is None)
        if sources and len(missed) == len(sources):
            raise RelayError(f'no patient\'s name matches "patient" ({pattern}), such as {missed[0]}; correct it.')
        if missed:
            notes.append(
                f'{count(len(missed), "name")} of {len(sources)} do not match "patient" ({_some(missed)});'
                " each is taken for a person."
            )
        persons = {name: match[1] if match else "" for name, match in matches.items()}
        what = f'"patient" ({pattern}) in the site file'
    else:
        persons = {source.patient: source.person for source in sources}
        what = "their PatientID"
        if len(sources) > 1 and len(set(persons.values())) == 1 and sources[0].person:
            notes.append(
                f"All {len(sources)} patients have the same PatientID: an anonymiser may have made it equal, and each"
                ' is taken for a person. If some are visits of one person, say which with "patient" in the site file.'
            )
            persons = {}
    together: dict[str, list[str]] = defaultdict(list)
    for name, person in persons.items():
        if person:
            together[person].append(name)
    first = {name: min(names) for names in together.values() if len(names) > 1 for name in names}
    if first:
        alike = [sorted(names) for names in together.values() if len(names) > 1]
        alone = len(sources) - len(first)
        notes.append(
            f"By {what}, the {len(sources)} patients are {alone + len(alike)} persons: a split keeps the visits of one"
            f" person together ({_some(listed(names) for names in sorted(alike))})."
        )
    elif not pattern and (note := _prefixes([source.patient for source in sources])):
        notes.append(note)
    return tuple(replace(source, person=first.get(source.patient, "")) for source in sources), tuple(notes)


def _prefixes(names: Sequence[str]) -> str:
    """Return a sentence on names that begin alike as the visits of a person do; empty where none do."""
    together: dict[str, list[str]] = defaultdict(list)
    for name in names:
        match = _LAST_PART.match(name.rpartition("/")[2])
        together[match[1] if match else name].append(name)
    several = {prefix: alike for prefix, alike in together.items() if len(alike) > 1 and re.search(r"\d", prefix)}
    if len(together) < 2 or not several or len(names) > MOST_VISITS * len(together):
        return ""
    pattern = BY_NUMBER if all(re.search(BY_NUMBER, name) for name in names) else BY_PREFIX
    escaped = pattern.replace("\\", "\\\\")
    return (
        f"{count(sum(map(len, several.values())), 'name')} begin alike"
        f" ({_some(listed(sorted(alike)) for _, alike in sorted(several.items()))}). If they are visits of one person,"
        f' write patient = "{escaped}" in the site file: otherwise one person may stand in training and in test.'
    )


def _some(items: Iterable[str]) -> str:
    all_of_them = list(items)
    more = f"; {len(all_of_them) - SHOWN} more" if len(all_of_them) > SHOWN else ""
    return "; ".join(all_of_them[:SHOWN]) + more

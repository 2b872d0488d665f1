"""The division of a site's patients into test patients and validation folds, by patient and never by slice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from common.digest import digest_of
from common.errors import BadData


@dataclass(frozen=True)
class Split:
    """A site's patients, divided into test patients and the validation patients of each fold.

    All visits of a person stand together. Every patient is either in `test` or in the validation set of exactly one
    fold. All names are sorted.
    """

    test: tuple[str, ...]
    validation: tuple[tuple[str, ...], ...]
    """The validation patients of each fold."""

    def train(self, fold: int) -> tuple[str, ...]:
        """Return a fold's training patients: all but the test patients and the fold's validation patients."""
        return tuple(sorted(name for k, names in enumerate(self.validation) if k != fold for name in names))


def split(
    patients: Iterable[str],
    *,
    seed: int,
    site: str,
    test_fraction: float,
    folds: int,
    persons: Mapping[str, str] | None = None,
) -> Split:
    """Divide a site's patients; the result depends on the arguments alone, not on the order of the patients.

    Persons are dealt out, each with all of the person's visits.

    Args:
        patients: the patients' names.
        seed: the study's seed for splits.
        site: the site's name, which enters the random order, so that every site has an order of its own.
        test_fraction: the share of test patients; their number is rounded half up and at least one.
        folds: the number of validation sets to which the other persons are dealt out; sizes differ by one at most.
        persons: by patient, the person of a patient who is one of several visits; others are persons of their own.

    Raises:
        BadData: there are too few patients for a validation patient and a training patient in every fold.
        ValueError: a patient's name occurs twice, or there are fewer than two folds.
    """
    names = sorted(patients)
    if len(set(names)) < len(names):
        raise ValueError("a patient stands twice")
    if folds < 2:
        raise ValueError("cross-validation needs two folds at least")
    visits: dict[str, list[str]] = {}
    for name in names:
        visits.setdefault((persons or {}).get(name) or name, []).append(name)
    people = sorted(visits)
    held_out = _test_size(len(people), test_fraction)
    if len(people) - held_out < folds:
        start = max(folds + 1, math.floor((folds - 0.5) / (1 - test_fraction)))
        need = next(n for n in itertools.count(start) if n - _test_size(n, test_fraction) >= folds)
        raise BadData(
            f"Site {site} has {_people(len(names), len(people))}, but a test set and {folds} folds need {need};"
            " add patients, or set fewer folds in the study's [split]."
        )
    content = "\n".join([str(seed), site, *(f"{len(name)}:{name}" for name in people)])
    state = int(digest_of(content.encode("utf-8", "surrogateescape")), 16)
    order = np.random.Generator(np.random.PCG64(state)).permutation(len(people))
    shuffled = [people[k] for k in order]
    rest = shuffled[held_out:]

    def all_visits(some: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(name for person in some for name in visits[person]))

    return Split(
        test=all_visits(shuffled[:held_out]),
        validation=tuple(all_visits(rest[k::folds]) for k in range(folds)),
    )


def unite(splits: Mapping[str, Split]) -> Split:
    """Return the split of pooled data: the unions of the members' test sets and of their folds.

    Args:
        splits: the members' splits by the name of the site. A patient of the result is named "site/patient".

    Raises:
        ValueError: members have different numbers of folds, or the pool has no member.
    """
    if len({len(member.validation) for member in splits.values()}) != 1:
        raise ValueError("members need the same number of folds")
    folds = len(next(iter(splits.values())).validation)

    def union(parts: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(sorted(f"{site}/{name}" for site, names in parts.items() for name in names))

    return Split(
        test=union({site: member.test for site, member in splits.items()}),
        validation=tuple(union({site: member.validation[k] for site, member in splits.items()}) for k in range(folds)),
    )


def _people(patients: int, persons: int) -> str:
    return f"{patients} usable patients" + (f" of {persons} persons" if persons < patients else "")


def _test_size(patients: int, fraction: float) -> int:
    return max(1, math.floor(patients * fraction + 0.5))

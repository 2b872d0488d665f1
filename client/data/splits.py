"""The division of a site's patients into test patients and validation folds, by patient and never by slice.

Each person has a place in an order of the site, by a keyed hash of the person's identifier and of nothing else. The
test set is a stretch of this order, of the size that the study's fraction gives. Another patient therefore moves nobody
but possibly the person at each border of a stretch, who comes into the stretch beside it.

A rule that moves nobody at all must look at each person alone, and then leaves the sizes to chance: of 19 patients and
a fraction of 20 %, anything from none to nine. Sizes are promised to the hospital (`minimum_patients`) and to the
folds, and are those of the paper, so they are kept, and the border is what gives way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.config.study import SplitConfig
from common.digest import keyed_digest
from common.errors import BadData

PUBLIC = b""
"""The key of a split that anybody who knows the patients' identifiers can repeat."""


@dataclass(frozen=True)
class Split:
    """A site's patients, divided into test patients and the validation patients of each fold.

    All visits of a person stand together. Every patient is either in `test` or in the validation set of exactly one
    fold. All names are sorted.
    """

    test: tuple[str, ...]
    validation: tuple[tuple[str, ...], ...]
    """The validation patients of each fold."""
    persons: tuple[tuple[str, ...], ...] = ()
    """The visits of each person, in the order in which a share of the training patients is taken; none for pooled
    data, of which nobody takes a share."""

    def train(self, fold: int, share: float | None = None) -> tuple[str, ...]:
        """Return a fold's training patients: all but the test patients and the fold's validation patients.

        Args:
            fold: the fold.
            share: the share of the persons, rounded half up, one at least; a larger share holds a smaller one. None:
                all.
        """
        names = {name for k, part in enumerate(self.validation) if k != fold for name in part}
        if share is not None:
            trained = [visits for visits in self.persons if names.issuperset(visits)]
            names = {name for visits in trained[: max(1, math.floor(len(trained) * share + 0.5))] for name in visits}
        return tuple(sorted(names))


def split(
    patients: Iterable[str],
    part: SplitConfig,
    *,
    site: str,
    persons: Mapping[str, str] | None = None,
    key: bytes = PUBLIC,
) -> Split:
    """Divide a site's patients; the result depends on the arguments alone, not on the order of the patients.

    Persons are divided, each with all of the person's visits. Sizes are counted in persons: the test set of a study
    that holds out has `part.test_fraction` of all, rounded half up, at least one; the test sets of rotations, and the
    validation sets of folds, differ by one at most.

    Args:
        patients: the patients' names.
        part: the study's settings for splits; of a study whose test rotates, with the rotation.
        site: the site's name, which enters the order, so that every site has an order of its own.
        persons: by patient, the person of a patient who is one of several visits; others are persons of their own.
        key: the secret with which persons are ordered; whoever lacks it cannot tell who is tested.

    Raises:
        BadData: there are too few patients for a validation patient and a training patient in every fold.
        ValueError: a patient's name occurs twice, or the test rotates and no rotation is given.
    """
    names = sorted(patients)
    if len(set(names)) < len(names):
        raise ValueError("a patient stands twice")
    if part.test == "rotate" and part.rotation is None:
        raise ValueError("a split is of a single rotation")
    visits: dict[str, list[str]] = {}
    for name in names:
        visits.setdefault((persons or {}).get(name) or name, []).append(name)
    if not _is_enough(len(visits), part):
        need = next(number for number in itertools.count(len(visits) + 1) if _is_enough(number, part))
        sets = "a test set" if part.test == "hold-out" else f"{part.rotations} test sets"
        raise BadData(
            f"Site {site} has {_people(len(names), len(visits))}, but {sets} and {part.folds} folds need {need};"
            " add patients, or set fewer folds in the study's [split]."
        )

    def ordered(people: Iterable[str], what: str) -> list[str]:
        def place(person: str) -> str:
            return keyed_digest(key, f"{what}\n{part.seed}\n{site}\n{person}".encode("utf-8", "surrogateescape"))

        return sorted(people, key=place)

    def all_visits(some: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(name for person in some for name in visits[person]))

    tested = ordered(visits, "test")[_test_sets(len(visits), part)[part.rotation or 0]]
    rest = ordered(visits.keys() - set(tested), "folds")
    return Split(
        test=all_visits(tested),
        validation=tuple(all_visits(rest[stretch]) for stretch in _stretches(len(rest), part.folds)),
        persons=tuple(tuple(visits[person]) for person in ordered(visits, "share")),
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


def _is_enough(persons: int, part: SplitConfig) -> bool:
    """Return whether every test set has a person, and every fold a person to validate and another to train."""
    sizes = [stretch.stop - stretch.start for stretch in _test_sets(persons, part)]
    return min(sizes) >= 1 and persons - max(sizes) >= max(2, part.folds)


def _test_sets(persons: int, part: SplitConfig) -> Sequence[slice]:
    """Return the stretches of the order that are tested: one, or one in each rotation."""
    if part.test == "rotate":
        return _stretches(persons, part.rotations)
    return [slice(0, max(1, math.floor(persons * part.test_fraction + 0.5)))]


def _stretches(persons: int, number: int) -> Sequence[slice]:
    """Return so many stretches of an order one after the other, whose sizes differ by one at most."""
    borders = [(2 * persons * k + number) // (2 * number) for k in range(number + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(borders)]

"""Whether sums over sets of patients, taken together, tell of fewer patients than a site allows.

A figure that leaves a site is a sum over a set of patients, or a mean, which is as good as a sum to whoever knows the
sizes. The sets divide the patients into cells: the patients of a cell are in the same sets. All figures together say no
more than the sums over the cells, so that whatever is made of them, no cell tells of fewer patients than it has. That
is `smallest_cell`, which a few divisions of the same patients into parts bring to one patient.

The milder question is what can be found by adding and subtracting: from sums over {1, …, 9} and over {1, …, 8} follows
the value of patient 9. What can be found in this way are exactly the vectors of the row space of the matrix that has a
row for each set and a column for each patient, 1 where the patient is in the set. The site is safe from such sums if
every vector of the row space but 0 has weights on enough patients: if the row space, taken as a linear code, has a
large enough minimum distance.

The search is exact. Suppose a vector has weights on fewer than k persons. Of any k groups into which the persons are
divided, it then has no weight on one group at least. So it lies in one of k smaller spaces, of the vectors that are 0
on a group, and each of these is searched in the same way, until a space is empty or has so few persons left that it
answers the question.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRIME = 2**31 - 1
"""Sums are taken modulo this prime, which is exact and fits 64 bits. A vector of whole numbers in the row space is lost
only where the prime divides a determinant of the matrix of sets, by a chance of about one in two thousand million."""
MOST_SPACES = 4000
"""The most spaces that a search looks at, some seconds' work; a question that needs more counts as answered by yes."""

_Rows = NDArray[np.int64]


def smallest_cell(sets: Sequence[Collection[str]], *, persons: Mapping[str, str] | None = None) -> int:
    """Return the number of persons in the smallest cell of some sets of patients; 0 where the sets are empty.

    Args:
        sets: the patients of each known sum.
        persons: by patient, the person of whom the patient is a visit; others are persons of their own.
    """
    names = sorted(set().union(*sets))
    cells: dict[tuple[bool, ...], set[str]] = {}
    for name in names:
        cells.setdefault(tuple(name in one for one in map(frozenset, sets)), set()).add((persons or {}).get(name, name))
    return min(map(len, cells.values()), default=0)


def isolates(
    sets: Sequence[Collection[str]], fewest: int, *, persons: Mapping[str, str] | None = None, most: int = MOST_SPACES
) -> bool:
    """Return whether some sum of multiples of sums over sets of patients is about 1 to `fewest` - 1 persons alone.

    Args:
        sets: the patients of each known sum.
        fewest: the smallest number of persons that a sum may be about.
        persons: by patient, the person of whom the patient is a visit; others are persons of their own.
        most: the most spaces to look at.

    Returns:
        True also where the search was given up, so that nothing leaves unproven.
    """
    names = sorted(set().union(*sets))
    if fewest <= 1 or not names:
        return False
    rows = np.array([[name in one for name in names] for one in map(frozenset, sets)], dtype=np.int64)
    owners = [(persons or {}).get(name) or name for name in names]
    number = {person: k for k, person in enumerate(dict.fromkeys(owners))}
    independent, _ = _eliminated(rows, range(len(names)))
    return _Search(fewest, most).finds(independent, np.array([number[person] for person in owners]))


class _Search:
    """The search for a vector with weights on few persons."""

    def __init__(self, fewest: int, most: int) -> None:
        self.fewest, self.left = fewest, most

    def finds(self, rows: _Rows, owners: NDArray[Any]) -> bool:
        """Return whether a space has a vector, not 0, with weights on fewer than `fewest` persons.

        Args:
            rows: independent vectors that span the space, (dimension, patients).
            owners: the number of the person of each patient, (patients,).
        """
        if not len(rows):
            return False
        self.left -= 1
        active = rows.any(axis=0)
        rows, owners = rows[:, active], owners[active]
        persons = self._like_after_like(rows, owners)
        # By elimination, some vector is 0 on all persons but so many.
        if len(persons) - len(rows) + 1 < self.fewest and len(persons) == len(owners):
            return True
        if len(persons) < self.fewest or self.left < 0:
            return True
        groups = [persons[k :: self.fewest] for k in range(self.fewest)]
        return any(self.finds(_eliminated(rows, np.flatnonzero(np.isin(owners, group)))[1], owners) for group in groups)

    @staticmethod
    def _like_after_like(rows: _Rows, owners: NDArray[Any]) -> list[int]:
        """Return the persons, so that those who are in the same sets follow one another.

        Dealt out to the groups one by one, they come into different groups, and so each group alone settles more.
        """
        order = np.lexsort(rows[::-1])
        return list(dict.fromkeys(owners[order].tolist()))


def _eliminated(rows: _Rows, columns: Collection[int] | NDArray[Any]) -> tuple[_Rows, _Rows]:
    """Eliminate columns: return the rows used for it, and the rows that remain, which are 0 in all of the columns."""
    rows = rows.copy()
    used: list[int] = []
    remaining = np.arange(len(rows))
    for column in columns:
        hit = np.flatnonzero(rows[remaining, column])
        if not len(hit):
            continue
        pivot = int(remaining[hit[0]])
        used.append(pivot)
        remaining = remaining[remaining != pivot]
        factors = rows[remaining, column] * pow(int(rows[pivot, column]), -1, PRIME) % PRIME
        rows[remaining] = (rows[remaining] - factors[:, None] * rows[pivot]) % PRIME
    return rows[used], rows[remaining]

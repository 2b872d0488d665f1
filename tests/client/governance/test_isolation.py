"""What sums over sets of patients tell together, against a search through all small groups by ranks of matrices."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.governance.isolation import isolates, smallest_cell

NAMES = "abcdefghij"
SETS = st.lists(st.frozensets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=7)


def found_by_ranks(sets: Sequence[frozenset[str]], fewest: int, persons: dict[str, str]) -> bool:
    """A group is told of where the other patients' columns have a smaller rank than all columns."""
    names = sorted(set().union(*sets))
    rows = np.array([[name in one for name in names] for one in sets], float)
    rank = np.linalg.matrix_rank(rows)
    people = sorted({persons.get(name, name) for name in names})
    for group in itertools.combinations(people, min(fewest - 1, len(people))):
        others = [k for k, name in enumerate(names) if persons.get(name, name) not in group]
        if np.linalg.matrix_rank(rows[:, others]) < rank:
            return True
    return False


@given(sets=SETS, fewest=st.integers(2, 5), visits=st.sampled_from(["", "ab", "abcd"]))
def test_a_group_is_found_exactly_where_ranks_say_so(sets: list[frozenset[str]], fewest: int, visits: str) -> None:
    persons = dict.fromkeys(visits, "one person")
    assert isolates(sets, fewest, persons=persons) == found_by_ranks(sets, fewest, persons)


@pytest.mark.parametrize(
    ("sets", "smallest", "found"),
    [
        (("abcdefghi", "abcdefgh"), 1, 1),  # all but one
        (("abcde", "fghij"), 5, 5),
        (("abcdefghij", "abcde"), 5, 5),
        (("abcdef", "defghi"), 3, 6),  # cells of three, but no sum over fewer than six
        (("ab", "bc", "ca"), 1, 1),  # (ab + ca - bc) / 2
    ],
)
def test_small_examples(sets: tuple[str, ...], smallest: int, found: int) -> None:
    assert smallest_cell(sets) == smallest
    assert isolates(sets, found + 1) and not isolates(sets, found)


@given(sets=SETS, fewest=st.integers(2, 5))
def test_cells_are_the_stricter_rule(sets: list[frozenset[str]], fewest: int) -> None:
    if smallest_cell(sets) >= fewest:
        assert not isolates(sets, fewest)


def test_visits_of_one_person_are_one() -> None:
    persons = dict.fromkeys("ab", "one person")
    assert smallest_cell(("ab", "cdef"), persons=persons) == 1
    assert isolates(("ab", "cdef"), 2, persons=persons) and not isolates(("ab", "cdef"), 2)


def test_what_takes_too_long_counts_as_told() -> None:
    random = np.random.default_rng(0)
    sets = [frozenset(map(str, random.choice(60, 30, replace=False))) for _ in range(40)]
    began = time.monotonic()
    assert isolates(sets, 12, most=50)
    assert time.monotonic() - began < 60

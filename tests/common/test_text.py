"""Numbers, amounts, lists, times and digests as the texts of the project write them."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import text
from tests.support.hospitals import REPO


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 patients"), (1, "1 patient"), (2, "2 patients"), (12500, "12\u202f500 patients")],
)
def test_an_amount_names_one_or_several(number: int, told: str) -> None:
    assert text.count(number, "patient") == told


@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_a_number_in_groups_is_the_number(number: int) -> None:
    told = text.whole(number)
    assert int(told.replace("\u202f", "")) == number
    assert all(len(group) == 3 for group in told.split("\u202f")[1:])


@pytest.mark.parametrize(
    ("words", "told"), [([], ""), (["A"], "A"), (["A", "B"], "A and B"), (["A", "B", "C"], "A, B and C")]
)
def test_a_list_reads_as_in_a_sentence(words: list[str], told: str) -> None:
    assert text.listed(words) == told
    assert text.listed(iter(words)) == told


def test_a_range_of_one_number_is_the_number() -> None:
    assert text.between((4, 4)) == "4"
    assert text.between((6, 4, 5)) == "4 to 6"


def test_a_share_is_shown_in_per_cent() -> None:
    assert text.percent(0.9142) == "91.4 %"
    assert text.percent(0.344, 0) == "34 %"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (740, "740 bytes"),
        (1_000, "1 kB"),
        (999_600, "1 MB"),
        (1_449_000, "1.4 MB"),
        (9_949_000, "9.9 MB"),
        (9_951_000, "10 MB"),
        (54_900_000, "55 MB"),
        (1.45e9, "1.4 GB"),
        (2e12, "2 TB"),
    ],
)
def test_bytes_have_two_digits_and_their_unit(number: float, told: str) -> None:
    assert text.short_bytes(number) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (59.6, "1 min"),
        (130, "2 min 10 s"),
        (599, "9 min 59 s"),
        (600, "10 min"),
        (759, "12 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (90_000, "25 h"),
    ],
)
def test_a_time_span_has_two_units_at_most(seconds: float, told: str) -> None:
    assert text.duration(seconds) == told


def test_a_moment_is_shown_to_the_minute_and_what_is_none_as_it_is() -> None:
    assert text.moment("2026-05-04T09:00:59+00:00") == "2026-05-04 09:00 UTC"
    assert text.moment("?") == "?"


def test_a_short_digest_is_the_beginning_of_the_digest() -> None:
    digest = string.hexdigits.lower() * 3
    assert digest.startswith(text.short_digest(digest))
    assert len(text.short_digest(digest)) >= 8, "`relay site approve` and `receive` take no fewer digits"


def test_no_other_module_counts_or_lists_by_itself() -> None:
    """`"s" if … else ""` and ``" and ".join`` stand in `common/text.py` alone."""
    own = re.compile(r"""'' if .{1,30} == 1 else 's'|['"] and ['"]\.join\(""")
    found = []
    for room in ("client", "common", "deploy", "server"):
        for path in (REPO / room).rglob("*.py"):
            if path != REPO / "common" / "text.py" and own.search(path.read_text(encoding="utf-8")):
                found.append(path.relative_to(REPO))
    assert not found

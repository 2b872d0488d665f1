"""The project's notation for numbers, amounts, lists, times and digests in texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
"""Units of bytes with their sizes, the largest first."""


def whole(number: float) -> str:
    """Return a number without decimals, in groups of three digits: "12 500"."""
    return f"{number:,.0f}".replace(",", "\u202f")


def count(number: int, noun: str) -> str:
    """Return an amount with its noun: "1 patient", "12 500 patients"."""
    return f"{whole(number)} {noun}{'' if number == 1 else 's'}"


def points(number: float) -> str:
    """Return a number of Dice points in short: "1 point", "0.5 points"."""
    return f"{number:g} point{'' if number == 1 else 's'}"


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign: "+1.2", "−0.4", or "±0.0" where rounding leaves none."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return f"±{text}"
    return f"{'+' if value > 0 else '−'}{text}"


def between(counts: Sequence[int]) -> str:
    """Return the range of some counts: "4 to 6", or "4" if all counts are equal."""
    least, most = min(counts), max(counts)
    return f"{least} to {most}" if least < most else f"{least}"


def either(words: Iterable[str]) -> str:
    """Return words as alternatives: "A", "A or B", "A, B or C"."""
    several = list(words)
    return " or ".join((", ".join(several[:-1]), several[-1])) if len(several) > 1 else "".join(several)


def listed(words: Iterable[str]) -> str:
    """Return words as a list in a sentence: "A", "A and B", "A, B and C"; an empty text for no words."""
    several = list(words)
    return " and ".join((", ".join(several[:-1]), several[-1])) if len(several) > 1 else "".join(several)


def quoted(name: str) -> str:
    """Return a name in quotation marks."""
    return f'"{name}"'


def percent(share: float, digits: int = 1) -> str:
    """Return a share in per cent: "91.4 %" for 0.914."""
    return f"{100 * share:.{digits}f} %"


def short_bytes(number: float) -> str:
    """Return a number of bytes in powers of 1000, to two digits: "740 bytes", "1.4 GB", "52 MB"."""
    for unit, size in UNITS:
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0") + f" {unit}"
    return count(round(number), "byte")


def duration(seconds: float) -> str:
    """Return a time span: "12 s", "2 min 10 s", "12 min" (no seconds from ten minutes on), "1 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    return f"{rest} s"


def moment(iso: str) -> str:
    """Return an ISO time for people, "2026-05-04 09:00 UTC"; any other text is returned unchanged."""
    try:
        return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M %Z}".rstrip()
    except ValueError:
        return iso


def short_digest(digest: str) -> str:
    """Return the first eight digits of a digest, enough to distinguish the digests of a list."""
    return digest[:8]

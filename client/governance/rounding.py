"""The decimal places with which figures leave a site that lets no number of a single patient leave.

A mean over five patients with all its digits says more than the mean: with the numbers of slices, a patient's own Dice
can be told from the last digits. So a site whose file asks for several patients behind a number rounds. A site that
asks for none sends the digits as they are, so that a study on one machine can be repeated bit for bit.
"""

from __future__ import annotations

from typing import Any, TypeVar

from client.site_config import SiteConfig
from common.protocol.messages import WireMessage

DIGITS = 4
"""Decimal places of overlaps (a hundredth of a Dice point) and losses."""
DIGITS_OF_UNITS = 2
"""Decimal places of millimetres and millilitres."""
UNITS = ("_mm", "_ml")
"""The ends of the names of figures in millimetres and millilitres."""
OF_NO_PATIENT = ("learning_rates",)
"""Figures that the study sets, and no patient."""

Message = TypeVar("Message", bound=WireMessage)


def rounds(site: SiteConfig) -> bool:
    """Return whether figures leave the site rounded."""
    return site.minimum_patients > 1


def as_it_leaves(site: SiteConfig, overlap: float) -> float:
    """Return an overlap, 0 to 1, with the digits with which it leaves the site."""
    return round(overlap, DIGITS) if rounds(site) else overlap


def rounded(message: Message, site: SiteConfig) -> Message:
    """Return a message with the digits with which it leaves the site."""
    if not rounds(site):
        return message
    return message.model_copy(
        update={name: _rounded(name, getattr(message, name)) for name in type(message).model_fields}
    )


def _rounded(name: str, value: Any) -> Any:
    if name in OF_NO_PATIENT:
        return value
    if isinstance(value, tuple):
        return tuple(_rounded(name, item) for item in value)
    if isinstance(value, float):
        return round(value, DIGITS_OF_UNITS if name.endswith(UNITS) else DIGITS)
    return value

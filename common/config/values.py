"""The values and rules that the parts of a study file share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

POOLED = "pooled"
"""The name of a site with the folders of all sites together; such a site exists in simulation alone."""

SiteName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]


def _on_one_line(text: str) -> str:
    """Return a text unchanged if all its characters are printable.

    A study file comes by mail and is shown on terminals: control characters, and characters reversing the direction of
    a line, are forbidden.
    """
    if not text.isprintable():
        raise ValueError("this holds a line end or another character that is not shown; write one plain line")
    return text


Line = Annotated[str, AfterValidator(_on_one_line)]


def several(value: object) -> object:
    """Return a value as a tuple; a single value may stand without brackets."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class Config(BaseModel):
    """A part of a study file: no unknown keys, no conversions, no infinities; unchangeable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def check_distinct(part: Config, name: str) -> None:
    """Check that no value stands twice in a list of settings to try."""
    given = getattr(part, name)
    if len(set(given)) < len(given):
        raise ValueError(f"a value stands twice in {name}")


def check_lists(part: Config, *names: str) -> None:
    """Check that lists of settings to try have a value, and no value twice."""
    for name in names:
        given = getattr(part, name)
        if not given or len(set(given)) < len(given):
            raise ValueError(f"{name} is an empty list, or a value stands twice in it")

"""Generate a new hospital's site.toml for `relay site init`, from the fields of `SiteConfig`."""

from __future__ import annotations

import json
import textwrap
from typing import Literal, get_args, get_origin

import tomli_w
from pydantic.fields import FieldInfo

from client.data import layouts
from client.site_config import ArchiveConfig, SiteConfig

WIDTH = 100
HEAD = """\
# This hospital's settings for relay. Nothing in this file is ever sent.
# Paths are taken from the folder that the file lies in.
"""
OF_A_POOLED_SITE, TABLE = "members", "archive"
FIRST_VALUES = {
    "images": "images",
    "masks": "labels",
    "folder": "private",
    "patient": r"^(\d+)_",
    "labels": [1, 2],
    "mask_threshold": 0.5,
    "roi": "prostate",
    "spacing_mm": [3.0, 0.5, 0.5],
    "orientation": "LPS",
    "scoring_floor": 0.05,
    "split_key": "site",
}
"""Values of a new file for keys whose default cannot stay, explains nothing, or is meant for simulations."""
LEFT_OUT = ("masks", "patient", "labels", "mask_threshold", "roi", "spacing_mm", "orientation")
"""Keys unneeded at most sites, and therefore written as comments."""


def site_template(name: str) -> str:
    """Return the text of a site file with every key of a plain site, each explained and with its default.

    Args:
        name: the site's name.
    """
    parts, last = [HEAD], ""
    for key, field in SiteConfig.model_fields.items():
        if key == OF_A_POOLED_SITE:
            continue
        if key == TABLE:
            last = _table(key, field)
            continue
        value = {"name": name, **FIRST_VALUES}.get(key, field.default)
        # A list on one line is the same in JSON and in TOML.
        line = f"{key} = {json.dumps(value)}\n" if isinstance(value, list) else tomli_w.dumps({key: value})
        parts.append(_comment(key, field) + (f"# {line}" if key in LEFT_OUT else line))
    return "\n".join([*parts, last])


def _table(key: str, field: FieldInfo) -> str:
    """Return the query for the archive as a comment: in TOML, a table stands below all other keys."""
    lines = [_comment(key, field), f"# [{key}]\n"]
    for name, inner in ArchiveConfig.model_fields.items():
        default = list(inner.default) if isinstance(inner.default, tuple) else inner.default
        lines += [_comment(name, inner), f"# {name} = {json.dumps(default)}\n"]
    return "".join(lines)


def _comment(key: str, field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    if get_origin(field.annotation) is Literal:
        text += f" One of {', '.join(get_args(field.annotation))}."
    known = layouts.known()
    if key == "masks":
        text += f" Those are {', '.join(name for name, layout in known.items() if layout.masks_apart)}."
    lines = textwrap.wrap(text, WIDTH, break_on_hyphens=False)
    if key == "layout":
        longest = max(map(len, known))
        lines += [f"  {name:<{longest}}  {layout.looks_for}" for name, layout in known.items()]
    return "".join(f"# {line}\n" for line in lines)

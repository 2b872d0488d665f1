"""The report's wording: names of methods and networks, and numbers in text."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape

from common import text
from common.config.values import POOLED
from common.networks.registry import NETWORKS
from common.plan import with_share
from common.plan.methods.method import sources as sources_of
from server.results.schema import Results, Row

ARCHITECTURES = {key: network.title for key, network in NETWORKS.items()}
"""Names of the architectures for readers; the paper's four first, in its spelling and in the order of its columns."""


def capital(words: str) -> str:
    """Return a text with a capital as its first letter; the other letters stay as they are."""
    return words[:1].upper() + words[1:]


def sources(row: Row) -> tuple[str, ...]:
    """Return the sites on a row's route before its target."""
    return sources_of(row.route, row.target)


def full_name(row: Row) -> str:
    """Return the name of a row: "B → C → A", "A alone", "FedAvg, then A"."""
    if row.rotations and not row.route:
        return row.label  # the rotations have different routes
    return with_share(row.kind.name(row.route, row.target), row.share)


def figure(value: float | None, digits: int = 1) -> str:
    """Return a number with decimals, or a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference with its sign, or a dash for None."""
    return "–" if value is None else text.signed(value, digits)


def probability(value: float | None) -> str:
    """Return a p value in short: "0.031", "< 0.001", or a dash for None."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.2g}"


def with_code(sentence: str) -> Markup:
    """Return a sentence as HTML, in which names between backticks are set as code."""
    parts = [escape(part) for part in sentence.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def likely(value: float) -> str:
    """Return a probability of a posterior in per cent: "93 %", "< 1 %", "> 99 %"."""
    return "< 1 %" if value < 0.01 else "> 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def small(value: float) -> str:
    """Return a small probability in full: "0.000031"."""
    return f"{float(f'{value:.2g}'):.10f}".rstrip("0").rstrip(".")


def network_name(model: str) -> str:
    """Return a network's name in the paper's spelling: "UNet++, EfficientNetB3"."""
    architecture, _, encoder = model.partition(" ")
    names = (ARCHITECTURES.get(architecture, architecture), encoder_name(encoder) if encoder else "")
    return ", ".join(name for name in names if name)


STARTS = {"imagenet": "from ImageNet", "none": "without ImageNet"}
"""The words for the first encoder weights; any others are a file, called by its name."""


def encoder_name(encoder: str) -> str:
    """Return an encoder's name: "EfficientNetB3" for efficientnet-b3, "ResNet18 without ImageNet" with first weights.

    Args:
        encoder: the encoder as in results.json, with its first weights where a study compares several; empty for a
            network without encoder.
    """
    encoder, _, start = encoder.partition(" from ")
    if start:
        return f"{encoder_name(encoder)} {STARTS.get(start, f'from {start}')}"
    for prefix, name in (("efficientnet-b", "EfficientNetB"), ("resnet", "ResNet"), ("mobilenet_v", "MobileNetV")):
        if encoder.startswith(prefix):
            return name + encoder.removeprefix(prefix)
    return encoder or "no encoder"


def sequential_setting(results: Results, name: str) -> Any:
    """Return a setting of the study's `methods.sequential`, or None."""
    methods = results.study.get("methods")
    part = methods.get("sequential") if isinstance(methods, dict) else None
    return part.get(name) if isinstance(part, dict) else None


def targets(results: Results) -> tuple[str, ...]:
    """Return the targets in the study's order of sites."""
    found = dict.fromkeys(row.target for row in results.rows)
    known = [name for name in site_names(results) if name in found]
    return (*known, *(name for name in found if name not in known))


def site_names(results: Results) -> tuple[str, ...]:
    """Return the names of the hospitals, in the study's order."""
    names = results.study.get("sites")
    if not isinstance(names, list | tuple) or not names:
        names = [site.name for site in results.sites]
    return tuple(str(name) for name in names if name != POOLED)

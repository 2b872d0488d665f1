"""A federation on paper: the file that describes its sites, links and graphics cards for `relay study plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from common.config.study import Study
from common.config.toml import load_toml
from common.config.values import Config, SiteName
from common.errors import BadConfiguration
from common.text import count, listed
from deploy.planning.trial import Speed

DAY = 24.0


class CoordinatorLink(Config):
    """The coordinator's link and processor. Defaults: a link of 1 GBit/s, and the processor of a small server."""

    up_mbit: float = Field(default=1000.0, gt=0)
    """MBit/s from the coordinator to all sites together."""
    down_mbit: float = Field(default=1000.0, gt=0)
    """MBit/s from all sites together to the coordinator."""
    seconds_a_mb: float = Field(default=0.02, ge=0)
    """Seconds in which the coordinator checks, copies and stores a megabyte of weights that it sends or gets; so many
    pass for every megabyte of an average, too. At most two messages with weights are worked on at a time."""
    message_seconds: float = Field(default=0.02, ge=0)
    """Seconds of the coordinator's processor for each answered stage, besides its weights."""
    disk_gb: float | None = Field(default=None, gt=0)
    """Gigabytes free for weights; without, as many as are needed. Where a search for routes needs more, weights of
    routes that lost are made again when a later hop begins with them, as in a real run."""


class SiteGroup(Config):
    """One site or several equal ones."""

    names: tuple[SiteName, ...] = ()
    """The sites' names in the study."""
    count: int = Field(default=0, ge=0)
    """In place of `names`: so many of the study's sites that no other entry names, in the study's order."""
    patients: int = Field(ge=1)
    """Usable patients of each site."""
    slices: int = Field(ge=1)
    """Slices (or boxes) of all its patients that an epoch would train on, test and validation patients included."""
    step_seconds: float | None = Field(default=None, gt=0)
    """Seconds of a gradient step of the study's network and batch."""
    predict_seconds: float | None = Field(default=None, gt=0)
    """Seconds to segment one slice; default: a third of a step, divided by the batch."""
    speed: float | None = Field(default=None, gt=0)
    """In place of `step_seconds`: how many times as fast as the machine that plans, which is measured first."""
    up_mbit: float = Field(default=100.0, gt=0)
    """MBit/s from the site to the coordinator."""
    down_mbit: float = Field(default=100.0, gt=0)
    """MBit/s from the coordinator to the site."""
    message_seconds: float = Field(default=5.0, ge=0)
    """Seconds of an order and its answer besides computing and the weights' own bytes: the way, looking for orders, a
    process for the answer."""
    hours: tuple[float, float] | None = None
    """The hours of the day between which the site computes, such as [19, 7]; without, day and night."""
    pool: str = ""
    """The pool of graphics cards on which the site computes; without, it has a machine of its own."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.names) == bool(self.count):
            raise ValueError("a site wants either names or a count")
        if (self.step_seconds is None) == (self.speed is None):
            raise ValueError("a site wants either step_seconds or speed")
        if self.predict_seconds is not None and self.step_seconds is None:
            raise ValueError("predict_seconds goes with step_seconds")
        if self.hours and (not all(0 <= hour <= DAY for hour in self.hours) or self.hours[0] % DAY == self.hours[1]):
            raise ValueError("hours are two different hours of a day, such as [19, 7]")
        return self


class Pool(Config):
    """Graphics cards that several sites share, each for one leg of a stage at a time, in the order of asking."""

    name: str = Field(min_length=1)
    cards: int = Field(ge=1)
    """Stages at once."""


class Federation(Config):
    """A federation that may not exist yet."""

    about: str = ""
    """A sentence for people."""
    begins: float = Field(default=8.0, ge=0, lt=DAY)
    """The hour of the day at which the study begins."""
    dice: Literal["every hop gains", "drawn"] = "every hop gains"
    """Where a validation Dice decides what is done next, there is none yet, and it is drawn: "every hop gains", so that
    routes grow to their last hop, or "drawn" for each stage alike, from 0.5 to 0.95."""
    seed: int = Field(default=0, ge=0)
    """The seed of the drawn Dice."""
    coordinator: CoordinatorLink = CoordinatorLink()
    sites: tuple[SiteGroup, ...] = Field(min_length=1)
    pools: tuple[Pool, ...] = ()

    @model_validator(mode="after")
    def _pools_exist(self) -> Self:
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise ValueError("two pools have the same name")
        for group in self.sites:
            if group.pool and group.pool not in names:
                raise ValueError(f'a site computes on the pool "{group.pool}", which is none of the pools')
        return self


@dataclass(frozen=True)
class VirtualSite:
    """A site of a federation on paper, with its place in the file."""

    group: int
    config: SiteGroup
    speed: Speed | None
    """Seconds of a step and a prediction; None where they follow from the machine that plans."""


def load_federation(path: Path) -> Federation:
    """Read a federation's file.

    Raises:
        BadConfiguration: the file does not exist, is no TOML, or has an unknown key, a wrong type or a wrong value.
    """
    return load_toml(path, Federation, "federation file")


def sites_of(federation: Federation, study: Study, path: Path) -> dict[str, VirtualSite]:
    """Return a federation's sites by the study's names, in the study's order.

    Args:
        federation: the federation.
        study: the study, whose batch says what a prediction takes where the file does not.
        path: the federation's file, for errors.

    Raises:
        BadConfiguration: the federation's sites are not the study's, or seconds are given for several networks.
    """
    named = [name for group in federation.sites for name in group.names]
    if unknown := sorted({name for name in named if name not in study.sites or named.count(name) > 1}):
        raise BadConfiguration(
            f"In {path}, {listed(unknown)} must each be named once, and be a site of the study ({listed(study.sites)})."
        )
    left = [name for name in study.sites if name not in named]
    wanted = sum(group.count for group in federation.sites)
    if wanted != len(left):
        raise BadConfiguration(
            f"{path} describes {count(len(named) + wanted, 'site')}, and the study has {len(study.sites)};"
            " change a count or the study's sites."
        )
    found: dict[str, VirtualSite] = {}
    for number, group in enumerate(federation.sites):
        if group.step_seconds is not None and len(study.networks) > 1:
            raise BadConfiguration(
                f"The study has {len(study.networks)} networks, and step_seconds in {path} is of one; give speed"
                " instead."
            )
        names = group.names or left[: group.count]
        left = left[len(names) if group.count else 0 :]
        found |= {name: VirtualSite(number, group, _speed(group, study)) for name in names}
    return {name: found[name] for name in study.sites}


def _speed(group: SiteGroup, study: Study) -> Speed | None:
    if group.step_seconds is None:
        return None
    return Speed(group.step_seconds, group.predict_seconds or group.step_seconds / 3 / study.training.batch)


def relative(speed: Speed, times: float) -> Speed:
    """Return the speed of a machine so many times as fast."""
    return Speed(speed.step / times, speed.predict / times)


def open_from(hours: tuple[float, float] | None, hour: float) -> tuple[float, float]:
    """Return in how many hours a site computes next, and for how many hours from then on.

    Args:
        hours: the site's hours of the day; None for day and night.
        hour: the hour of the day now, from 0 to 24.
    """
    if hours is None:
        return 0.0, float("inf")
    first, last = hours
    length = (last - first) % DAY
    since = round((hour - first) % DAY, 9) % DAY  # an hour after a sum of many seconds is off by a rounding error
    return (0.0, length - since) if since < length else (DAY - since, length)


def numbers(sites: Mapping[str, VirtualSite], name: Literal["patients", "slices"]) -> dict[str, int]:
    """Return the patients or the slices of each site."""
    return {site: int(getattr(one.config, name)) for site, one in sites.items()}

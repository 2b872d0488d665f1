"""Descriptions of the sites' data: requested at every start, and kept in case a site is away at the next start."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from common.config.study import Study
from common.digest import digest_of
from common.errors import RelayError, SiteAbsent
from common.files import write_atomically
from common.protocol.messages import Description
from common.text import listed
from server.progress.events import Event, Observer
from server.transport.outcomes import Absent, Parked, RefusedBySite
from server.transport.site_channel import SiteChannel

REASONS_WITHIN = 3.0
"""Seconds to wait for each further site's reason once a site cannot take part."""

Descriptions = Mapping[str, Description]
"""Descriptions by site."""


def describe_all(
    study: Study, channels: Mapping[str, SiteChannel], observe: Observer, *, kept: Descriptions | None = None
) -> dict[str, Description]:
    """Ask all sites at once to describe their data for a study.

    Args:
        study: a plain study (a single network and pair of seeds).
        channels: the channel of each site.
        observe: is called with events about the sites' preparation.
        kept: descriptions of an earlier run, used for sites now away, gone from the study, or unable to answer.

    Returns:
        The description of each site, in the order of `channels`.

    Raises:
        SiteAbsent: a site cannot take part; the error text gives the reason of each such site.
        RelayError: the sites would compute in different precisions.
    """
    descriptions: dict[str, Description] = {}
    reasons: dict[str, str] = {}
    before = kept or {}

    def ask(site: str) -> None:
        def on_progress(prepared: int, found: int) -> None:
            observe(Event("preparing", site, "", epoch=prepared, epochs=found))

        try:
            if site in before and not channels[site].is_there():
                descriptions[site] = before[site]
            else:
                descriptions[site] = channels[site].describe(study, on_progress)
        except (Absent, RefusedBySite) as refused:
            # The site's stages are parked, with the reason of the refusal; the other sites need not wait for this site.
            if site in before:
                descriptions[site] = before[site]
                observe(Event("parked", site, f"site {site}: {refused}"))
            else:
                reasons[site] = str(refused)
        except Parked as parked:
            reasons[site] = str(parked)
        except Exception as error:  # a thread must not end without a reason in the result
            reasons[site] = f"the coordinator failed ({type(error).__name__}: {error})"
        ended.put(site)

    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    for site in channels:
        threading.Thread(target=ask, args=(site,), daemon=True).start()
    with suppress(queue.Empty):
        for _ in channels:
            # Once a site cannot take part, there is no wait for the other sites, whose preparation may take hours.
            ended.get(timeout=REASONS_WITHIN if reasons else None)
    if reasons:
        each = "; ".join(f"site {site}: {reason}" for site, reason in sorted(dict(reasons).items()))
        raise SiteAbsent(f"The study cannot begin – {each}.")
    _check_precision(descriptions)
    return {site: descriptions[site] for site in channels}


def _check_precision(descriptions: Descriptions) -> None:
    """Refuse a study whose sites would compute in different precisions: methods would differ by the machines' luck.

    Raises:
        RelayError: the sites' precisions differ.
    """
    sites: dict[str, list[str]] = {}
    for name, description in sorted(descriptions.items()):
        sites.setdefault(description.precision, []).append(name)
    if len(sites) > 1:
        each = "; ".join(f"{precision} at {listed(names)}" for precision, names in sites.items())
        raise RelayError(
            f'The sites would compute in different precisions ({each}); write precision = "float32" under [training] of'
            " the study, and have it approved again."
        )


def changed_machines(before: Descriptions, now: Descriptions) -> list[str]:
    """Return a sentence for each site whose results are, since an earlier run, those of another torch or device.

    Args:
        before: the descriptions of the earlier run.
        now: the descriptions of this run.
    """
    pairs = [(site, _machine(before[site]), _machine(described)) for site, described in now.items() if site in before]
    return [
        f"Site {site} computes with {after}, and did with {earlier} before; its stages are run again."
        for site, earlier, after in pairs
        if earlier != after
    ]


def _machine(description: Description) -> str:
    return f"torch {description.torch} on {description.device} in {description.precision}"


def keep(folder: Path, study: Study, descriptions: Descriptions) -> None:
    """Write the sites' descriptions into a result folder."""
    plain = {site: description.model_dump(mode="json") for site, description in descriptions.items()}
    content = json.dumps({"sites": plain, "seal": _seal(plain)}, indent=1).encode()
    path = _path(folder, study)
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content, durable=True)


def kept_in(folder: Path, study: Study) -> dict[str, Description]:
    """Return the descriptions of an earlier run in a result folder; none if the file is missing or damaged."""
    path = _path(folder, study)
    if not path.exists():
        return {}
    file = path.read_bytes()
    try:
        content = json.loads(file)
        plain = content["sites"]
        if content["seal"] != _seal(plain):
            return {}
        return {site: Description.model_validate_json(json.dumps(said)) for site, said in plain.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def known_of(kept: Iterable[Descriptions]) -> frozenset[str]:
    """Return the sites with a description for every variant: the study can start without these sites."""
    names = [frozenset(descriptions) for descriptions in kept]
    return frozenset.intersection(*names) if names else frozenset()


def _path(folder: Path, study: Study) -> Path:
    return folder / "descriptions" / f"{study.digest}.json"


def _seal(plain: object) -> str:
    return digest_of(json.dumps(plain, sort_keys=True).encode())

"""Ask the package index which known advisories concern the packages of lock files: `python -m deploy.advisories LOCK…`.

PyPI's JSON interface names the advisories of a version at `pypi/NAME/VERSION/json`. Some mirrors answer
`pypi/NAME/json` alone, which names those of the newest version. An older version may have more of them: for such a
package it is said that the index does not tell.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FaultsFound, RelayError, Unreachable
from common.text import count, listed
from deploy.licences import locked

INDEX = "https://pypi.org/pypi"
AT_ONCE = 4
"""Requests at a time."""
ANSWER_WITHIN = 30.0
"""Seconds within which the index has to answer a request."""

Fetch = Callable[[str], Any]
"""Returns the JSON at an address; None where there is none."""


@dataclass(frozen=True)
class PackageAdvisories:
    """What the index says of a package."""

    name: str
    version: str
    """The version of the lock."""
    newest: str
    """The version of which the index tells; another than the lock's where it does not tell of that one."""
    advisories: tuple[str, ...]
    """A line for each advisory that was not withdrawn: its names, and the versions that are free of it."""

    @property
    def known(self) -> bool:
        """Return whether the index tells of the lock's own version."""
        return self.version == self.newest


def fetch(address: str) -> Any:
    """Fetch JSON.

    Raises:
        Unreachable: the index does not answer.
    """
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_WITHIN) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise Unreachable(f"{address} answers with HTTP {error.code}; try again later.") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"{address} cannot be read ({error}); try again later.") from None


def look_up(name: str, version: str, get: Fetch = fetch) -> PackageAdvisories:
    """Return what the index says of a version, or else of the newest one.

    Args:
        name: the package.
        version: the version.
        get: fetches an address.

    Raises:
        RelayError: the index does not know the package, or does not answer.
    """
    said = get(f"{INDEX}/{name}/{version}/json") or get(f"{INDEX}/{name}/json")
    if said is None:
        raise RelayError(f"The index does not know {name}; correct the lock.")
    lines = tuple(_line(entry) for entry in said.get("vulnerabilities") or () if not entry.get("withdrawn"))
    return PackageAdvisories(name, version, str(said["info"]["version"]), lines)


def _line(entry: dict[str, Any]) -> str:
    names = sorted({str(entry["id"]), *map(str, entry.get("aliases") or ())})
    fixed = [str(version) for version in entry.get("fixed_in") or ()]
    summary = " ".join(str(entry.get("summary") or entry.get("details") or "").split())[:200]
    return f"{', '.join(names)}; fixed in {listed(fixed) or 'no version yet'}: {summary}"


def report(found: Sequence[PackageAdvisories]) -> list[str]:
    """Return the lines to print: all advisories, the packages of which the index did not tell, and a sum.

    Args:
        found: what the index says of each package.
    """
    lines = [f"{each.name} {each.version}: {advisory}" for each in found for advisory in each.advisories]
    unknown = [f"{each.name} {each.version} (newest: {each.newest})" for each in found if not each.known]
    if unknown:
        lines.append(f"The index tells of the newest versions alone, and so not of {listed(unknown)}.")
    known, advisories = len(found) - len(unknown), sum(len(each.advisories) for each in found)
    return [*lines, f"Looked up {count(known, 'package')} at the version given; known advisories: {advisories}."]


def main(*locks: Path) -> None:
    """Look up every package of some lock files, and print what was found.

    Args:
        *locks: files with lines NAME==VERSION.

    Raises:
        FaultsFound: there are known advisories.
        RelayError: the index does not answer, or does not know a package.
    """
    pairs = [pair for lock in locks for pair in locked(lock).items()]
    packages = {re.sub("[-_.]+", "-", name).lower(): version for name, version in pairs}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(look_up, packages, packages.values()))
    print("\n".join(report(found)))
    if any(each.advisories for each in found):
        raise FaultsFound("Look at each advisory: move to a version without it, or note why it does not concern relay.")


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except RelayError as error:
        sys.exit(str(error))

"""Write the page of the licences of all packages in requirements.lock: `python -m deploy.licences PAGE`.

Licences are read from the installed packages' own metadata. A package that this machine does not install, as it is for
another system alone, is named without.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

ALLOWED = frozenset(
    (
        *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "LLVM-exception"),
        *("MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Public Domain", "Zlib"),
    )
)
"""Licences under which a package may stand beside relay's own Apache-2.0. All are permissive but MPL-2.0, which asks
for the source of changed files of that package alone; relay changes none."""

SHORT = {
    "MIT License": "MIT",
    "BSD License": "BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License (ISCL)": "ISC",
}
"""How a licence is written in older metadata, and its short name."""

ELSEWHERE = "not installed on Linux"
PAGE = """\
# Licences of all packages

What `requirements.lock` installs beside relay, which is under the Apache License 2.0, and under which licence each
package says it is. All are compatible with it: permissive, or the Mozilla Public License 2.0, which asks for the source
of changed files of that package alone (relay changes none). Torch and torchvision (BSD-3-Clause, with Apache-2.0,
BSL-1.0 and MIT parts) are installed apart from the lock; NVIDIA's packages, which torch's build for graphics cards
brings, are under NVIDIA's own licence, and are no part of relay. Made by `python -m deploy.licences`.

| package | version | licence |
| --- | --- | --- |
{rows}
"""


def locked(lock: Path) -> dict[str, str]:
    """Return the version of each package in a lock file."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def licence_of(package: str) -> str:
    """Return the licence that an installed package states, in short; empty if the package is not installed."""
    try:
        stated = metadata.metadata(package).json
    except metadata.PackageNotFoundError:
        return ""
    if expression := stated.get("license_expression"):
        return str(expression)
    given = [line.split(" :: ")[-1] for line in stated.get("classifier", []) if line.startswith("License ::")]
    text = str(stated.get("license", ""))
    if not given or SHORT.get(text, text) in ALLOWED:
        given = [text]
    return " OR ".join(SHORT.get(name, name) for name in given)


def parts_of(licence: str) -> set[str]:
    """Return the licences that an expression names."""
    return set(re.split(r" (?:AND|OR|WITH) ", licence.replace("(", "").replace(")", "")))


def page(lock: Path) -> str:
    """Return the page for a lock file."""
    rows = [f"| {name} | {version} | {licence_of(name) or ELSEWHERE} |" for name, version in locked(lock).items()]
    return PAGE.format(rows="\n".join(rows))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(Path("requirements.lock")), encoding="utf-8")

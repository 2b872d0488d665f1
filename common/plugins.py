"""Networks and methods of installed packages, found by their entry points, each bound to its package's hash.

Code never travels: a hospital installs the package itself. The study names the hash of the package's files, so that the
coordinator and every site run the very same code, and an approval of the study is an approval of that code.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any

from common.digest import digest_of, digest_of_json
from common.errors import BadConfiguration


@dataclass(frozen=True)
class PluginKind:
    """What an entry point may name."""

    group: str
    """The group of the entry points."""
    noun: str
    value: str
    """The class of what an entry point names, for errors."""
    named_by: str
    """How a study names a package's hash, with {name} and {package} in their places."""


NETWORK = PluginKind(
    "relay.networks", "network", "Network of common.networks.registry", 'package = "{package}" under [model]'
)
METHOD = PluginKind(
    "relay.methods", "method", "Method of common.plan.methods", '{name} = "{package}" under [methods.packages]'
)
OF_THE_INSTALLER = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""Files that the installer writes beside a package's own; they differ between machines."""


def names(kind: PluginKind) -> tuple[str, ...]:
    """Return the names of the networks or methods of installed packages."""
    return tuple(sorted(entry.name for entry in entry_points(group=kind.group)))


@functools.cache
def load(kind: PluginKind, name: str, package: str) -> Any:
    """Return what a plug-in's entry point names, after a comparison of its package's hash.

    Args:
        kind: whether it is a network or a method.
        name: its name.
        package: the hash that the study names.

    Raises:
        BadConfiguration: no package has it, two have, or the package has another hash or no list of files.
    """
    found = list(entry_points(group=kind.group, name=name))
    if len(found) != 1:
        how_many = "No installed package has" if not found else "Two installed packages have"
        raise BadConfiguration(
            f"{how_many} the {kind.noun} {name} that the study names; install the one that the study was made with."
        )
    entry = found[0]
    distribution = entry.dist
    if distribution is None:
        raise BadConfiguration(f"The package of the {kind.noun} {name} is not installed properly; install it with pip.")
    title = f"the package {distribution.name} {distribution.version}"
    actual = package_hash(distribution)
    if not package:
        raise BadConfiguration(
            f"The {kind.noun} {name} is of {title}; add {kind.named_by.format(name=name, package=actual)}, and every"
            " site compares it."
        )
    if actual != package:
        raise BadConfiguration(
            f"The {kind.noun} {name} is of {title}, whose files have the hash {actual} here and {package} in the study;"
            " install the version that the study was made with."
        )
    _check_origin(entry, distribution, title)
    return entry.load()


def package_hash(distribution: Distribution) -> str:
    """Return the hash of a package: a sha256 over the names and contents of the files that it was installed with.

    The files are those of its RECORD. Compiled files, scripts outside the package's folder and the installer's own
    files do not count, since they differ between machines.

    Raises:
        BadConfiguration: the package has no list of files, is installed as a link to a folder, or a file is gone.
    """
    title = f"The package {distribution.name} {distribution.version}"
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    if distribution.files is None or source.get("dir_info", {}).get("editable"):
        raise BadConfiguration(f"{title} has no list of its own files; install it from a wheel, not as a link.")
    pairs = []
    for path in distribution.files:
        of_installer = path.parent.name.endswith(".dist-info") and path.name in OF_THE_INSTALLER
        if path.suffix == ".pyc" or path.parts[0] == ".." or of_installer:
            continue
        try:
            pairs.append((path.as_posix(), digest_of(Path(str(path.locate())).read_bytes())))
        except OSError:
            raise BadConfiguration(f"{title} lacks its file {path}; install it again.") from None
    return digest_of_json(sorted(pairs))


def not_of_its_kind(kind: PluginKind, name: str) -> BadConfiguration:
    """Return the error for an entry point that names something else than a network or a method."""
    return BadConfiguration(f"The entry point {name} in the group {kind.group} names no {kind.value}; ask its author.")


def _check_origin(entry: EntryPoint, distribution: Distribution, title: str) -> None:
    """Refuse a module that would be loaded from elsewhere than the files that were hashed."""
    package = importlib.util.find_spec(entry.module.partition(".")[0])
    origin = Path(package.origin).resolve() if package is not None and package.origin else None
    if origin not in {Path(str(path.locate())).resolve() for path in distribution.files or ()}:
        raise BadConfiguration(
            f"The module {entry.module} would be loaded from elsewhere than {title}; remove what stands in its place."
        )

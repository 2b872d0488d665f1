"""The command `relay`, under a name that no other package has.

The packages beside this file are named `client`, `common`, `deploy` and `server`, and other projects have packages of
these names too. Python imports whichever comes first in its search path: in the folder in which it was started, in a
folder of PYTHONPATH, and only then where the program is installed. So the command begins here, and clears the way
before it imports anything of its own.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("client", "common", "deploy", "server")
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run `relay` with this process's arguments; returns its exit code, as `deploy.cli.main` does."""
    use_own_packages()
    from deploy.cli import program

    return program.run(sys.argv[1:])


def use_own_packages() -> None:
    """Make this process, and every process that it starts, import the packages beside this file.

    Folders of PYTHONPATH that hold another package of such a name are left out, and so is the folder in which Python
    was started. Where something else is in the way, the process ends with a sentence that says so.
    """
    # An empty entry is the working folder.
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    foreign = {_resolved(entry) for entry in given if _holds_others(entry)}
    if sys.path and _holds_others(sys.path[0]):
        del sys.path[0]
    sys.path[:] = [entry for entry in sys.path if _resolved(entry) not in foreign]
    if foreign:
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in given if _resolved(entry) not in foreign)
    # Processes that are started with -c or -m would look into the working folder first.
    os.environ["PYTHONSAFEPATH"] = "1"
    for name in PACKAGES:
        try:
            spec = find_spec(name)
        except ValueError:  # a module without a spec was put there by hand
            spec = None
        if spec is None or not _is_own(name, spec):
            place = _place(spec) if spec else "something else"
            sys.exit(
                f'relay cannot start: {place} stands in the place of its own package "{name}"; take that off Python\'s'
                " search path, or install relay into an environment of its own."
            )


def _holds_others(folder: str) -> bool:
    """Whether a folder of the search path holds another package of one of the names."""
    specs = ((name, PathFinder.find_spec(name, [_resolved(folder)])) for name in PACKAGES)
    return any(spec is not None and not _is_own(name, spec) for name, spec in specs)


def _resolved(folder: str) -> str:
    """Return an entry of the search path, the working folder among them (""), as an absolute path."""
    try:
        return os.path.realpath(folder)
    except OSError:  # the working folder was removed: there is nothing in it
        return os.devnull


def _is_own(name: str, spec: ModuleSpec) -> bool:
    return [Path(place).resolve() for place in spec.submodule_search_locations or ()] == [HERE / name]


def _place(spec: ModuleSpec) -> str:
    places = list(spec.submodule_search_locations or ())
    return str(places[0] if places else spec.origin)


if __name__ == "__main__":
    sys.exit(main())

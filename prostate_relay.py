"""Start the command `relay`, from a module whose name no other package has.

The packages beside this file are named `client`, `common`, `deploy` and `server`, and other projects have packages of
these names too. Python imports the package that comes first on its search path: in the folder in which Python was
started, in a folder of PYTHONPATH, and only then where relay is installed. The command therefore starts in this module,
which takes foreign packages of these names off the search path before it imports anything of relay's.
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
    """Run `relay` with the arguments of this process.

    Returns:
        The exit code; see `deploy.cli.main`.
    """
    try:
        use_own_packages()
        from deploy.cli import program
    except KeyboardInterrupt:  # later ones are the program's to explain
        print("Stopped.", file=sys.stderr, flush=True)
        os._exit(130)
    return program.run(sys.argv[1:])


def use_own_packages() -> None:
    """Make this process, and every process that it starts, import the packages beside this file.

    Folders of PYTHONPATH that hold another package of one of the four names are taken off the search path, and so is
    the folder in which Python was started if it holds one.

    Raises:
        SystemExit: another package still stands in the place of one of relay's; the sentence names its path.
    """
    # An empty entry stands for the working folder.
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    foreign = {_resolved(entry) for entry in given if _holds_others(entry)}
    if sys.path and _holds_others(sys.path[0]):
        del sys.path[0]
    sys.path[:] = [entry for entry in sys.path if _resolved(entry) not in foreign]
    if foreign:
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in given if _resolved(entry) not in foreign)
    # Without this, processes that are started with -c or -m search the working folder first.
    os.environ["PYTHONSAFEPATH"] = "1"
    for name in PACKAGES:
        try:
            spec = find_spec(name)
        except ValueError:  # `sys.modules` holds a module of this name without a spec
            spec = None
        if spec is None or not _is_own(name, spec):
            place = _place(spec) if spec else "something else"
            sys.exit(
                f'relay cannot start: {place} stands in the place of its own package "{name}"; take that off Python\'s'
                " search path, or install relay into an environment of its own."
            )


def _holds_others(folder: str) -> bool:
    """Return whether a folder of the search path holds a foreign package of one of the four names."""
    specs = ((name, PathFinder.find_spec(name, [_resolved(folder)])) for name in PACKAGES)
    return any(spec is not None and not _is_own(name, spec) for name, spec in specs)


def _resolved(folder: str) -> str:
    """Return an entry of the search path as an absolute path; "" stands for the working folder."""
    try:
        return os.path.realpath(folder)
    except OSError:  # the working folder was removed, so nothing can be imported from it
        return os.devnull


def _is_own(name: str, spec: ModuleSpec) -> bool:
    return [Path(place).resolve() for place in spec.submodule_search_locations or ()] == [HERE / name]


def _place(spec: ModuleSpec) -> str:
    places = list(spec.submodule_search_locations or ())
    return str(places[0] if places else spec.origin)


if __name__ == "__main__":
    sys.exit(main())

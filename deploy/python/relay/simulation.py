"""Running of a study on hospitals whose files all lie on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from relay.results import Results, load
from relay.study import Study

if TYPE_CHECKING:
    from server.progress.events import Observer


def simulate(
    study: Study | str | os.PathLike[str],
    sites: Mapping[str, str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    progress: bool | Observer = True,
    at_once: int | None = None,
    keep_weights: bool = False,
) -> Results:
    """Run a study, or its missing rest, on hospitals of this machine, as `relay simulate` does.

    A study that was stopped goes on where it was when it is simulated again into the same folder.

    Args:
        study: the study, the path of its file, or the name of a study shipped with relay.
        sites: the site file of each of the study's sites, by the site's name.
        out: the result folder.
        progress: True writes what the command writes to standard output: live lines on a terminal, else plain lines;
            False writes nothing; a function is called with every `relay.Event`, from several threads.
        at_once: the most stages that run at the same time; by default as many as the cores allow.
        keep_weights: also keep weights needed by no row of the comparison.

    Returns:
        The results.

    Raises:
        Unfinished: a part of the study could not be finished; `load(out)` gives the results, which say which.
        RelayError: the study cannot begin, or had to stop; finished stages are kept.
    """
    from deploy.simulation.simulate import simulate as run

    plan = study if isinstance(study, Study) else Study.load(study)
    with _without_main():
        run(
            plan.settings,
            {name: Path(path) for name, path in sites.items()},
            Path(out),
            beside=plan.folder,
            at_once=at_once,
            keep_weights=keep_weights,
            quiet=progress is False,
            observe=progress if callable(progress) else None,
        )
    return load(out)


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep the sites' processes from running the caller's script again while the block runs.

    Python imports the script of the parent process into each process that it starts, for functions that are defined
    there; a script without `if __name__ == "__main__":` would then simulate within the simulation. A site's process
    needs nothing of the script.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script

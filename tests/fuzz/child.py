"""The process in which mutated files are read, under limits of memory, processor time and time.

    python -m tests.fuzz.child FORMAT FOLDER SEED [SEED …]

Reads the files of these seeds, all at one site, and leaves them in FOLDER. It says on stdout, a JSON object a
line, what it found: outcomes, and faults with their seeds. Seeds that end it are those of its last line.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = 2 << 30
"""Bytes of addresses; torch and SimpleITK take one gigabyte before anything is read."""
SECONDS = 20
"""Of processor time, and three times that of any time, for a batch."""

Tell = Callable[..., None]


def tell(**entry: object) -> None:
    print(json.dumps(entry), flush=True)


def limit_time() -> None:
    """From now on; a fresh allowance each time. Either signal ends the process, wherever it hangs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + SECONDS, most))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(3 * SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS - 5)  # so that it is seen where it hangs


class Watched:
    """What is counted of a batch, and what is wrong in it."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    @contextmanager
    def only(self, *allowed: type[Exception], seeds: list[int], what: str) -> Iterator[None]:
        """Whatever else is raised is a fault, and told; nothing of it stops the rest."""
        try:
            yield
        except allowed as error:
            self.outcomes["refused"] += 1
            if (wrong := unkind(str(error))) is not None:
                tell(fault=f"{what}: {wrong}: {error}", seeds=seeds)
        except Exception:
            tell(fault=f"{what}: {traceback.format_exc()}", seeds=seeds)


def unkind(sentence: str) -> str | None:
    """What is wrong with a sentence for the site's own eyes."""
    if not sentence.endswith(".") or not sentence.isprintable():
        return "it is no sentence"
    if len(sentence) > 2000:
        return "it is too long"
    if "itk::" in sentence or "Exception" in sentence or "Traceback" in sentence:
        return "it speaks of the program"
    return None


def main(kind: str, folder: Path, batches: list[list[int]]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    os.environ["TMPDIR"] = str(folder)
    from tests.fuzz import at_a_site, settings, wire

    run = {"toml": settings.run, "records": wire.run}.get(kind, at_a_site.run)
    for seeds in batches:
        limit_time()
        tell(begins=seeds)
        watched = Watched()
        run(kind, seeds, folder, watched)
        tell(ends=seeds, outcomes=watched.outcomes)


def empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    if sys.argv[3] == "-":  # batches come from the one who started it
        lines = json.loads(sys.stdin.readline())
    else:
        empty(Path(sys.argv[2]))
        lines = [[int(seed) for seed in sys.argv[3:]]]
    main(sys.argv[1], Path(sys.argv[2]), lines)

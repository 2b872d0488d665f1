"""The process in which mutated files are read, under limits of memory, processor time and time.

    python -m tests.fuzz.child FOLDER KIND SEED [SEED …]

Reads the files of these seeds, all at one site; those of a single one are left in FOLDER. It says on stdout, a JSON
object a line, what it found: outcomes, and faults with their seeds. Seeds that end it are those of its last line.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import RelayError

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
    def only(self, *allowed: type[Exception], seeds: list[int], what: str, sentence: bool = True) -> Iterator[None]:
        """Whatever else is raised is a fault, and told; nothing of it stops the rest."""
        try:
            yield
        except allowed as error:
            self.outcomes["refused"] += 1
            if sentence and (wrong := unkind(str(error))) is not None:
                tell(fault=f"{what}: {wrong}: {error}", seeds=seeds)
        except Exception:
            tell(fault=f"{what}: {traceback.format_exc()}", seeds=seeds)


def unkind(sentence: str) -> str | None:
    """What is wrong with a sentence for the site's own eyes."""
    printable = sentence.replace("\u202f", " ").isprintable()  # the space within great numbers is our own
    if not sentence.endswith((".", "?")) or not printable:
        return "it is no sentence"
    if len(sentence) > 2000:
        return "it is too long"
    if "itk::" in sentence or "Exception" in sentence or "Traceback" in sentence:
        return "it speaks of the program"
    return None


def main(folder: Path, batches: list[tuple[str, list[int]]]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    for kind, seeds in batches:
        limit_time()
        tell(begins=seeds, kind=kind)
        watched = Watched()
        _run_of(kind)(kind, seeds, folder / kind, watched)
        tell(ends=seeds, kind=kind, outcomes=watched.outcomes)


def _run_of(kind: str) -> Callable[[str, list[int], Path, Watched], None]:
    if kind == "planted":
        return _planted
    from tests.fuzz import at_a_site, settings, wire  # not before the limits stand

    return {"toml": settings.run, "records": wire.run}.get(kind, at_a_site.run)


def _planted(kind: str, seeds: list[int], folder: Path, watched: Watched) -> None:
    """Faults that have to be found, or nothing that is not found says anything."""
    for seed in seeds:
        with watched.only(RelayError, seeds=[seed], what=kind):
            match seed:
                case 3:
                    os.kill(os.getpid(), signal.SIGSEGV)
                case 5:
                    raise ValueError("an exception that nobody expects")
                case 7:
                    bytearray(MEMORY)
                case 9:
                    raise RelayError("It is no sentence")
                case 11:
                    signal.alarm(1)
                    time.sleep(60)
        watched.outcomes["read"] += 1


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if sys.argv[2] == "-":  # batches come from `tests.fuzz.runs`
        main(where, json.loads(sys.stdin.readline()))
    else:
        shutil.rmtree(where / sys.argv[2], ignore_errors=True)
        main(where, [(sys.argv[2], [int(seed) for seed in sys.argv[3:]])])

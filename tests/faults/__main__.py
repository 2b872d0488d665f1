"""Live histories by hand: `python -m tests.faults SEED` tells one, `python -m tests.faults FIRST LAST` tries many."""

from __future__ import annotations

import sys
import time

import pytest

from tests.faults.hospital import put_in_place
from tests.faults.trial import Trial, tried


def main(first: int, last: int | None = None) -> int:
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch)
        if last is None:
            trial = tried(first)
            print(trial.tale)
            return len(trial.complaints) > 0
        began, bad = time.process_time(), list[Trial]()
        for seed in range(first, last + 1):
            trial = tried(seed)
            if trial.complaints:
                bad.append(trial)
                print(trial.tale)
        seconds = time.process_time() - began
        print(f"{last + 1 - first} histories, {seconds:.0f} s; {len(bad)} went wrong: {[trial.seed for trial in bad]}")
    return len(bad) > 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))

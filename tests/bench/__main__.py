"""All benchmarks but the long one, as tables with the machine's processor: what `make bench` runs."""

from __future__ import annotations

import subprocess
import sys

# Each in a process of its own: one's threads, caches and memory are no business of the next.
PARTS = ("study", "hop", "deployed", "step", "preprocessing", "batch_norm")

if __name__ == "__main__":
    codes = [subprocess.run([sys.executable, "-m", f"tests.bench.{part}", *sys.argv[1:]]).returncode for part in PARTS]
    sys.exit(max(codes))

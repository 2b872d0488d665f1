"""A process whose clock is wrong: it reads the time of day through a library that adds what stands in a file.

Only the time of day is wrong, as on a real machine; waiting and measuring go by another clock. The certificates' dates
are compared by OpenSSL, which asks the C library, so changing Python's own functions would not do.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long off_by(void) {
    char text[32] = {0};
    const char *path = getenv("WRONG_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    long got = read(file, text, sizeof text - 1);
    close(file);
    return got > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t kind, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, kind, now);
    if (!failed && (kind == CLOCK_REALTIME || kind == CLOCK_REALTIME_COARSE)) now->tv_sec += off_by();
    return failed;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) { now->tv_sec = exact.tv_sec; now->tv_usec = exact.tv_nsec / 1000; }
    return 0;
}
"""


class WrongClock:
    """A clock that a test sets; skips the test where no C compiler is installed.

    Args:
        folder: where library and file are written.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler is installed here")
        folder.mkdir()
        self._library, self._file = folder / "wrong_clock.so", folder / "off-by"
        source = folder / "wrong_clock.c"
        source.write_text(LIBRARY, encoding="utf-8")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self._library, source, "-ldl"], check=True)
        self.set(0)

    def set(self, seconds: int) -> None:
        """Make the clock wrong by so many seconds, also in processes that run."""
        part = self._file.with_suffix(".part")
        part.write_text(str(seconds), encoding="ascii")
        part.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process, and what it starts, gets this clock."""
        return {"LD_PRELOAD": str(self._library), "WRONG_CLOCK": str(self._file)}

"""Flower's SuperNode of a hospital, which looks for the next order sooner than Flower's own while a study runs.

Flower's own asks the coordinator every 3 s and looks every half second whether an answer is ready. The next order
mostly comes just after an answer has gone, and is fetched at once here; a hospital that has had nothing to do for
a quarter of a minute asks as seldom as Flower's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from common.errors import RelayError
from deploy.flower import internals

SOONEST = 0.25
"""Seconds between two questions at the coordinator, at first."""
LOOK = 0.05
"""Seconds between two looks at whether an answer is ready, which ask nobody outside this process."""
AT_HAND = 1.0
"""Flower waits for less than this only for what this machine makes."""


def main() -> None:
    """Takes the arguments of `flower-supernode`."""
    internals.run_supernode(sleep=paced())


def paced(
    sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Callable[[float], None]:
    """Return the `sleep` that Flower's SuperNode gets: it never sleeps longer than it was asked to."""
    worked = clock()

    def rest(seconds: float) -> None:
        nonlocal worked
        if seconds < AT_HAND:
            worked = clock()
            sleep(min(seconds, LOOK))
        else:
            # So no wait is longer by more than a fifth than it had to be.
            sleep(min(seconds, max(SOONEST, (clock() - worked) / 5)))

    return rest


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))

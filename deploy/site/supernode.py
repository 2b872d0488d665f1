"""Run Flower's SuperNode at a hospital, and poll for the next order sooner than Flower does while a study runs.

Flower's SuperNode polls the coordinator every 3 s and looks every half second whether a reply is ready. The next order
mostly comes just after a reply has gone, and is fetched at once by this SuperNode. After a quarter of a minute without
work, this SuperNode polls as seldom as Flower's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from common.errors import RelayError
from deploy.flower import internals

SOONEST = 0.25
"""Seconds between two polls of the coordinator, just after work."""
LOOK = 0.05
"""Seconds between two looks whether a reply is ready; a look stays inside this process."""
AT_HAND = 1.0
"""Seconds; a shorter sleep of Flower's is always a wait for something on this machine."""


def main() -> None:
    """Run the SuperNode with the arguments of `flower-supernode`."""
    internals.run_supernode(sleep=paced())


def paced(
    sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Callable[[float], None]:
    """Return the sleep function for Flower's SuperNode, which never sleeps longer than asked.

    Args:
        sleep: sleeps for some seconds.
        clock: returns a time in seconds.
    """
    worked = clock()

    def rest(seconds: float) -> None:
        nonlocal worked
        if seconds < AT_HAND:
            worked = clock()
            sleep(min(seconds, LOOK))
        else:
            # A sleep lasts a fifth of the pause so far, and so an order after a pause is late by at most a fifth of the
            # pause.
            sleep(min(seconds, max(SOONEST, (clock() - worked) / 5)))

    return rest


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))

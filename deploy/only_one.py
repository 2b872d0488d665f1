"""Keep a program from being started twice on one folder, and name the process that runs already."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from common.errors import Locked
from common.locks import exclusive


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a program's lock while the block runs.

    A folder that this process may only read, as in a container, has no lock: its engine starts a program once.

    Args:
        path: the lock's file, which holds the number of the process.
        what: the program, as the beginning of a sentence, such as "The coordinator's gateway".

    Raises:
        Locked: another process holds the lock.
    """
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(path, wait=False))
        except BlockingIOError:
            raise Locked(
                f"{what} runs already, as process {_number(path)}; end that one first, or name another folder."
            ) from None
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
        else:
            path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield


def _number(path: Path) -> str:
    with suppress(OSError, ValueError):
        return str(int(path.read_text(encoding="ascii")))
    return "unknown"

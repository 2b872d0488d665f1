"""Runs the hospital's installed app for each message, in place of Flower's own `flwr-clientapp`.

Flower's command unpacks the bundle that the coordinator sent, and runs the code in it. This one unpacks nothing,
writes nothing and loads `client.app:app` of the installed package, whatever was sent. There is no list of approved
bundles: a list says which foreign code may run, and has to be kept and compared rightly; here none may, and what
the bundle holds, calls itself or hashes to decides nothing. The run's settings come from the coordinator too, and
are taken away before the app sees them. What the app does then, `client/stages/order.py` limits.

It puts functions of its own in the place of three names in Flower's module; `deploy.flower.internals` looks first
whether this is the Flower that it was tried with.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from common.errors import RelayError
from deploy.flower import internals
from deploy.flower.supervisor import LINUX, end_with_parent

if TYPE_CHECKING:
    from flwr.app import Context, Message

SLOW = 20.0
"""Seconds from which on the imports are worth a word; a machine of today needs 3."""
SAY_EVERY = 600.0
"""Seconds for which it is not said again."""
SLOW_NOTE = "RELAY_SLOW_NOTE"
"""The environment's name of the file in which `relay site start` looks for that word."""

NVIDIA = Path("/proc/driver/nvidia")
"""There where the driver of a graphics card is loaded."""


def main() -> None:
    """Import what an answer needs, and answer each message that standard input names with a line of JSON (see `Task`).

    Importing takes seconds and answering often less. So the imports are done once, and every message is answered by a
    process of its own, forked from this one, which itself never sees a message. Where a graphics card is there, whose
    driver cannot be forked, this process answers one message and ends.

    The line is no argument: everybody on the machine sees a process's arguments, and who holds the token may speak
    in its place. Standard input ends with the SuperExec, and this process with it. On standard output goes a line for
    each message whose process has ended: its exit code.
    """
    ends = standard_output()
    source = standard_input()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(source, lines), daemon=True).start()
    if LINUX:
        end_with_parent(signal.SIGKILL)  # also while an import holds all threads up
    began = time.monotonic()
    runtime = internals.client_runtime()
    internals.confine(runtime, lambda: installed_app())
    with suppress(Exception):  # `installed_app` says what is wrong, when there is somebody to say it to
        importlib.import_module("client.imports")
    say_if_slow(time.monotonic() - began)
    while True:
        task = Task(**json.loads(lines.get()))
        if not LINUX or NVIDIA.exists():
            return internals.answer_message(runtime, address=task.runtime_api_address, token=task.token)
        with warnings.catch_warnings():  # the other thread does nothing but read
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(ends)
            in_child(runtime, task, source)
        _, status = os.waitpid(child, 0)
        os.write(ends, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def in_child(runtime: ModuleType, task: Task, source: int) -> NoReturn:
    """Answer a message in the process that was forked for it, and end it."""
    code = 1
    try:
        end_with_parent(signal.SIGKILL)
        threading.Thread(target=listen, args=(source, queue.SimpleQueue()), daemon=True).start()
        internals.answer_message(runtime, address=task.runtime_api_address, token=task.token)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            logging.shutdown()
        os._exit(code)  # the parent's own affairs, such as files that it removes at its end, are not this process's


@dataclass(frozen=True)
class Task:
    """What `flower-superexec` knows of a message: where its SuperNode is, and the token for it."""

    runtime_api_address: str
    token: str


def standard_input() -> int:
    """Take standard input for this process alone: what it starts, and reads to the end, would wait for the parent's."""
    taken = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return taken


def standard_output() -> int:
    """Take standard output for this process alone; what is printed goes to standard error."""
    taken = os.dup(1)
    os.dup2(2, 1)
    return taken


def listen(source: int, lines: queue.SimpleQueue[bytes]) -> None:
    """Hand on what comes, line by line, and end this process when `source` ends.

    Not through `sys.stdin`: Python cannot end in order while a thread waits within it.
    """
    part = b""
    while data := os.read(source, 1 << 16):
        *whole, part = (part + data).split(b"\n")
        for line in whole:
            lines.put(line)
    os._exit(1)


def say_if_slow(seconds: float) -> None:
    """Say what the imports took, in the SuperExec's log and for `relay site start`, where that is unusually long."""
    if seconds < SLOW:
        return
    note = Path(os.environ.get(SLOW_NOTE, os.devnull))
    with suppress(OSError):
        if note.is_file() and abs(time.time() - note.stat().st_mtime) < SAY_EVERY:
            return
    load = f"{os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else "unknown"
    sentence = (
        f"This machine is slow: a process took {seconds:.0f} s to import what an answer needs, and 3 s are usual"
        f" (load {load} on {os.cpu_count()} processors). No order is lost, and answers take longer; end other programs,"
        " or give this machine more memory and processors."
    )
    print(sentence, file=sys.stderr, flush=True)
    with suppress(OSError):
        note.write_text(sentence, encoding="utf-8")


def installed_app() -> Callable[[Message, Context], Message]:
    """Return the installed app: without the coordinator's settings, and with no error of its own going out."""
    try:
        from client.app import app
        from client.governance.egress import scrub
    except Exception:
        # Its text could hold a path, and Flower sends texts on; of this error it sends a fixed one.
        traceback.print_exc()
        raise internals.app_not_loadable() from None

    def handle(message: Message, context: Context) -> Message:
        context.run_config = {}
        return scrub(message, context, app)

    return handle


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))

"""Run the hospital's installed app for each message, in place of Flower's own `flwr-clientapp`.

Flower's command unpacks the bundle that the coordinator sent and runs the code in it. This launcher unpacks nothing,
writes nothing and loads `client.app:app` of the installed package, whatever was sent. There is no list of approved
bundles: such a list says which foreign code may run, and has to be kept and compared correctly. Here no foreign code
may run, and the content, the name and the hash of the bundle decide nothing. The run's settings come from the
coordinator too, and are removed before the app sees them. `client/stages/order.py` limits what the app does with an
order.

The launcher replaces three functions in Flower's module; `deploy.flower.internals` first checks that the installed
Flower is of the series that was tested.
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
"""Seconds of importing from which on the machine is reported as slow; a present machine needs 3."""
SAY_EVERY = 600.0
"""Seconds for which the report is not repeated."""
SLOW_NOTE = "RELAY_SLOW_NOTE"
"""The environment variable that names the file in which `relay site start` looks for the report."""

NVIDIA = Path("/proc/driver/nvidia")
"""A folder that exists where the driver of a graphics card is loaded."""


def main() -> None:
    """Import what a reply needs, and answer each message that a JSON line of standard input names (see `Task`).

    Importing takes seconds, and answering often takes less. The imports are therefore done once, and every message is
    answered by a process forked from this one, which itself never sees a message. Where a graphics card is present,
    whose driver cannot be forked, this process answers one message itself and ends.

    The message is not named by an argument, because everybody on the machine sees the arguments of a process, and
    whoever holds the token can answer in its place. Standard input ends with the SuperExec, and this process ends with
    standard input. When the process of a message has ended, its exit code is written to standard output as one line.
    """
    ends = standard_output()
    source = standard_input()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(source, lines), daemon=True).start()
    if LINUX:
        end_with_parent(signal.SIGKILL)  # works even while an import blocks all threads
    began = time.monotonic()
    runtime = internals.client_runtime()
    internals.confine(runtime, lambda: installed_app())
    with suppress(Exception):  # `installed_app` reports the error when a message has to be answered
        importlib.import_module("client.imports")
    say_if_slow(time.monotonic() - began)
    while True:
        task = Task(**json.loads(lines.get()))
        if not LINUX or NVIDIA.exists():
            return internals.answer_message(runtime, address=task.runtime_api_address, token=task.token)
        with warnings.catch_warnings():  # forking is safe here: the other thread only reads
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(ends)
            in_child(runtime, task, source)
        _, status = os.waitpid(child, 0)
        os.write(ends, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def in_child(runtime: ModuleType, task: Task, source: int) -> NoReturn:
    """Answer a message in the process that was forked for it, and end the process.

    Args:
        runtime: the confined module of Flower's.
        task: the message.
        source: the descriptor of standard input; the process ends when it ends.
    """
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
        os._exit(code)  # skips the exit handlers, such as removing files, that belong to the parent


@dataclass(frozen=True)
class Task:
    """Hold what `flower-superexec` knows of a message: the address of its SuperNode and the token for it."""

    runtime_api_address: str
    token: str


def standard_input() -> int:
    """Reserve standard input for this process, and return its new descriptor.

    A process that this one starts, and that reads to the end, would else wait for the end of the parent's input.
    """
    taken = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return taken


def standard_output() -> int:
    """Reserve standard output for this process, and return its new descriptor; prints go to standard error."""
    taken = os.dup(1)
    os.dup2(2, 1)
    return taken


def listen(source: int, lines: queue.SimpleQueue[bytes]) -> None:
    """Pass on each line of `source`, and end this process when `source` ends.

    `sys.stdin` is not used, because Python cannot exit in order while a thread waits in it.

    Args:
        source: a descriptor.
        lines: gets each line, without its end.
    """
    part = b""
    while data := os.read(source, 1 << 16):
        *whole, part = (part + data).split(b"\n")
        for line in whole:
            lines.put(line)
    os._exit(1)


def say_if_slow(seconds: float) -> None:
    """Report imports that took unusually long, in the SuperExec's log and for `relay site start`.

    Args:
        seconds: the duration of the imports.
    """
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
    """Return the installed app, which gets none of the coordinator's settings and lets no error text of its own out.

    Raises:
        LoadClientAppError: the app cannot be imported; Flower answers this error with a fixed text.
    """
    try:
        from client.app import app
        from client.governance.egress import scrub
    except Exception:
        # Flower would send the error's text, which could hold a path. For the error raised here it sends a fixed text.
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

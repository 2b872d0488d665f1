"""Run the hospital's installed app for each message, in place of Flower's own `flwr-clientapp`.

Flower's command unpacks the coordinator's bundle and runs the bundle's code. This launcher unpacks and writes nothing
of a bundle, and loads `client.app:app` of the installed package, whatever bundle was sent. There is no list of approved
bundles: such a list says which foreign code may run, and has to be kept and compared correctly. Here no foreign code
may run, and the content, the name and the hash of the bundle decide nothing. The run's settings come from the
coordinator too, and are removed before the app is called. `client/stages/order.py` limits the app's work on an order.

The launcher replaces three functions in Flower's module; `deploy.flower.internals` first refuses every series of Flower
except the tested series.
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
from deploy.site import carried

if TYPE_CHECKING:
    from flwr.app import Context, Message

SLOW = 20.0
"""Seconds of importing from which on the machine is reported as slow; a present-day machine needs 3."""
SAY_EVERY = 600.0
"""The least number of seconds between two reports of a slow machine."""
SLOW_NOTE = "RELAY_SLOW_NOTE"
"""The environment variable with the path of the report's file, which `relay site start` reads."""

NVIDIA = Path("/proc/driver/nvidia")
"""A folder present where the driver of an NVIDIA graphics card is loaded."""


def main() -> None:
    """Import the modules for a reply, and answer each message named by a JSON line of standard input (see `Task`).

    Importing takes seconds, and answering often takes less. The imports are therefore done once, and every message is
    answered by a process forked from this process, which itself never sees a message. Where an NVIDIA card is present,
    whose driver cannot be forked, and on systems other than Linux, this process answers a single message itself and
    ends.

    The message is not named by an argument, because everybody on the machine sees the arguments of a process, and
    everybody with the token can answer the message. Standard input ends with the SuperExec, and this process ends with
    standard input. When the process of a message has ended, its exit code is written to standard output as a line.
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
    if carried.site_with_command() is None:
        with suppress(Exception):  # `installed_app` reports the error when a message has to be answered
            importlib.import_module("client.imports")
    say_if_slow(time.monotonic() - began)
    while True:
        task = Task(**json.loads(lines.get()))
        if not LINUX or NVIDIA.exists():
            return answer(runtime, task)
        with warnings.catch_warnings():  # forking is safe here: the other thread only reads
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(ends)
            in_child(runtime, task, source)
        _, status = os.waitpid(child, 0)
        os.write(ends, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def in_child(runtime: ModuleType, task: Task, source: int) -> NoReturn:
    """Answer a message in the process forked for the message, and end the process.

    Args:
        runtime: the confined module of Flower's.
        task: the message.
        source: the descriptor of standard input; the process ends when standard input ends.
    """
    code = 1
    try:
        end_with_parent(signal.SIGKILL)
        threading.Thread(target=listen, args=(source, queue.SimpleQueue()), daemon=True).start()
        answer(runtime, task)
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
        os._exit(code)  # skips the parent's exit handlers, which for instance remove files


@dataclass(frozen=True)
class Task:
    """Hold what `flower-superexec` says of a message."""

    runtime_api_address: str
    """HOST:PORT of the message's SuperNode."""
    token: str
    """The token of the message's claim."""
    authority: str
    """The file of the authority's certificate by which the SuperNode proves itself: whoever else listens at the address
    is answered nothing."""


def answer(runtime: ModuleType, task: Task) -> None:
    """Answer a message in this process.

    Args:
        runtime: the confined module of Flower's.
        task: the message.
    """
    internals.answer_message(
        runtime, address=task.runtime_api_address, token=task.token, authority=Path(task.authority)
    )


def standard_input() -> int:
    """Reserve standard input for this process, and return its new descriptor.

    Otherwise a child process reading its input to the end would wait for the end of the parent's input.
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

    `sys.stdin` is not used, because Python cannot exit in order while a thread waits for input from `sys.stdin`.

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
    """Report unusually slow imports, in the SuperExec's log and for `relay site start`.

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
    say(sentence)


def say(sentence: str) -> None:
    """Write a sentence to the SuperExec's log, and note it for `relay site start` to print.

    Args:
        sentence: what the hospital should know.
    """
    print(sentence, file=sys.stderr, flush=True)
    with suppress(OSError):
        Path(os.environ.get(SLOW_NOTE, os.devnull)).write_text(sentence, encoding="utf-8")


def installed_app() -> Callable[[Message, Context], Message]:
    """Return the installed app, or what has the site's own command run the installed app (`deploy.site.carried`).

    Raises:
        LoadClientAppError: the app cannot be imported; Flower answers this error with a fixed text.
    """
    if site := carried.site_with_command():
        return lambda message, context: carried.answer_by_command(site, message)
    return app_alone()


def app_alone() -> Callable[[Message, Context], Message]:
    """Return the installed app; the app gets none of the coordinator's settings, and none of its error texts leaves.

    Raises:
        LoadClientAppError: the app cannot be imported; Flower answers this error with a fixed text.
    """
    try:
        from client.app import app
        from client.governance.egress import scrub
    except Exception:
        # Flower would send the error's text, which could hold a path. For the error raised here Flower sends a fixed
        # text.
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

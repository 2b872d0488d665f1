"""From the words after `relay` to an exit code: what a user is told of help, errors and stops."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from common.errors import GO_ON, DiskFull, FaultsFound, RelayError
from deploy.cli.commands import PROGRAM, Call, root

CODES = {
    "file": "A file or folder cannot be read or written.",
    "internal": "An error of relay's own; `relay --debug COMMAND` shows its traceback.",
    "interrupted": "The command was stopped by Ctrl-C; what was finished is kept.",
    "out-of-memory": "There is not enough memory; what was finished is kept.",
}
"""The codes of errors that are no `RelayError`, and what each means."""

COMPLETION = f"_{PROGRAM.upper()}_COMPLETE"
"""The variable in which a shell asks how a word may go on."""
CALLED_AS = "RELAY_CALLED_AS"
"""Environment variable: what a person typed for this command to be run, where that was another command."""


def run(argv: Sequence[str]) -> int:
    """Run a command and end as a program does; see `deploy.cli.main`.

    Where a command fails or is stopped, its sentence goes to standard error and the process ends in here.
    """
    _write_whatever_takes_it()
    call = Call(tuple(argv))
    try:
        code = invoke(call)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        _end(stop, str(stop) or "Stopped.", 130, call)
    except BrokenPipeError:
        # The reader, such as `head`, has gone; Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if call.debug:
            error.add_note(f"Error code: {error_code(error)}")
            raise
        called = os.environ.get(CALLED_AS) or call.line
        _end(error, error_text(error).replace(GO_ON, f"run `{called}` to go on"), 1, call)


def invoke(call: Call) -> int:
    """Run a command; returns its exit code. Its errors are raised, except those of the call itself."""
    if os.environ.get(COMPLETION):
        root().main(prog_name=PROGRAM)  # answers the shell and ends the process
    words = list(call.words) or ["--help"]
    if words[0] == "help":
        words = [*words[1:], "--help"]
    try:
        with root().make_context(PROGRAM, words, obj=call) as context:
            return int(root().invoke(context))
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        print(usage_text(error), file=sys.stderr, flush=True)
        return 2


def usage_text(error: click.UsageError) -> str:
    """Return what a user is told of a wrong call: one line, with the command that shows the right one."""
    called = error.ctx.command_path if error.ctx else PROGRAM
    message = " ".join(error.format_message().split()).rstrip(".")
    end = "" if message.endswith("?") else ";"
    return f"{called}: {message[:1].lower()}{message[1:]}{end} `{called} --help` says what it takes."


def error_text(error: Exception) -> str:
    """Return what a user is told of an error that a command ended with."""
    if isinstance(error, RelayError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" that holds {error.filename}" if error.filename else ""
        return f"The disk{where} is full; make room and start again: what is finished is kept."
    if isinstance(error, MemoryError):
        return "There is not enough memory; end other programs or use a machine with more: what is finished is kept."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be read or written ({error.strerror}); check the path and its rights."
    return f"Internal error ({type(error).__name__}). Run the command again with --debug and report the traceback."


def error_code(error: BaseException) -> str:
    """Return the code of an error that a command ended with; docs/reference/error-codes.md lists them."""
    if isinstance(error, RelayError):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFull.code
    if isinstance(error, MemoryError):
        return "out-of-memory"
    return "file" if isinstance(error, OSError) and error.filename else "internal"


def _write_whatever_takes_it() -> None:
    """Output that is closed, or a terminal without arrows, shall not end a study."""
    # A file that is opened later would else become standard output.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _end(error: BaseException, sentence: str, code: int, call: Call) -> NoReturn:
    """Say why, and end at once. With --json a script also reads it on standard output.

    A study that is stopped leaves threads that wait for answers. Python would tear them down while they are in
    torch's own code, which aborts the process now and then.
    """
    message = " ".join(sentence.split())
    print(message, file=sys.stderr, flush=True)
    with suppress(OSError, ValueError):
        # An inspection has printed its own answer already, and standard output holds one JSON value.
        if "--json" in call.words and not isinstance(error, FaultsFound):
            print(json.dumps({"error": {"code": error_code(error), "message": message}}))
        sys.stdout.flush()
    os._exit(code)

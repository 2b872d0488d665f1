"""Turn the words after `relay` into an exit code, and print help, errors and stops for the user."""

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
"""The codes of errors other than `RelayError`, and the codes' meanings."""

COMPLETION = f"_{PROGRAM.upper()}_COMPLETE"
"""The environment variable in which a shell asks for completions of a word."""
CALLED_AS = "RELAY_CALLED_AS"
"""The environment variable with the command typed by a person, such as `make demo`, if another command started
relay."""


def run(argv: Sequence[str]) -> int:
    """Run a command and end as a program does.

    If the command fails or is stopped, its sentence goes to standard error and the process ends in this function.

    Args:
        argv: the words after `relay`.

    Returns:
        The exit code; see `deploy.cli.main`.

    Raises:
        Exception: the error of the command, with a note of its code, where --debug was given.
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
        # The reader of standard output, such as `head`, has gone. Python would report the broken pipe again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if call.debug:
            error.add_note(f"Error code: {error_code(error)}")
            raise
        called = os.environ.get(CALLED_AS) or call.line
        _end(error, error_text(error).replace(GO_ON, f"run `{called}` to go on"), 1, call)


def invoke(call: Call) -> int:
    """Run a command, and raise its errors, except wrong calls.

    Args:
        call: the words after `relay`.

    Returns:
        The exit code; 2 for a wrong call, which is explained on standard error.
    """
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
    """Explain a wrong call in a single line, with the command for help."""
    called = error.ctx.command_path if error.ctx else PROGRAM
    message = " ".join(error.format_message().split()).rstrip(".")
    end = "" if message.endswith("?") else ";"
    return f"{called}: {message[:1].lower()}{message[1:]}{end} `{called} --help` says what it takes."


def error_text(error: Exception) -> str:
    """Explain an error of a command to the user in a sentence."""
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
    """Return the code of an error of a command; docs/reference/error-codes.md lists the codes."""
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
    """Keep a study running where standard output is closed, or a terminal cannot show arrows."""
    # If a standard stream stayed closed, the next opened file would get the stream's number.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _end(error: BaseException, sentence: str, code: int, call: Call) -> NoReturn:
    """Print why a command ended, and end the process at once; with --json also print the error as JSON.

    The process is not ended by `sys.exit`: a stopped study leaves threads waiting for replies, and Python would tear
    down these threads while they run torch's code, which aborts the process now and then.
    """
    message = " ".join(sentence.split())
    print(message, file=sys.stderr, flush=True)
    with suppress(OSError, ValueError):
        # After `FaultsFound` the answer is printed already, and standard output may hold one JSON value only.
        if "--json" in call.words and not isinstance(error, FaultsFound):
            print(json.dumps({"error": {"code": error_code(error), "message": message}}))
        sys.stdout.flush()
    os._exit(code)

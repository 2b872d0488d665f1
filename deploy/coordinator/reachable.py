"""Find out before a start whether the coordinator's ports can be taken, and afterwards whether its programs answer."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from contextlib import closing
from pathlib import Path

from common.errors import RelayError

FREED_WITHIN = 2.0
"""Seconds within which a port becomes free whose program has just been ended."""
ANSWER_WITHIN = 5.0
"""Seconds within which a program on this machine has to answer, and a name has to lead to it."""


def check_port(host: str, port: int, what: str, change: str) -> None:
    """Refuse a start for which a port is wanted that this process cannot take.

    Args:
        host: the address to listen on: "0.0.0.0" for all of this machine's.
        port: the port.
        what: what wants the port, such as "the gateway".
        change: the command by which the coordinator gets another port.

    Raises:
        RelayError: the port is in use, or this user may not take it.
    """
    until = time.monotonic() + FREED_WITHIN
    while True:
        try:
            return _bind(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(0.2)
                continue
            if error.errno == errno.EADDRINUSE:
                reason = "another program on this machine has taken it: end that program"
            elif error.errno in (errno.EACCES, errno.EPERM):
                reason = (
                    f"a port below 1024 is root's, and this is user {os.geteuid()}: start it as a service"
                    " (relay coordinator service)"
                )
            else:
                reason = f"{error.strerror}: correct the address"
            raise RelayError(
                f"Port {port} cannot be used for {what}; {reason}, or choose another port: {change}."
            ) from None


def _bind(host: str, port: int) -> None:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as nginx and uvicorn do
        probe.bind((host, port))
        probe.listen()  # a bound port is free to be bound again until somebody listens


def trouble_with(host: str, port: int, *, name: str, ca: Path) -> str:
    """Dial a program as others do, and say what is wrong; empty if it answers with its certificate.

    Args:
        host: the name or address to dial.
        port: the port.
        name: the name that its certificate has to hold.
        ca: the authority that has to have signed the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    try:
        with (
            socket.create_connection((host, port), timeout=ANSWER_WITHIN) as connection,
            context.wrap_socket(connection, server_hostname=name),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f"what answers shows another certificate ({error.verify_message})"
    except (socket.gaierror, TimeoutError) as error:
        return "no answer in time" if isinstance(error, TimeoutError) else "the name cannot be resolved"
    except OSError as error:
        return error.strerror or type(error).__name__


def last_words(log: Path | None) -> str:
    """Return the line of a program's log in which the program says what ended it; empty if there is none.

    It is the last line. Of nginx it is the last one marked as an emergency: the line after it names the settings file.
    """
    if log is None or not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return next((line for line in reversed(lines[-4:]) if "[emerg]" in line), lines[-1] if lines else "").strip()

"""Flower's SuperLink, with a database that waits its turn.

The SuperLink reads before it writes within one transaction of SQLite. If somebody else has written in between, SQLite
refuses at once ("database is locked"), however long it was told to wait, and the request fails with HTTP 500. Flower
does not try such a request again: an answer of a hospital is dropped, and the study's program loses its heartbeat and
is taken for dead a minute later. Three hospitals that answer at the same time are enough for it. Here every
transaction takes its turn at its beginning, as SQLAlchemy's manual describes for SQLite; no name of Flower's is
replaced.
"""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy import Connection, Engine, event

from common.errors import RelayError
from deploy.flower import internals

WAIT = 60_000
"""Milliseconds for which a transaction waits for its turn."""


def take_turns() -> None:
    """For every database that this process opens from now on."""

    @event.listens_for(Engine, "connect")
    def leave_beginning_to_us(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(Engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {WAIT}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


if __name__ == "__main__":
    take_turns()
    try:
        internals.run_superlink()
    except RelayError as error:
        sys.exit(str(error))

"""Run Flower's SuperLink, with SQLite transactions made to wait for the lock.

Within a transaction of SQLite, the SuperLink reads before writing. If another process has written in between, SQLite
refuses at once ("database is locked"), whatever busy timeout is set, and the request fails with HTTP 500. Flower does
not repeat such a request: a hospital's reply is dropped, and the ServerApp of a study loses its heartbeat and is taken
for dead a minute later. Simultaneous replies of three hospitals are enough to cause such a failure. In this module
every transaction takes the write lock at its beginning, as SQLAlchemy's manual describes for SQLite; no name of
Flower's is replaced.
"""

from __future__ import annotations

import sys
from typing import Any

from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, event

from common.errors import RelayError
from deploy.flower import internals

WAIT = 60_000
"""Milliseconds for which a transaction waits for the lock."""


def take_turns() -> None:
    """Make every transaction of a database opened from now on take the write lock at its beginning."""

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
    except CommandError as error:
        sys.exit(
            f"The SuperLink's database was written by another Flower than the one installed here ({error}); install"
            " that one again, or move the database away: hospitals are made known to a new one, and studies go on from"
            " what is finished."
        )

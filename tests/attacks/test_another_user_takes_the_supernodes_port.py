"""Another user of the hospital's machine listens where the site's SuperNode is about to, and gives orders in its place.

The port stands in the arguments of the site's programs, which every user of the machine can read, and the SuperNode
takes it seconds later, after its imports. The site's SuperExec has to find out that somebody else answers there.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.federation import Federation, wait_for
from tests.support.hospitals import write_hospitals
from tests.support.other_user import as_another_user, needs_another_user
from tests.support.supernode import listening_at, supernode

pytestmark = [
    needs_another_user,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the attacker reads the arguments in /proc"),
]


def runtime_port(hospital: Path) -> int | None:
    """The port that a hospital's SuperNode was told to take, as every user of the machine can read."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "deploy.site.supernode" in words and any(word.startswith(str(hospital)) for word in words):
                return int(words[words.index("--port") + 1])
    return None


def noting(accept: Callable[[socket.socket], Any], note: Path) -> Callable[[socket.socket], Any]:
    """`accept` of a socket, which leaves a file behind once somebody has dialled."""

    def noted(listening: socket.socket) -> Any:
        connection = accept(listening)
        note.touch()
        return connection

    return noted


@pytest.mark.parametrize("tls", [True, False], ids=["with a certificate of its own", "without TLS"])
@pytest.mark.slow
def test_who_takes_the_supernodes_port_gives_no_orders(tmp_path: Path, tls: bool) -> None:
    sites = write_hospitals(tmp_path / "hospitals", {"A": 1})
    loot = tmp_path / "loot"
    loot.mkdir(mode=0o777)
    loot.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)  # pytest's folders are root's alone

    def attack() -> None:
        while (port := runtime_port(tmp_path)) is None:
            time.sleep(0.002)
        taken = listening_at(port)  # at once: the SuperNode comes as soon as it has imported all
        with supernode(listening=taken, tls=tls, secret=None) as node:
            (loot / "listening").touch()
            node.order()
            socket.socket.accept = noting(socket.socket.accept, loot / "dialled")  # type: ignore[method-assign]
            while not node.started() and not node.answered():
                time.sleep(0.05)
            (loot / "obeyed").touch()
            time.sleep(600)

    with as_another_user(attack), Federation(tmp_path, sites) as federation:
        federation.start("A")
        wait_for(lambda: (loot / "listening").exists(), seconds=60, told=federation.told)
        wait_for(lambda: (loot / "dialled").exists(), seconds=120, told=federation.told)
        time.sleep(5)  # an obedient launcher has asked for the order by then, and its claim is noted at once
        assert not (loot / "obeyed").exists(), "a stranger's order was taken\n" + federation.told()
        assert "ended (exit code" in federation.said("A"), "the port was the stranger's, or this test shows nothing"

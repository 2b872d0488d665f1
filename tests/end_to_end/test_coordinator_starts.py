"""`relay coordinator start` says "Up" when others are answered, and what is wrong while they are not."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.site_config import load_site
from deploy.coordinator import enroll
from deploy.coordinator.folder import Coordinator
from deploy.flower.supervisor import a_free_port
from deploy.site import keys
from tests.support.federation import RELAY, wait_for
from tests.support.hospitals import write_hospitals

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed here"),
]


def set_up(folder: Path, *, host: str = "localhost") -> Coordinator:
    made = Coordinator(folder)
    enroll.set_up(
        made, host=host, port=a_free_port(), superlink=f"127.0.0.1:{a_free_port()}", health_port=a_free_port()
    )
    return made


@contextmanager
def started(coordinator: Coordinator, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    with out.open("wb") as file:
        process = subprocess.Popen(
            [*RELAY, "coordinator", "start", "--dir", str(coordinator.folder)], stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def start(coordinator: Coordinator) -> subprocess.CompletedProcess[str]:
    """One that is refused."""
    command = [*RELAY, "coordinator", "start", "--dir", str(coordinator.folder)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)


def test_two_on_one_machine_are_up_and_neither_starts_twice(tmp_path: Path) -> None:
    """One of them in a folder whose name has spaces and quotes."""
    one, two = set_up(tmp_path / "one"), set_up(tmp_path / 'the other\'s, with "spaces"')
    with started(one, tmp_path / "1") as first, started(two, tmp_path / "2"):
        for out, coordinator in (("1", one), ("2", two)):
            up = f"Up: the gateway answers at localhost:{coordinator.settings().port}; hospitals can connect."
            wait_for(
                lambda out=out, up=up: up in (tmp_path / out).read_text(encoding="utf-8"),
                seconds=150,
                told=lambda out=out: (tmp_path / out).read_text(encoding="utf-8"),
            )
        again = start(one)
        assert again.returncode == 1
        assert f"runs already, as process {first.pid};" in again.stderr
    assert "Stopped." in (tmp_path / "1").read_text(encoding="utf-8")


def test_a_port_in_use_is_told_at_once_and_can_be_changed(tmp_path: Path) -> None:
    coordinator = set_up(tmp_path / "c")
    (site,) = write_hospitals(tmp_path / "hospitals", {"A": 1}).values()
    _, request, path = keys.init(site, name="A")
    _, kit = enroll.enroll(coordinator, "A", path, heard=request.fingerprint)
    keys.join(site, kit)
    for setting, option in (("port", "--port"), ("superlink", "--superlink"), ("health_port", "--health-port")):
        port = str(getattr(coordinator.settings(), setting)).rpartition(":")[2]
        with socket.create_server(("127.0.0.1", int(port))):
            refused = start(coordinator)
        assert refused.returncode == 1
        assert re.search(
            f"Port {port} cannot be used for the .*another program.*--change .*{option} [0-9.:]*PORT", refused.stderr
        )
    new = a_free_port()
    command = [*RELAY, "enroll", "coordinator", "--change", "--host", "127.0.0.1", "--port", str(new)]
    done = subprocess.run([*command, "--dir", str(coordinator.folder)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert str(kit) in done.stdout
    keys.join(site, kit)
    assert (keys.admission(load_site(site)).kit.host, keys.admission(load_site(site)).kit.port) == ("127.0.0.1", new)
    with started(coordinator, tmp_path / "out"):
        wait_for(lambda: f"answers at 127.0.0.1:{new}" in (tmp_path / "out").read_text(encoding="utf-8"), seconds=150)


def test_what_nginx_complains_of_is_on_the_terminal_and_a_name_that_leads_nowhere_too(tmp_path: Path) -> None:
    coordinator = set_up(tmp_path / "c", host=f"{'a' * 60}.hospital.invalid")
    conf = coordinator.gateway / "nginx.conf"
    good = conf.read_text(encoding="utf-8")
    conf.write_text(good.replace("server_tokens off;", "server_tokens off; nonsense on;"), encoding="utf-8")

    def said() -> str:
        return (tmp_path / "out").read_text(encoding="utf-8")

    with started(coordinator, tmp_path / "out"):
        wait_for(lambda: 'unknown directive "nonsense"' in said(), seconds=150, told=said)
        assert "Up" not in said()
        conf.write_text(good, encoding="utf-8")
        wait_for(lambda: "Up: the gateway answers" in said(), seconds=150, told=said)
        assert "cannot be reached (the name cannot be resolved)" in said()

"""A port that cannot be taken is told before the start; a program is up once it answers with its own certificate."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import Locked, RelayError
from deploy.coordinator import reachable
from deploy.coordinator.folder import Coordinator, Settings
from deploy.coordinator.reachable import check_port, last_words, trouble_with
from deploy.coordinator.start import _check_ports
from deploy.flower.supervisor import a_free_port
from deploy.only_one import only_one
from deploy.pki.certificates import make_ca, make_server, new_key, pem, pem_of_key
from tests.support.other_user import as_another_user, needs_another_user


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "FREED_WITHIN", 0.1)


def test_a_port_in_use_is_named_with_the_command_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            RelayError, match=f"^Port {port} cannot be used for the gateway; another .* port: relay x.$"
        ):
            check_port("127.0.0.1", port, "the gateway", "relay x")
    check_port("127.0.0.1", port, "the gateway", "relay x")


def test_the_command_that_changes_a_port_names_the_coordinators_folder_and_its_superlink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        settings = Settings(host="fl.example.org", port=443, superlink=f"superlink:{taken.getsockname()[1]}")
        for name, told in (("relay-coordinator", ""), ("second one", f" --dir '{tmp_path}/second one'")):
            change = f"relay enroll coordinator --change{told} --superlink superlink:PORT."
            with pytest.raises(RelayError, match=f"{re.escape(change)}$"):
                _check_ports(Coordinator(tmp_path / name), settings, ["superlink"])


@needs_another_user
def test_a_port_below_1024_is_told_to_whoever_may_not_take_it(tmp_path: Path) -> None:
    limit = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if limit.exists() and int(limit.read_text(encoding="ascii")) <= 81:
        pytest.skip("every user of this machine may take every port")
    tmp_path.chmod(0o777)
    (tmp_path / "said").touch()
    (tmp_path / "said").chmod(0o666)
    said = os.open(tmp_path / "said", os.O_WRONLY)

    def attempt() -> None:
        try:
            check_port("127.0.0.1", 81, "the gateway", "relay x")
        except RelayError as error:
            os.write(said, str(error).encode())

    with as_another_user(attempt) as child:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert "a port below 1024 is root's, and this is user 65534" in (tmp_path / "said").read_text(encoding="utf-8")


@contextmanager
def program(folder: Path, name: str) -> Iterator[int]:
    """One that answers with a certificate of this name, whose authority is `folder`/ca.crt."""
    ca_key, key = new_key(), new_key()
    ca = make_ca("it", ca_key)
    (folder / "ca.crt").write_bytes(pem(ca))
    (folder / "both.pem").write_bytes(pem_of_key(key) + pem(make_server([name], key, ca=ca, ca_key=ca_key)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    context.wrap_socket(listening.accept()[0], server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_a_program_is_up_once_it_answers_with_its_own_certificate(tmp_path: Path) -> None:
    long = "a" * 60 + ".hospital.example.org"
    with program(tmp_path, long) as port:
        assert trouble_with("127.0.0.1", port, name=long, ca=tmp_path / "ca.crt") == ""
        other = trouble_with("127.0.0.1", port, name="other", ca=tmp_path / "ca.crt")
        assert other.startswith("what answers shows another certificate")
        assert trouble_with("no-such-name.invalid", port, name=long, ca=tmp_path / "ca.crt") == (
            "the name cannot be resolved"
        )
    free = a_free_port()
    assert trouble_with("127.0.0.1", free, name=long, ca=tmp_path / "ca.crt") == "Connection refused"


def test_what_ended_a_program_is_the_last_line_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == last_words(None) == ""
    log.write_text("x\n" * 9000 + "nginx: [emerg] bind() failed\n\n", encoding="utf-8")
    assert last_words(log) == "nginx: [emerg] bind() failed"


def test_a_program_started_twice_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    with (
        only_one(tmp_path / "lock", "Site A"),
        pytest.raises(Locked, match=f"^Site A runs already, as process {os.getpid()}; end that one first"),
        only_one(tmp_path / "lock", "Site A"),
    ):
        pass
    with only_one(tmp_path / "lock", "Site A"):
        pass

"""Clocks that are hours apart are named as the cause, with both times, wherever they are noticed."""

from __future__ import annotations

import datetime
import re
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from client.site_config import load_site
from common.errors import RelayError
from deploy.coordinator import enroll
from deploy.coordinator.folder import Coordinator
from deploy.coordinator.start import start
from deploy.pki import certificates
from deploy.site import keys
from deploy.site.start import LOOPBACK_CA, LOOPBACK_CERTIFICATE, _write_loopback_certificate
from deploy.site.tunnel import outward_context, trouble_of, trouble_of_status
from tests.deploy.site.test_tunnel import Gateway, Papers
from tests.support.hospitals import write_hospitals

SetClock = Callable[[float], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Put the clock by which certificates are made and read so many hours ahead."""
    real = datetime.datetime.now(datetime.UTC)

    def put(hours: float) -> None:
        monkeypatch.setattr(certificates, "_now", lambda: real + datetime.timedelta(hours=hours))

    return put


def test_a_kit_made_by_a_clock_that_is_ahead_is_not_taken_and_the_clock_is_named(
    set_clock: SetClock, tmp_path: Path
) -> None:
    (site,) = write_hospitals(tmp_path / "hospitals", {"A": 1}).values()
    coordinator = Coordinator(tmp_path / "coordinator")
    set_clock(5.0)
    enroll.set_up(coordinator, host="localhost", port=8443, superlink="localhost:8000", health_port=8444)
    _, request, path = keys.init(site, name="A")
    _, kit = enroll.enroll(coordinator, "A", path, heard=request.fingerprint)
    set_clock(0.0)
    said = "The certificate of site A is valid from .* UTC on, and this machine's clock shows .* UTC: this clock, or"
    with pytest.raises(RelayError, match=said):
        keys.join(site, kit)
    assert not (load_site(site).folder / "keys" / "kit.json").exists()
    set_clock(4.5)  # within the hour by which clocks may differ
    keys.join(site, kit)
    assert keys.admission(load_site(site)).days_left > 800
    set_clock(-3.0)  # a clock that was put back after that
    with pytest.raises(RelayError, match=said):
        keys.admission(load_site(site))
    with pytest.raises(RelayError, match=r"server\.crt is valid from .* UTC on, and this machine's clock shows"):
        start(coordinator, ["superlink"])


def test_a_gateway_whose_certificate_is_not_valid_yet_is_told_with_this_machines_time(
    set_clock: SetClock, tmp_path: Path
) -> None:
    set_clock(3.0)
    papers = Papers(tmp_path)
    gateway = Gateway(papers)
    context = outward_context(certificates.pem(papers.ca).decode(), tmp_path / "site.crt", tmp_path / "site.key")
    with (
        socket.create_connection(("127.0.0.1", gateway.server_port), timeout=10) as connection,
        pytest.raises(ssl.SSLCertVerificationError) as found,
    ):
        context.wrap_socket(connection, server_hostname="localhost")
    gateway.shutdown()
    told = trouble_of(found.value, "gateway:443")
    assert "gateway:443 is not valid yet by this machine's clock, which shows 20" in told and "is wrong" in told


@pytest.mark.parametrize(
    ("hours", "said"),
    [(3.0, "3 h ahead of"), (-2.5, "2 h (29|30) min behind"), (0.01, "3[5678] s ahead of"), (-0.01, "")],
)
@pytest.mark.parametrize("name", ["Date", "date"])
def test_the_difference_of_the_clocks_is_read_off_an_answer(hours: float, said: str, name: str) -> None:
    """Flower takes no request that is 5 s in its future or 5 min in its past, and says nothing but 401."""
    date = formatdate(time.time() - 3600 * hours, usegmt=True)
    answer = f"HTTP/1.1 401 Unauthorized\r\nserver: nginx\r\n{name}: {date}\r\n\r\n".encode()
    told = trouble_of_status("401", answer, "x:1").lasting
    if said:
        assert re.search(f"it is {said} the coordinator's", told), told
        assert "set right the clock that is wrong" in told
    else:
        assert told.startswith("The coordinator does not know this site's key")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 401 Unauthorized\r\n\r\n", b"HTTP/1.1 401 X\r\nDate: yesterday\r\n\r\n"])
def test_an_answer_without_a_date_says_nothing_of_clocks_with_certainty(answer: bytes) -> None:
    assert "or this machine's clock is wrong" in trouble_of_status("401", answer, "x:1").lasting


def test_a_refused_certificate_may_be_one_that_is_not_valid_yet() -> None:
    page = b"\r\n\r\n<title>400 The SSL certificate error</title>"
    for hours, more in ((0, False), (4, True)):
        head = f"HTTP/1.1 400 Bad Request\r\nDate: {formatdate(time.time() - 3600 * hours, usegmt=True)}".encode()
        told = trouble_of_status("400", head + page, "x:1").lasting
        assert "it has expired or was revoked" in told
        assert ("a certificate that is not valid yet is not taken either" in told) == more


def test_a_clock_that_is_put_back_while_a_site_runs_does_not_part_its_own_programs(tmp_path: Path) -> None:
    _write_loopback_certificate(tmp_path)
    for name in (LOOPBACK_CA, LOOPBACK_CERTIFICATE):
        begins = certificates.read_certificate(tmp_path / name).not_valid_before_utc
        assert begins.year < 2020

"""The hospital's own end of the door: bytes go through with its certificate, and troubles come in plain words."""

from __future__ import annotations

import http.client
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.flower.supervisor import a_free_port
from deploy.pki.certificates import make_ca, make_client, make_server, new_key, pem, pem_of_key, write_private
from deploy.site.start import Words
from deploy.site.tunnel import Contact, Trouble, Tunnel, inward_context, outward_context, trouble_of_status


@dataclass
class Papers:
    """Certificates of a coordinator, a hospital and the hospital's loopback."""

    folder: Path

    def __post_init__(self) -> None:
        self.ca_key, self.clients_key = new_key(), new_key()
        self.ca, self.clients = make_ca("servers", self.ca_key), make_ca("clients", self.clients_key)
        self.leaf("gateway", make_server(["localhost"], key := new_key(), ca=self.ca, ca_key=self.ca_key), key)
        self.leaf("elsewhere", make_server(["other"], key := new_key(), ca=self.ca, ca_key=self.ca_key), key)
        self.leaf("loopback", make_server(["127.0.0.1"], key := new_key(), ca=self.ca, ca_key=self.ca_key), key)
        key = new_key()
        self.leaf("site", make_client("A", key.public_key(), ca=self.clients, ca_key=self.clients_key), key)
        write_private(self.folder / "clients-ca.crt", pem(self.clients))

    def leaf(self, name: str, certificate: Any, key: Any) -> None:
        write_private(self.folder / f"{name}.crt", pem(certificate))
        write_private(self.folder / f"{name}.key", pem_of_key(key))


class Gateway(http.server.ThreadingHTTPServer):
    """Answers with what it was sent and who sent it, over mutual TLS."""

    def __init__(self, papers: Papers, name: str = "gateway") -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                who = dict(pair[0] for pair in self.connection.getpeercert()["subject"])["commonName"]  # type: ignore[attr-defined]
                status = int(self.path.strip("/"))
                answer = f"{who}:".encode() + body
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(papers.folder / f"{name}.crt", papers.folder / f"{name}.key")
        context.load_verify_locations(papers.folder / "clients-ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def gateway(papers: Papers) -> Iterator[Gateway]:
    made = Gateway(papers)
    yield made
    made.shutdown()


def tunnel(papers: Papers, port: int, host: str = "localhost") -> Tunnel:
    folder = papers.folder
    made = Tunnel(
        host,
        port,
        outward=outward_context(pem(papers.ca).decode(), folder / "site.crt", folder / "site.key"),
        inward=inward_context(folder / "loopback.crt", folder / "loopback.key"),
    )
    made.start()
    return made


def post(papers: Papers, through: Tunnel, path: str, body: bytes) -> tuple[int, bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem(papers.ca).decode())
    connection = http.client.HTTPSConnection("127.0.0.1", through.port, context=context, timeout=30)
    connection.request("POST", path, body)
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


def test_a_body_of_any_size_comes_through_whole_with_the_sites_certificate(papers: Papers, gateway: Gateway) -> None:
    through = tunnel(papers, gateway.server_port)
    for size in (0, 1, 65_536, 20_000_000):
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert post(papers, through, "/200", body) == (200, b"A:" + body)
    assert through.contact.heard and not through.contact.trouble
    through.stop()


def test_many_at_once_do_not_mix(papers: Papers, gateway: Gateway) -> None:
    through = tunnel(papers, gateway.server_port)
    found: dict[int, bytes] = {}

    def ask(number: int) -> None:
        found[number] = post(papers, through, "/200", str(number).encode() * 50_000)[1]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: b"A:" + str(number).encode() * 50_000 for number in range(12)}
    through.stop()


def trouble(papers: Papers, through: Tunnel, path: str = "/200") -> str:
    with pytest.raises((OSError, http.client.HTTPException)):
        post(papers, through, path, b"")
    until = time.monotonic() + 5
    while not through.contact.trouble and time.monotonic() < until:
        time.sleep(0.01)
    through.stop()
    return through.contact.trouble.lasting if through.contact.trouble else ""


def test_a_gateway_that_is_not_there_is_told(papers: Papers) -> None:
    assert "cannot be reached" in trouble(papers, tunnel(papers, a_free_port()))


def test_a_name_that_leads_nowhere_is_told(papers: Papers) -> None:
    assert "cannot be" in trouble(papers, tunnel(papers, 443, "nowhere.invalid"))


def test_a_gateway_under_another_name_is_not_talked_to(papers: Papers) -> None:
    other = Gateway(papers, "elsewhere")
    told = trouble(papers, tunnel(papers, other.server_port))
    assert "does not show the certificate that the kit names" in told
    other.shutdown()


def test_a_gateway_of_another_authority_is_not_talked_to(papers: Papers, tmp_path: Path) -> None:
    other = Gateway(Papers(tmp_path))
    assert "does not show the certificate that the kit names" in trouble(papers, tunnel(papers, other.server_port))
    other.shutdown()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not know this site's key"),
        (403, "rejected the request (HTTP 403)."),
        (412, "does not admit this site (HTTP 412)"),
        (503, "engine"),
    ],
)
def test_what_the_coordinator_answers_is_told_until_it_answers_well(
    papers: Papers, gateway: Gateway, status: int, said: str
) -> None:
    through = tunnel(papers, gateway.server_port)
    post(papers, through, f"/{status}", b"")
    assert through.contact.trouble and said in through.contact.trouble.lasting
    post(papers, through, "/200", b"")
    assert through.contact.trouble is None
    through.stop()


def test_only_the_loopback_interface_can_reach_it(papers: Papers, gateway: Gateway) -> None:
    through = tunnel(papers, gateway.server_port)
    for address in {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not str(address).startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((str(address), through.port), 2).close()
    through.stop()


UNREACHABLE = Trouble("It cannot be reached.")


def said_by(words: Words, contact: Contact, seconds: range) -> dict[int, str]:
    """What is said, and when."""
    return {now: sentence for now in seconds for sentence in words.about(contact, float(now))}


def test_each_change_is_said_once_and_a_lasting_trouble_now_and_then() -> None:
    words, contact = Words("fl.example.org:443"), Contact()
    assert words.about(contact, 0) == []
    contact.trouble = UNREACHABLE
    said = list(said_by(words, contact, range(4000)).values())
    assert said[0] == "It cannot be reached. Trying again."
    assert 5 <= len(said) <= 8
    assert said[-1].endswith("This has lasted for 1 h.")
    contact.trouble, contact.heard = None, 4000.0
    assert words.about(contact, 4001.0) == ["Connected to fl.example.org:443; waiting for the coordinator's orders."]
    assert words.about(contact, 4002.0) == []


def test_a_single_poll_that_failed_is_not_spoken_of() -> None:
    words, contact = Words("x"), Contact(heard=1.0)
    assert words.about(contact, 1.0) == ["Connected to x; waiting for the coordinator's orders."]
    contact.trouble = UNREACHABLE
    assert words.about(contact, 2.0) == []
    contact.trouble = None
    assert words.about(contact, 4.0) == []


def test_a_site_is_waiting_to_be_admitted_for_a_minute_and_not_admitted_afterwards() -> None:
    """Also where it waited longer before that for a gateway."""
    words, contact = Words("x"), Contact(trouble=UNREACHABLE)
    assert list(said_by(words, contact, range(300))) == [5]
    contact.trouble = trouble_of_status("409", b"", "x")
    said = said_by(words, contact, range(300, 420))
    assert list(said) == [300, 360]
    assert said[300] == "The gateway x answers; this site is waiting to be admitted by the coordinator."
    assert said[360].startswith("The coordinator does not admit this site (HTTP 409): it is not enrolled there, or its")
    contact.trouble, contact.heard = None, 420.0
    assert list(said_by(words, contact, range(420, 500))) == [420]


def test_a_site_that_is_admitted_within_a_minute_hears_of_nothing_else() -> None:
    words, contact = Words("x"), Contact(trouble=trouble_of_status("409", b"", "x"))
    said = said_by(words, contact, range(50))
    contact.trouble, contact.heard = None, 50.0
    said |= said_by(words, contact, range(50, 60))
    assert list(said.values()) == [
        "The gateway x answers; this site is waiting to be admitted by the coordinator.",
        "Connected to x; waiting for the coordinator's orders.",
    ]


def test_a_coordinator_that_its_gateway_does_not_find_for_two_minutes_is_connected_again_by_itself(
    papers: Papers, gateway: Gateway
) -> None:
    """The tunnel stays, each request is tried anew, and the site says what is wrong and when it is over."""
    through, words = tunnel(papers, gateway.server_port), Words("x")
    said: list[str] = []
    for tens, status in enumerate([200, *[502] * 12, 200]):
        assert post(papers, through, f"/{status}", b"")[0] == status
        for now in range(10 * tens, 10 * tens + 10):
            said += words.about(through.contact, float(now))
    through.stop()
    engine = f"The gateway localhost:{gateway.server_port} answers, but the coordinator's engine behind it does not."
    connected = "Connected to x; waiting for the coordinator's orders."
    assert said == [connected, f"{engine} Trying again.", connected]

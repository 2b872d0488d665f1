"""The way out of a hospital leads through its proxy; what the proxy or a TLS inspection does is told in plain words."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from common.errors import BadConfiguration
from deploy.flower.control import QUIET, grpc_health
from deploy.flower.supervisor import a_free_port
from deploy.pki.certificates import pem
from deploy.site import tunnel
from deploy.site.proxy import Proxy, proxy_of
from deploy.site.tunnel import Tunnel, inward_context, outward_context
from tests.deploy.site.test_tunnel import Gateway, Papers, gateway, papers, post
from tests.support.connect_proxy import connect_proxy

__all__ = ["gateway", "papers"]


def through(papers: Papers, port: int, proxy: Proxy) -> Tunnel:
    folder = papers.folder
    made = Tunnel(
        "localhost",
        port,
        outward=outward_context(pem(papers.ca).decode(), folder / "site.crt", folder / "site.key"),
        inward=inward_context(folder / "loopback.crt", folder / "loopback.key"),
        proxy=proxy,
    )
    made.start()
    return made


def trouble(papers: Papers, port: int, proxy: Proxy) -> str:
    tunnel = through(papers, port, proxy)
    with pytest.raises(OSError):
        post(papers, tunnel, "/200", b"x")
    assert tunnel.contact.trouble is not None
    tunnel.stop()
    return tunnel.contact.trouble.lasting


def test_whole_bodies_go_through_a_real_proxy_with_name_and_password(papers: Papers, gateway: Gateway) -> None:
    with connect_proxy(credentials="relay:sécret") as proxy:
        tunnel = through(papers, gateway.server_port, Proxy("127.0.0.1", proxy.port, "relay:sécret"))
        body = bytes(range(256)) * 40_000
        assert post(papers, tunnel, "/200", body) == (200, b"A:" + body)
        tunnel.stop()
        assert proxy.asked == [f"CONNECT localhost:{gateway.server_port} HTTP/1.1"]
        assert proxy.carried > 2 * len(body), "it went another way"


def test_what_a_proxy_answers_is_told_with_what_to_do(papers: Papers, gateway: Gateway) -> None:
    with connect_proxy(credentials="relay:secret") as proxy:
        told = trouble(papers, gateway.server_port, Proxy("127.0.0.1", proxy.port))
        assert told == (
            f"The hospital's proxy 127.0.0.1:{proxy.port} (site.toml) wants a name and a password; write them into the"
            f' site file: proxy = "http://NAME:PASSWORD@127.0.0.1:{proxy.port}".'
        )
    with connect_proxy(refuses=True) as proxy:
        told = trouble(papers, gateway.server_port, Proxy("127.0.0.1", proxy.port))
        assert f"does not let this site through to localhost:{gateway.server_port} (HTTP 403)" in told
        assert told.endswith(f"to allow CONNECT to localhost:{gateway.server_port}.")
    free = a_free_port()
    told = trouble(papers, gateway.server_port, Proxy("127.0.0.1", free, source="HTTPS_PROXY"))
    assert told.startswith(
        f"The hospital's proxy 127.0.0.1:{free} (HTTPS_PROXY) cannot be reached (Connection refused)"
    )


def test_a_proxy_that_does_not_answer_is_not_taken_for_the_gateway(
    papers: Papers, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "PROXY_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        told = trouble(papers, gateway.server_port, Proxy("127.0.0.1", port))
    assert told.startswith(f"The hospital's proxy 127.0.0.1:{port} (site.toml) cannot be reached (no answer in time)")


def test_tls_inspection_is_named_where_another_certificate_is_shown(papers: Papers, tmp_path: Path) -> None:
    """The proxy itself answers in the gateway's place, with a certificate of the hospital's own authority."""
    inspector = Gateway(Papers(tmp_path))
    with connect_proxy() as proxy:
        told = trouble(papers, inspector.server_port, Proxy("127.0.0.1", proxy.port))
    inspector.shutdown()
    assert "does not show the certificate that the kit names" in told
    assert f"(TLS inspection), it has to leave out localhost:{inspector.server_port}." in told


@pytest.mark.parametrize(
    ("written", "environment", "found"),
    [
        ("", {}, None),
        ("", {"HTTPS_PROXY": "http://p:3128"}, ("p", 3128, "")),
        ("", {"https_proxy": "p:3128"}, ("p", 3128, "")),
        ("", {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "example.org"}, None),
        ("", {"HTTPS_PROXY": "http://p:3128", "no_proxy": "*"}, None),
        ("", {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "elsewhere.org"}, ("p", 3128, "")),
        ("", {"HTTP_PROXY": "http://p:3128"}, None),
        ("none", {"HTTPS_PROXY": "http://p:3128"}, None),
        ("http://n%40me:p%3Aw@q", {"HTTPS_PROXY": "http://p:3128"}, ("q", 80, "n@me:p:w")),
        ("http://[::1]:8080", {}, ("::1", 8080, "")),
    ],
)
def test_the_site_files_proxy_comes_before_the_environments(
    written: str, environment: dict[str, str], found: tuple[Any, ...] | None
) -> None:
    proxy = proxy_of(written, "fl.example.org", environment)
    assert (proxy and (proxy.host, proxy.port, proxy.credentials)) == found


def test_a_proxy_that_cannot_be_used_is_refused_and_its_password_not_printed() -> None:
    for written in ("https://n:secret@p:1", "socks5://n:secret@p", "http://n:secret@p:99999", "http://"):
        with pytest.raises(BadConfiguration, match="no proxy that relay can use") as error:
            proxy_of(written, "x")
        assert "secret" not in str(error.value)


def test_own_programs_dial_each_other_without_the_machines_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy set for the whole machine, at which nothing but a count of connections is."""
    import httpx

    with socket.create_server(("127.0.0.1", 0)) as machines_proxy:
        url = f"http://127.0.0.1:{machines_proxy.getsockname()[1]}"
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, url)
        for name, value in QUIET.items():
            monkeypatch.setenv(name, value)
        machines_proxy.settimeout(0.3)
        for scheme in ("http", "https"):
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{scheme}://localhost:{a_free_port()}/", timeout=5)
        assert not grpc_health(f"127.0.0.1:{a_free_port()}", timeout=1)
        with pytest.raises(TimeoutError):
            machines_proxy.accept()

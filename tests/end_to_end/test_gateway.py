"""At the real door, nginx: who is revoked is out within a minute, and nobody else notices."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.supernode import fleet_http_client

from client.site_config import load_site
from deploy.site.keys import admission
from tests.support.federation import Federation, wait_for
from tests.support.hospitals import write_hospitals

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("nginx") is None,
        reason="nginx is not installed here; `make test-compose` tries the gateway anyway",
    ),
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    sites = write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 1, "B": 1})
    with Federation(tmp_path_factory.mktemp("federation"), sites, gateway=True) as made:
        made.start("gateway", "superlink", "A", "B")
        made.wait_until_connected("A", "B")
        yield made


def status(federation: Federation, path: str, *, site: str = "") -> int:
    """The gateway's answer, with a site's certificate or without any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    papers = admission(load_site(federation.sites[site or "A"]))
    context.load_verify_locations(cadata=papers.kit.authority)
    if site:
        context.load_cert_chain(papers.certificate, papers.tls_key)
    connection = http.client.HTTPSConnection("localhost", federation.gateway_port, context=context, timeout=20)
    connection.request("POST", path, b"")
    return connection.getresponse().status


def online(federation: Federation) -> set[str]:
    told = federation.relay("study", "status", "--dir", str(federation.coordinator.folder), "--json")
    return {entry["site"] for entry in json.loads(told.stdout)["present"] if entry["online"]}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/v1/control/list-nodes",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet/..%2fcontrol/list-nodes",
        "//v1/control/list-nodes",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/",
        "/v1/fleet/something-new",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull-messages/x",
        "/v1/fleet/pull-messages%0a",
        "/V1/fleet/pull-messages",
    ],
)
def test_the_fleets_path_alone_passes(federation: Federation, path: str) -> None:
    assert status(federation, path, site="A") in ((403, 404) if "%2f" in path else (403,))
    assert status(federation, "/v1/fleet/pull-messages", site="A") not in (400, 403, 404)


def test_every_path_that_flowers_client_names_is_known_to_the_gateway(federation: Federation) -> None:
    """A new version of Flower may ask for more: this test then fails before a hospital does."""
    source = Path(fleet_http_client.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r'"(/v1/fleet/[a-z-]+)"', source))
    assert len(named) > 8
    closed = {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert {path for path in named if status(federation, path, site="A") == 403} == closed


def test_nobody_passes_without_a_certificate(federation: Federation) -> None:
    assert status(federation, "/v1/fleet/pull-messages") == 400


def test_who_is_revoked_is_out_within_a_minute_and_the_others_notice_nothing(federation: Federation) -> None:
    wait_for(lambda: online(federation) == {"A", "B"}, seconds=120, told=federation.told)
    before = federation.said("B")
    folder = str(federation.coordinator.folder)
    revoked = federation.relay("enroll", "revoke", "A", "--dir", folder)
    assert revoked.returncode == 0, revoked.stderr
    began = time.monotonic()
    wait_for(lambda: status(federation, "/v1/fleet/pull-messages", site="A") == 400, seconds=60, told=federation.told)
    wait_for(lambda: "expired or was revoked" in federation.said("A"), seconds=120, told=federation.told)
    assert time.monotonic() - began < 120
    assert online(federation) == {"B"}
    # New certificates for the door and the engine: B stays, and has nothing to say.
    renewed = federation.relay("enroll", "renew", "--dir", folder)
    assert renewed.returncode == 0, renewed.stderr
    wait_for(lambda: "was read again" in told(federation) or "were read again" in told(federation), seconds=60)
    time.sleep(10)
    wait_for(lambda: online(federation) == {"B"}, seconds=120, told=federation.told)
    assert [line for line in federation.said("B")[len(before) :].splitlines() if "certificate" in line] == []


def told(federation: Federation) -> str:
    return (federation.coordinator.gateway / "gateway.log").read_text(encoding="utf-8", errors="replace")


def test_a_study_status_names_who_is_missing(federation: Federation, tmp_path: Path) -> None:
    federation.kill("B")
    wait_for(lambda: online(federation) == set(), seconds=180, told=federation.told)
    shown = federation.relay("study", "status", "--dir", str(federation.coordinator.folder))
    assert shown.returncode == 1
    assert shown.stdout.startswith("B") and "missing, since" in shown.stdout

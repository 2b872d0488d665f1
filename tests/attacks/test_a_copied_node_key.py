"""A request holds the public node key of another hospital, copied from its request, so that the SuperLink goes down.

It went down at every start, since a node key that two sites have is none: one enrolment stopped the federation.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from client.site_config import load_site
from common.errors import RelayError
from deploy.coordinator import enroll
from deploy.coordinator.folder import Coordinator
from deploy.pki.certificates import Key, read_key, read_ssh_key
from deploy.pki.enrolment_files import Request
from deploy.site import keys
from tests.deploy.coordinator.test_enroll import admitted, coordinator, site_file

__all__ = ["coordinator", "site_file"]


def keys_of(site_file: Path) -> tuple[Key, Key]:
    folder = load_site(site_file).folder / "keys"
    return read_ssh_key(folder / "node.key"), read_key(folder / "tls.key")


def with_node_key_of(request: Request, other: Request, node: Key, tls: Key) -> Request:
    """A request with the other's public node key, signed as well as somebody can without the other's private key."""
    return request.model_copy(update={"node_key": other.node_key}).signed(node, tls)


def test_a_request_with_the_public_key_of_another_hospital_is_not_signed(
    coordinator: Coordinator, site_file: Path, tmp_path: Path
) -> None:
    """Whoever is admitted with another's node key brings the SuperLink down, or takes the other's orders."""
    admitted(coordinator, site_file)
    _, honest, _ = keys.init(site_file, name="A")
    thief = tmp_path / "thief" / "site.toml"
    _, request, path = keys.init(thief, name="A0")
    for forged in (
        with_node_key_of(request, honest, *keys_of(thief)),
        request.model_copy(update={"node_key": honest.node_key}),
        request.model_copy(update={"node_key": honest.node_key, "node_signature": honest.node_signature}),
        request.model_copy(update={"node_signature": ""}),
        request.model_copy(update={"tls_signature": request.node_signature}),
        request.model_copy(update={"tls_signature": "no base64!"}),
    ):
        path.write_text(forged.model_dump_json())
        with pytest.raises(RelayError, match="is not signed by both its keys"):
            enroll.enroll(coordinator, "A0", path)
    commented = request.model_copy(update={"node_key": request.node_key + " root@pacs"}).signed(*keys_of(thief))
    path.write_text(commented.model_dump_json())
    with pytest.raises(RelayError, match="does not hold keys that relay made"):
        enroll.enroll(coordinator, "A0", path)
    assert [record.site for record in enroll.records(coordinator)] == ["A"]

"""Who may take part: the coordinator's authorities, its own certificates, the hospitals' admission and exclusion.

Two authorities, for two questions: is this the coordinator (asked by hospitals) and is this one of the hospitals
(asked by the gateway). A hospital has to hold two keys besides: the one of its TLS certificate, which the gateway
asks for, and that of its SuperNode, which the SuperLink asks for.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import tomli_w
from cryptography import x509
from pydantic import BaseModel, ConfigDict, ValidationError

from common.config.study import SiteName
from common.errors import RelayError, Unreachable
from common.files import write_atomically
from common.fingerprint import parse_fingerprint
from deploy.coordinator.folder import Coordinator, Settings
from deploy.pki.certificates import (
    Key,
    days_left,
    make_ca,
    make_client,
    make_crl,
    make_server,
    new_key,
    pem,
    pem_of_key,
    read_certificate,
    read_key,
    write_private,
    write_public,
)
from deploy.pki.enrolment_files import Kit, Request, read_enrolment_file, write_enrolment_file

WANTED = {
    "host": "a name or an address that hospitals can dial, such as fl.example.org",
    "port": "a port from 1 to 65535",
    "superlink": "HOST:PORT, such as 127.0.0.1:8000",
}

SUPERLINK_NAME = "superlink"
"""The name that the gateway knows the SuperLink by, whatever machine it is on."""

HEALTH_PORT = 8081
"""Of the gateway, on its own machine alone."""


class Enrolled(BaseModel):
    """One hospital, as sites/NAME.json has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    site: SiteName
    fingerprint: str
    """Of its request, 64 digits."""
    compared: bool
    """Whether the fingerprint was given, so that the request is known to be the hospital's."""
    node_key: str
    serials: tuple[int, ...]
    """Of the certificates that it was given for these keys, the last one last."""
    enrolled: str
    expires: str
    node_id: str = ""
    """What the SuperLink calls it; empty until it has been told."""
    revoked: str = ""
    """When; empty while it may take part."""
    excluded: dict[str, str] = {}
    """Serial numbers that are never valid again, and since when; those of earlier keys stay."""


def set_up(
    coordinator: Coordinator, *, host: str, port: int, superlink: str, health_port: int = HEALTH_PORT
) -> Settings:
    """Make the authorities, the certificates, the gateway's settings and the SuperExec secret.

    Where this was cut off, by a full disk, it goes on with the keys that are there.

    Raises:
        RelayError: a coordinator is there already, or a name, port or address is none.
    """
    if coordinator.settings_file.exists():
        raise RelayError(
            f"A coordinator is set up in {coordinator.folder} already; nothing was changed. New certificates for it:"
            " relay enroll renew."
        )
    try:
        settings = Settings(host=host, port=port, superlink=superlink)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise RelayError(f'--{name} wants {WANTED[name]}, and got "{first["input"]}".') from None
    coordinator.private_folders()
    for name in ("server", "clients"):
        private, public = coordinator.ca / f"{name}-ca.key", coordinator.ca / f"{name}-ca.crt"
        if not private.exists():
            write_private(private, pem_of_key(new_key()))
        if not public.exists():
            write_public(public, pem(make_ca(f"relay {name} of {host}", read_key(private))))
    for folder in (coordinator.gateway, coordinator.superlink, coordinator.control_folder):
        _write(folder / "server-ca.crt", (coordinator.ca / "server-ca.crt").read_bytes())
    _write(coordinator.gateway / "clients-ca.crt", (coordinator.ca / "clients-ca.crt").read_bytes())
    if not coordinator.secret.exists():
        write_private(coordinator.secret, secrets.token_urlsafe(48).encode())
    _write_certificates(coordinator, settings)
    _write_crl(coordinator)
    conf = resources.files("deploy").joinpath("docker/gateway/nginx.conf.template").read_text(encoding="utf-8")
    for mark, value in (("SUPERLINK", superlink), ("PORT", str(port)), ("HEALTH", str(health_port))):
        conf = conf.replace(f"@{mark}@", value)
    _write(coordinator.gateway / "nginx.conf", conf.encode())
    # Last: where this file is, everything is.
    write_public(coordinator.settings_file, tomli_w.dumps(settings.model_dump()).encode())
    return settings


def renew(coordinator: Coordinator) -> float:
    """New certificates and keys for the gateway and the SuperLink, of the same authority; returns days valid.

    Hospitals notice nothing: they know the authority and not the certificate.
    """
    _write_certificates(coordinator, coordinator.settings())
    return days_left(read_certificate(coordinator.gateway / "server.crt"))


def enroll(coordinator: Coordinator, name: str, request_path: Path, *, heard: str = "") -> tuple[Enrolled, Path]:
    """Sign a hospital's request; returns its record and the kit that goes back to it.

    The same request again gives a new certificate; another request of an enrolled site is refused.

    Args:
        heard: digits of the fingerprint that the hospital read out, 20 at least.

    Raises:
        RelayError: the request is another site's or damaged, the digits are others, or the site has other keys.
    """
    settings = coordinator.settings()
    request = read_enrolment_file(request_path, Request)
    if request.site != name:
        raise RelayError(f"{request_path} is the request of site {request.site}, not {name}; give the right file.")
    compared = _compare(request, heard)
    before = record_of(coordinator, name)
    if before and not before.revoked and before.fingerprint != request.fingerprint:
        raise RelayError(
            f"Site {name} is enrolled with other keys; revoke it first, if these are truly its new ones:"
            f" relay enroll revoke {name}."
        )
    if before and before.revoked and before.fingerprint == request.fingerprint:
        raise RelayError(f"Site {name} was revoked with these very keys; it has to make new ones before it returns.")
    ca, ca_key = _authority(coordinator, "clients")
    certificate = make_client(name, request.tls_key(), ca=ca, ca_key=ca_key)
    same = before if before and not before.revoked else None
    record = Enrolled(
        site=name,
        fingerprint=request.fingerprint,
        compared=compared or bool(same and same.compared),
        node_key=request.node_key,
        serials=(*(same.serials if same else ()), certificate.serial_number),
        excluded=before.excluded if before else {},
        enrolled=_now(),
        expires=certificate.not_valid_after_utc.isoformat(timespec="seconds"),
        node_id=same.node_id if same else "",
    )
    _write_record(coordinator, record)
    kit = Kit(
        site=name,
        host=settings.host,
        port=settings.port,
        authority=(coordinator.ca / "server-ca.crt").read_text(encoding="ascii"),
        certificate=pem(certificate).decode(),
    )
    path = coordinator.kits / f"{name}.kit"
    write_enrolment_file(path, kit)
    return record, path


def revoke(coordinator: Coordinator, name: str) -> Enrolled:
    """Exclude a hospital: its certificates go on the list that the gateway reads.

    Raises:
        RelayError: no such site, or it is revoked already.
    """
    coordinator.settings()
    record = record_of(coordinator, name)
    if record is None:
        known = ", ".join(other.site for other in records(coordinator)) or "none"
        raise RelayError(f"No site {name} is enrolled (enrolled: {known}).")
    if record.revoked:
        raise RelayError(f"Site {name} was revoked on {record.revoked[:10]} already.")
    now = _now()
    excluded = record.excluded | {str(serial): now for serial in record.serials}
    record = record.model_copy(update={"revoked": now, "excluded": excluded})
    _write_record(coordinator, record)
    _write_crl(coordinator)
    return record


def tell_superlink(coordinator: Coordinator, tell: Callable[[str], None]) -> None:
    """Bring the SuperLink's list of nodes to what is enrolled here: register who is new, unregister who is out.

    Raises:
        Unreachable: it does not answer; it is told when it starts.
    """
    control = coordinator.control()
    nodes = control.ask("supernode", "list", "--verbose")["nodes"]
    known = {str(node["node-id"]) for node in nodes if node["status"] != "unregistered"}
    for record in records(coordinator):
        if record.revoked and record.node_id in known:
            control.ask("supernode", "unregister", record.node_id)
            tell(f"Site {record.site} was taken off the SuperLink.")
        elif not record.revoked and record.node_id not in known:
            key = coordinator.superlink / f".{record.site}.pub"
            try:
                key.write_text(record.node_key + "\n", encoding="ascii")
                answer = control.ask("supernode", "register", str(key.absolute()), "--name", record.site)
            finally:
                key.unlink(missing_ok=True)
            _write_record(coordinator, record.model_copy(update={"node_id": str(answer["node-id"])}))
            tell(f"Site {record.site} was made known to the SuperLink.")


def tell_superlink_if_up(coordinator: Coordinator, tell: Callable[[str], None]) -> bool:
    """Return the same, where it is no fault that the SuperLink is down."""
    try:
        tell_superlink(coordinator, tell)
    except Unreachable:
        return False
    return True


def records(coordinator: Coordinator) -> list[Enrolled]:
    """All hospitals ever enrolled, by name."""
    return [_read_record(path) for path in sorted(coordinator.sites.glob("*.json"))]


def record_of(coordinator: Coordinator, name: str) -> Enrolled | None:
    """One hospital."""
    return next((record for record in records(coordinator) if record.site == name), None)


def _compare(request: Request, heard: str) -> bool:
    digits = parse_fingerprint(heard)
    if not digits:
        return False
    if len(digits) < 20 or not set(digits) <= set("0123456789abcdef"):
        raise RelayError(f'--fingerprint wants the 20 digits that the hospital reads out, and got "{heard}".')
    if not request.fingerprint.startswith(digits):
        raise RelayError(
            f"The fingerprint of this request is another than the hospital's: it was changed on its way, or it is not"
            f" site {request.site}'s. Nothing was signed."
        )
    return True


def _write(path: Path, content: bytes) -> None:
    """Return a file that everybody may read, made anew where it is there."""
    write_atomically(path, content, durable=True, mode=0o644)


def _write_certificates(coordinator: Coordinator, settings: Settings) -> None:
    ca, ca_key = _authority(coordinator, "server")
    host = settings.superlink.rpartition(":")[0]
    for folder, hosts in (
        (coordinator.gateway, [settings.host]),
        (coordinator.superlink, [SUPERLINK_NAME, *dict.fromkeys((host, "localhost", "127.0.0.1"))]),
    ):
        key = new_key()
        certificate = make_server(hosts, key, ca=ca, ca_key=ca_key)
        write_atomically(folder / "server.key", pem_of_key(key), durable=True, mode=0o600)
        write_atomically(folder / "server.crt", pem(certificate), durable=True)


def _write_crl(coordinator: Coordinator) -> None:
    ca, ca_key = _authority(coordinator, "clients")
    revoked = {
        int(serial): datetime.datetime.fromisoformat(when)
        for record in records(coordinator)
        for serial, when in record.excluded.items()
    }
    write_atomically(coordinator.gateway / "crl.pem", pem(make_crl(revoked, ca=ca, ca_key=ca_key)), durable=True)


def _authority(coordinator: Coordinator, name: str) -> tuple[x509.Certificate, Key]:
    return read_certificate(coordinator.ca / f"{name}-ca.crt"), read_key(coordinator.ca / f"{name}-ca.key")


def _write_record(coordinator: Coordinator, record: Enrolled) -> None:
    path = coordinator.sites / f"{record.site}.json"
    write_atomically(path, (record.model_dump_json(indent=1) + "\n").encode(), durable=True)


def _read_record(path: Path) -> Enrolled:
    try:
        return Enrolled.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise RelayError(f"The record {path} of a site cannot be read; restore it from a backup.") from None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

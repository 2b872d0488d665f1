"""Admit and exclude hospitals by the coordinator's certification authorities and certificates.

There are two certification authorities: hospitals verify the coordinator with the certificate of the `server`
authority, and the gateway verifies hospitals with the certificate of the `clients` authority. A hospital has to hold
two keys: the key of its TLS certificate, which the gateway checks, and the key of its SuperNode, which the SuperLink
checks.
"""

from __future__ import annotations

import datetime
import secrets
import socket
from collections.abc import Callable
from contextlib import closing
from importlib import resources
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import BaseModel, ConfigDict, ValidationError

from common.config.values import SiteName
from common.errors import RelayError, Unreachable
from common.files import write_atomically
from common.fingerprint import parse_fingerprint
from common.locks import exclusive
from deploy.coordinator import revocations
from deploy.coordinator.folder import Coordinator, Settings
from deploy.flower.control import Control
from deploy.pki.certificates import (
    Key,
    days_left,
    key_digest,
    make_ca,
    make_client,
    make_crl,
    make_server,
    new_key,
    pem,
    pem_of_key,
    read_certificate,
    read_crl,
    read_key,
    write_private,
    write_public,
)
from deploy.pki.enrolment_files import Kit, Request, read_enrolment_file, write_enrolment_file

WANTED = {
    "host": "a name or an address that hospitals can dial, such as fl.example.org",
    "port": "a port from 1 to 65535",
    "superlink": "HOST:PORT, such as 127.0.0.1:8000",
    "health_port": "a port from 1 to 65535",
}

SUPERLINK_NAME = "superlink"
"""The SuperLink's name in its certificate, checked by the gateway on whatever machine the SuperLink runs."""


class Enrolled(BaseModel):
    """Describe an enrolled hospital: the content of the coordinator's file sites/NAME.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    site: SiteName
    fingerprint: str
    """64 hexadecimal digits: the fingerprint of the site's request."""
    compared: bool
    """Whether the fingerprint was compared over the telephone, which proves the request to be the hospital's."""
    node_key: str
    keys: tuple[str, ...] = ()
    """The sha256 of the public keys of the SuperNode and of TLS; empty in records of relay 0.2 and before."""
    earlier_keys: tuple[str, ...] = ()
    """The sha256 of the keys with which the site was revoked before it came back with new ones."""
    serials: tuple[int, ...]
    """The serial numbers of the certificates signed for the site's present keys, oldest first."""
    enrolled: str
    expires: str
    node_id: str = ""
    """The SuperLink's number for the site; empty until the site is registered at the SuperLink."""
    revoked: str = ""
    """The time of the site's revocation; empty while the site may take part."""
    excluded: dict[str, str] = {}
    """Serial numbers revoked for good, also of earlier keys, each with the time of its revocation."""


def set_up(coordinator: Coordinator, *, host: str, port: int, superlink: str, health_port: int = 8081) -> Settings:
    """Make the authorities, the certificates, the gateway's settings and the SuperExec secret.

    A call interrupted, for instance by a full disk, can be repeated: the authorities' keys and the secret are kept
    where they exist; the keys of the gateway and the SuperLink are made anew.

    Args:
        coordinator: the folder to set up.
        host: the gateway's name or address, dialled by hospitals.
        port: the gateway's port.
        superlink: HOST:PORT at which the SuperLink listens behind the gateway.
        health_port: the gateway's port for health checks.

    Returns:
        The settings, as written to the coordinator's file.

    Raises:
        RelayError: a coordinator is set up in the folder already, or a name, a port or an address is invalid.
    """
    if coordinator.settings_file.exists():
        raise RelayError(
            f"A coordinator is set up in {coordinator.folder} already; nothing was changed. New certificates for it:"
            " relay enroll renew."
        )
    settings = _settings({"host": host, "port": port, "superlink": superlink, "health_port": health_port})
    coordinator.private_folders()
    for name in ("server", "clients"):
        private, public = coordinator.ca / f"{name}-ca.key", coordinator.ca / f"{name}-ca.crt"
        if not private.exists():
            write_private(private, pem_of_key(new_key()))
        if not public.exists():
            write_public(public, pem(make_ca(f"relay {name} of {settings.host}", read_key(private))))
    for folder in (coordinator.gateway, coordinator.superlink, coordinator.control_folder):
        _write(folder / "server-ca.crt", (coordinator.ca / "server-ca.crt").read_bytes())
    _write(coordinator.gateway / "clients-ca.crt", (coordinator.ca / "clients-ca.crt").read_bytes())
    if not coordinator.secret.exists():
        write_private(coordinator.secret, secrets.token_urlsafe(48).encode())
    _write_certificates(coordinator, settings)
    _write_crl(coordinator)
    _write_gateway_settings(coordinator, settings)
    # The settings file is written last: its existence marks a complete set-up.
    write_public(coordinator.settings_file, tomli_w.dumps(settings.model_dump()).encode())
    return settings


def change(coordinator: Coordinator, **changes: str | int) -> tuple[Settings, list[Path]]:
    """Change where the coordinator's programs listen and what hospitals dial.

    Args:
        coordinator: the folder of an existing coordinator.
        **changes: settings of `Settings` with new values; all others stay.

    Returns:
        The settings, and the kits that were written anew, for hospitals to join with.

    Raises:
        RelayError: a name, a port or an address is invalid, no coordinator is set up in the folder, or the record or
            the kit of a hospital cannot be read; nothing was changed.
    """
    before = coordinator.settings()
    settings = _settings(before.model_dump() | changes)
    kits: dict[Path, Kit] = {}  # read before anything is written: a damaged one leaves everything as it was
    if (before.host, before.port) != (settings.host, settings.port):
        for record in records(coordinator):
            path = coordinator.kits / f"{record.site}.kit"
            if not record.revoked and path.exists():
                kit = read_enrolment_file(path, Kit)
                kits[path] = kit.model_copy(update={"host": settings.host, "port": settings.port})
    if (before.host, before.superlink) != (settings.host, settings.superlink):
        _write_certificates(coordinator, settings)
    _write_gateway_settings(coordinator, settings)
    for path, kit in kits.items():
        write_enrolment_file(path, kit)
    write_atomically(coordinator.settings_file, tomli_w.dumps(settings.model_dump()).encode(), durable=True, mode=0o644)
    return settings, list(kits)


def _settings(values: dict[str, object]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise RelayError(f'--{name.replace("_", "-")} wants {WANTED[name]}, and got "{first["input"]}".') from None


def _write_gateway_settings(coordinator: Coordinator, settings: Settings) -> None:
    conf = resources.files("deploy").joinpath("docker/gateway/nginx.conf.template").read_text(encoding="utf-8")
    for mark, value in (
        ("SUPERLINK", settings.superlink),
        ("PORT", str(settings.port)),
        ("IPV6", f"\n        listen [::]:{settings.port} ssl;" if _has_ipv6(settings.host) else ""),
        ("HEALTH", str(settings.health_port)),
    ):
        conf = conf.replace(f"@{mark}@", value)
    _write(coordinator.gateway / "nginx.conf", conf.encode())


def _has_ipv6(host: str) -> bool:
    """Return whether a name leads to an address of IPv6, and this machine can listen on one.

    Elsewhere nginx would not start with a line for IPv6.
    """
    if ":" in host:
        return True
    try:
        socket.getaddrinfo(host, None, socket.AF_INET6)
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def renew(coordinator: Coordinator) -> float:
    """Make new keys and certificates for the gateway and the SuperLink, signed by the same authority.

    Hospitals need not do anything: they trust the authority, and not a single certificate.

    Args:
        coordinator: the folder of an existing coordinator.

    Returns:
        Days for which the new certificates are valid.
    """
    _write_certificates(coordinator, coordinator.settings())
    return days_left(read_certificate(coordinator.gateway / "server.crt"))


def enroll(coordinator: Coordinator, name: str, request_path: Path, *, heard: str = "") -> tuple[Enrolled, Path]:
    """Sign a hospital's request, and write the kit for the hospital.

    Signing the same request again gives a new certificate. A different request of an enrolled site is refused.

    Args:
        coordinator: the coordinator's folder.
        name: the site's name.
        request_path: the hospital's request file.
        heard: at least 20 digits of the fingerprint, read out by the hospital over the telephone; empty: not compared.

    Returns:
        The site's record and the path of its kit.

    Raises:
        RelayError: the request is damaged, of another site or not signed by both its keys, its fingerprint has other
            digits, the site is enrolled with other keys or was revoked with one of the request's keys, or a key of the
            request is another site's.
    """
    settings = coordinator.settings()
    request = read_enrolment_file(request_path, Request)
    if request.site != name:
        raise RelayError(f"{request_path} is the request of site {request.site}, not {name}; give the right file.")
    public_keys = request.public_keys()
    keys = tuple(map(key_digest, public_keys))
    compared = _compare(request, heard)
    before = record_of(coordinator, name)
    if before and not before.revoked and before.fingerprint != request.fingerprint:
        raise RelayError(
            f"Site {name} is enrolled with other keys; revoke it first, if these are truly its new ones:"
            f" relay enroll revoke {name}."
        )
    for other in records(coordinator):
        known = {*_keys(other), *other.earlier_keys} if other.site != name or other.revoked else {*other.earlier_keys}
        if not known & {*keys}:
            continue
        if other.site == name:
            raise RelayError(
                f"Site {name} was revoked with these very keys; it has to make new ones before it returns:"
                " relay site init SITE.toml --new-keys, there."
            )
        raise RelayError(
            f"The request of site {name} holds a key of site {other.site}; nothing was signed. Each hospital makes keys"
            " of its own, with relay site init."
        )
    ca, ca_key = _authority(coordinator, "clients")
    certificate = make_client(name, public_keys[1], ca=ca, ca_key=ca_key)
    same = before if before and not before.revoked else None
    record = Enrolled(
        site=name,
        fingerprint=request.fingerprint,
        compared=compared or bool(same and same.compared),
        node_key=request.node_key,
        keys=keys,
        earlier_keys=same.earlier_keys if same else (*before.earlier_keys, *sorted(_keys(before))) if before else (),
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
    """Exclude a hospital: put its certificates on the gateway's revocation list.

    Args:
        coordinator: the coordinator's folder.
        name: the site's name.

    Returns:
        The site's record, with the time of its revocation.

    Raises:
        RelayError: no site of this name is enrolled, or the site is revoked already.
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
    revocations.add(coordinator, name, map(str, record.serials), now)
    record = record.model_copy(update={"revoked": now, "excluded": excluded})
    _write_record(coordinator, record)
    _write_crl(coordinator)
    return record


def update_superlink(coordinator: Coordinator, notify: Callable[[str], None]) -> None:
    """Register enrolled sites at the SuperLink, and unregister revoked sites there.

    A record that cannot be read, or that the SuperLink refuses, is told in a sentence and concerns no other site.

    Args:
        coordinator: the coordinator's folder.
        notify: gets a sentence for each change and each refused record.

    Raises:
        Unreachable: the SuperLink does not answer; `relay coordinator start` repeats the call once the SuperLink
            answers.
    """
    control = coordinator.control()
    # `relay coordinator start` and `relay enroll` may call this at the same moment.
    with exclusive(coordinator.sites / ".lock"):
        found, damaged = readable_records(coordinator)
        for sentence in damaged:
            notify(sentence)
        nodes = control.ask("supernode", "list", "--verbose")["nodes"]
        known = {str(node["node-id"]) for node in nodes if node["status"] != "unregistered"}
        for record in found:
            try:
                if record.revoked and record.node_id in known:
                    control.ask("supernode", "unregister", record.node_id)
                    notify(f"Site {record.site} was taken off the SuperLink.")
                elif not record.revoked and record.node_id not in known:
                    _register(coordinator, control, record)
                    notify(f"Site {record.site} was made known to the SuperLink.")
            except Unreachable:
                raise
            except RelayError as error:
                notify(f"At the SuperLink, site {record.site} alone is left as it was. {error}")


def _register(coordinator: Coordinator, control: Control, record: Enrolled) -> None:
    key = coordinator.superlink / f".{record.site}.pub"
    try:
        key.write_text(record.node_key + "\n", encoding="ascii")
        answer = control.ask("supernode", "register", str(key.absolute()), "--name", record.site)
    finally:
        key.unlink(missing_ok=True)
    _write_record(coordinator, record.model_copy(update={"node_id": str(answer["node-id"])}))


def update_superlink_if_up(coordinator: Coordinator, notify: Callable[[str], None]) -> bool:
    """Register and unregister sites as `update_superlink` does; an unreachable SuperLink is no error.

    Args:
        coordinator: the coordinator's folder.
        notify: gets a sentence for each change.

    Returns:
        Whether the SuperLink answered.
    """
    try:
        update_superlink(coordinator, notify)
    except Unreachable:
        return False
    return True


def records(coordinator: Coordinator) -> list[Enrolled]:
    """Return the records of all hospitals ever enrolled, sorted by name."""
    return [_read_record(path) for path in sorted(coordinator.sites.glob("*.json"))]


def readable_records(coordinator: Coordinator) -> tuple[list[Enrolled], list[str]]:
    """Return the hospitals' records, sorted by name, and a sentence for each record that cannot be read."""
    found, damaged = [], []
    for path in sorted(coordinator.sites.glob("*.json")):
        try:
            found.append(_read_record(path))
        except RelayError as error:
            damaged.append(str(error))
    return found, damaged


def keep_out(coordinator: Coordinator) -> list[str]:
    """Revoke every hospital that the list of revoked certificates names and its own record lets in.

    Such a record comes from a backup that is older than the revocation.

    Args:
        coordinator: the coordinator's folder; where its private keys are elsewhere, nothing is changed.

    Returns:
        A sentence for each hospital that had come back so.
    """
    if not (coordinator.ca / "clients-ca.key").exists():
        return []
    listed = revocations.revoked(coordinator)
    sentences = []
    for record in readable_records(coordinator)[0]:
        again = [listed[serial] for serial in record.serials if serial in listed]
        if again and not record.revoked:
            since = again[0].when.isoformat(timespec="seconds")
            excluded = record.excluded | {entry.serial: since for entry in again}
            _write_record(coordinator, record.model_copy(update={"revoked": since, "excluded": excluded}))
            sentences.append(
                f"Site {record.site} was revoked on {since[:10]}, and stays out; its record, of an older"
                " backup, let it in."
            )
    if listed.keys() - {entry.serial_number for entry in read_crl(coordinator.gateway / "crl.pem")}:
        _write_crl(coordinator)
    return sentences


def record_of(coordinator: Coordinator, name: str) -> Enrolled | None:
    """Return a hospital's record; None if the hospital was never enrolled."""
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
            f" site {request.site}'s. Nothing was signed; have the hospital read it again, and if it still differs,"
            " have it send the request another way."
        )
    return True


def _write(path: Path, content: bytes) -> None:
    """Write a file readable by everybody; an existing file is replaced."""
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
    for record in records(coordinator):
        for serial, when in record.excluded.items():
            revocations.add(coordinator, record.site, [serial], when)  # relay 0.2 kept them in the records alone
    revoked = {serial: entry.when for serial, entry in revocations.revoked(coordinator).items()}
    write_atomically(coordinator.gateway / "crl.pem", pem(make_crl(revoked, ca=ca, ca_key=ca_key)), durable=True)


def _keys(record: Enrolled) -> set[str]:
    """Return the sha256 of the keys in a record."""
    node = load_ssh_public_key(record.node_key.encode())
    assert isinstance(node, ec.EllipticCurvePublicKey)
    return {*record.keys, key_digest(node)}


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

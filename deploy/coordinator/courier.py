"""Bring a study's orders out to a site without a network, and its answers in: `relay courier pack` and `take`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import NotEnrolled, RelayError
from common.files import write_atomically
from common.protocol.parcel import BadParcel, read_parcel
from common.text import short_digest
from deploy.coordinator.enroll import records
from deploy.coordinator.folder import Coordinator
from deploy.pki.certificates import (
    Key,
    make_server,
    new_key,
    pem,
    pem_of_key,
    read_certificate,
    read_key,
    write_private,
    write_public,
)
from deploy.pki.enrolment_files import COURIER, Kit, read_enrolment_file
from deploy.pki.sealing import Head, seal, unseal

FOLDER, WAITING, ANSWERED = "courier", "waiting", "answered"
"""As in `server.transport.courier`; a test holds the two together."""


def begin(out: Path, sites: Sequence[str]) -> None:
    """Note in a result folder that a courier serves some sites.

    Args:
        out: the result folder.
        sites: the sites' names.
    """
    for site in sites:
        (out / FOLDER / site).mkdir(mode=0o700, parents=True, exist_ok=True)


def served_in(out: Path) -> frozenset[str]:
    """Return the sites that a courier serves in a result folder."""
    return frozenset(path.name for path in (out / FOLDER).glob("*") if path.is_dir())


def pack(coordinator: Coordinator, out: Path, site: str, to: Path) -> list[Path]:
    """Seal the orders that wait for a site, for the courier; what was packed before and got lost is packed again.

    Args:
        coordinator: the coordinator's folder.
        out: the study's result folder.
        site: the site.
        to: the folder for the sealed files, such as a medium's.

    Returns:
        The files.

    Raises:
        RelayError: no order waits, the site is not enrolled or was revoked, or the folder cannot be written.
    """
    folder = out / FOLDER / site
    orders = sorted(folder.glob(f"{WAITING}/[0-9a-f]*"))
    waiting = [path for path in orders if not (folder / ANSWERED / path.name).exists()]
    if not folder.is_dir():
        raise RelayError(f"No courier serves site {site} in {out}; name it with relay study run --courier {site}.")
    if not waiting:
        raise RelayError(f"No order waits for site {site} in {out}; the study lays the next one ready by itself.")
    reader = _certificate(coordinator, site).public_key()
    key, certificate = _own(coordinator)
    written = []
    for path in waiting:
        head = {"kind": "order", "site": site, "id": path.name, "certificate": pem(certificate).decode()}
        written.append(to / f"{site}-{short_digest(path.name)}.order")
        try:
            to.mkdir(parents=True, exist_ok=True)
            write_atomically(written[-1], seal(path.read_bytes(), head, to=_of_p384(reader), by=key), durable=True)
        except OSError as error:
            raise RelayError(f"{to} cannot be written ({error.strerror}); name another folder with --to.") from None
    return written


def take(coordinator: Coordinator, out: Path, file: Path) -> str:
    """Take a site's answer in; the study goes on by itself.

    Args:
        coordinator: the coordinator's folder.
        out: the study's result folder.
        file: the sealed answer.

    Returns:
        The site's name.

    Raises:
        RelayError: the file is no answer of an enrolled site to an order that waits; nothing was changed.
    """
    key, _ = _own(coordinator)
    named: list[Head] = []

    def writer(head: Head) -> ec.EllipticCurvePublicKey:
        named.append(head)
        if head.get("kind") != "answer":
            raise RelayError(f"{file} is no answer of a site; relay courier run at the site makes it of an order.")
        return _of_p384(_certificate(coordinator, head.get("site", "")).public_key())

    content = unseal(_read(file), str(file), key=key, writer=writer)
    site = named[0]["site"]
    try:
        parcel = read_parcel(memoryview(content))
    except BadParcel:
        raise RelayError(f"{file} holds no answer that relay wrote; nothing was changed.") from None
    folder = out / FOLDER / site
    of_it = (parcel.site, parcel.id) == (site, named[0].get("id")) and re.fullmatch("[0-9a-f]{64}", parcel.id)
    if not of_it or not (folder / WAITING / parcel.id).exists():
        raise RelayError(
            f"{file} answers no order that waits for site {site} in {out}: it is of another study, or of an order that"
            " is done. Nothing was changed."
        )
    if (folder / ANSWERED / parcel.id).exists():
        raise RelayError(f"{file} was taken already; nothing was changed.")
    (folder / ANSWERED).mkdir(mode=0o700, exist_ok=True)
    write_atomically(folder / ANSWERED / parcel.id, content, durable=True, mode=0o600)
    return site


def _own(coordinator: Coordinator) -> tuple[Key, x509.Certificate]:
    """Return the key by which the coordinator signs orders and reads answers, and its certificate; both made once.

    Raises:
        RelayError: they are not made yet, and the authority's private key is elsewhere.
    """
    private, public = coordinator.courier / "courier.key", coordinator.courier / "courier.crt"
    if not public.exists():
        authority = coordinator.ca / "server-ca.key"
        if not authority.exists():
            raise RelayError(f"The courier's key is made once, with {authority}, which is not here; bring it for that.")
        coordinator.courier.mkdir(mode=0o700, exist_ok=True)
        if not private.exists():
            write_private(private, pem_of_key(new_key()))
        ca = read_certificate(coordinator.ca / "server-ca.crt")
        write_public(public, pem(make_server([COURIER], read_key(private), ca=ca, ca_key=read_key(authority))))
    return read_key(private), read_certificate(public)


def _certificate(coordinator: Coordinator, site: str) -> x509.Certificate:
    record = next((one for one in records(coordinator) if one.site == site), None)
    path = coordinator.kits / f"{site}.kit"
    if record is None or not path.exists():
        raise NotEnrolled(f'No site "{site[:40]}" is enrolled here; relay enroll list says who is.')
    if record.revoked:
        raise NotEnrolled(f"Site {site} was revoked on {record.revoked[:10]}; nothing goes to it or is taken from it.")
    return x509.load_pem_x509_certificate(read_enrolment_file(path, Kit).certificate.encode())


def _of_p384(key: object) -> ec.EllipticCurvePublicKey:
    assert isinstance(key, ec.EllipticCurvePublicKey), "relay makes certificates for no other keys"
    return key


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RelayError(f"{file} cannot be read ({error.strerror}); check the path.") from None

"""Make a hospital's keys, whose private halves never leave the hospital, and take the coordinator's kit.

The folder keys/ in the site's private folder holds `node.key` (the key of the SuperNode, by which Flower knows the
site), `tls.key` (the key of the TLS certificate, by which the gateway admits the site) and, after `relay site join`,
`kit.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from pydantic import TypeAdapter, ValidationError

from client.governance.site_lock import exclusive_lock
from client.site_config import SiteConfig, load_site
from common.config.values import POOLED, SiteName
from common.errors import Expired, NotEnrolled, RelayError
from deploy.pki.certificates import (
    Key,
    check_has_begun,
    days_left,
    make_request,
    new_key,
    pem,
    pem_of_key,
    read_key,
    read_ssh_key,
    same_key,
    ssh_of_key,
    ssh_public,
    write_private,
    write_public,
)
from deploy.pki.enrolment_files import Kit, Request, read_enrolment_file, write_enrolment_file
from deploy.site.template import site_template

FOLDER = "keys"
NODE_KEY, TLS_KEY, REQUEST, KIT = "node.key", "tls.key", "request.json", "kit.json"


@dataclass(frozen=True)
class Admission:
    """Hold a site's kit, keys and certificate for passing the coordinator's gateway."""

    kit: Kit
    node_key: Path
    tls_key: Path
    certificate: Path
    """The path of the hospital's own certificate, as PEM."""
    days_left: float
    """Days for which the certificate is still valid."""


def init(path: Path, *, name: str, new_keys: bool = False) -> tuple[SiteConfig, Request, Path]:
    """Make a site's file and keys where they do not exist.

    A repeated call keeps the site's file and keys, and returns the same request.

    Args:
        path: the site's file.
        name: the site's name; may be empty where the file exists.
        new_keys: make new keys also where there are keys; the earlier ones are set aside with their kit.

    Returns:
        The site's settings, its request, and the path of the request for the coordinator.

    Raises:
        Locked: new keys are wanted while the site is at work.
        RelayError: a new file gets no valid name, or an existing file has another name.
    """
    if not path.exists():
        if not _is_name(name):
            raise RelayError(
                f'--name "{name}" is no name for a site: a letter, then letters, digits, - or _, 32 at most.'
                if name
                else f"There is no site file {path}; give --name NAME, and one is written."
            )
        write_public(path, site_template(name).encode())
    site = load_site(path)
    if name and site.name != name:
        raise RelayError(f'{path} is the file of a site named "{site.name}", not "{name}".')
    keys = site.private() / FOLDER
    if new_keys and keys.exists():
        with exclusive_lock(site):
            keys.rename(keys.with_name(f"{FOLDER}-until-{time.strftime('%Y-%m-%d-%H%M%S')}"))
    request_path = path.absolute().parent / f"{site.name}.request"
    request = read_enrolment_file(keys / REQUEST, Request) if (keys / REQUEST).exists() else None
    if request is None or not request.node_signature:  # relay 0.2 signed with the TLS key alone
        keys.mkdir(mode=0o700, exist_ok=True)
        tls = _made(keys / TLS_KEY, pem_of_key, read_key)
        node = _made(keys / NODE_KEY, ssh_of_key, read_ssh_key)
        request = (request or _request(site.name, node, tls)).signed(node, tls)
        write_enrolment_file(keys / REQUEST, request)
    write_enrolment_file(request_path, request)
    return site, request, request_path


def _request(name: str, node: Key, tls: Key) -> Request:
    return Request(site=name, node_key=ssh_public(node.public_key()), tls_request=pem(make_request(name, tls)).decode())


def _is_name(name: str) -> bool:
    try:
        return TypeAdapter(SiteName).validate_python(name) != POOLED
    except ValidationError:
        return False


def _made(path: Path, write: Callable[[Key], bytes], read: Callable[[Path], Key]) -> Key:
    """Return the key in a file, and make a missing key: a repeated `init` completes an interrupted `init`."""
    if not path.exists():
        write_private(path, write(new_key()))
    return read(path)


def join(path: Path, kit_path: Path) -> tuple[SiteConfig, Kit]:
    """Take the coordinator's kit, after comparing the kit with this site's name and key.

    Args:
        path: the site's file.
        kit_path: the kit.

    Returns:
        The site's settings and the kit.

    Raises:
        NotEnrolled: the site has no keys yet.
        RelayError: the kit is for another site or another key, or its certificate is not valid yet.
    """
    site = load_site(path)
    kit = read_enrolment_file(kit_path, Kit)
    keys = site.private() / FOLDER
    if not (keys / TLS_KEY).exists():
        raise NotEnrolled(f"Site {site.name} has no keys yet; make them first: relay site init {path}.")
    if kit.site != site.name:
        raise RelayError(
            f"{kit_path} is the kit of site {kit.site}, and this is site {site.name}; ask for the right one."
        )
    certificate = _certificate(kit)
    check_has_begun(certificate, f"The certificate of site {site.name}")
    if not same_key(certificate, read_key(keys / TLS_KEY)):
        raise RelayError(f"{kit_path} answers another request than this site's; send {site.name}.request again.")
    write_enrolment_file(keys / KIT, kit)
    return site, kit


def admission(site: SiteConfig) -> Admission:
    """Return the site's keys and the kit kept by `join`, after checking presence and expiry.

    Raises:
        NotEnrolled: a key or the kit is missing.
        Expired: the certificate has expired.
        RelayError: the certificate is not valid yet.
    """
    keys = site.private() / FOLDER
    for name, make in ((NODE_KEY, "relay site init"), (TLS_KEY, "relay site init"), (KIT, "relay site join")):
        if not (keys / name).exists() and name == KIT:
            raise NotEnrolled(
                f"Site {site.name} has not joined ({keys} has no {name}): send {site.name}.request to the coordinator,"
                f" and take the kit that comes back with `relay site join SITE.toml {site.name}.kit`."
            )
        if not (keys / name).exists():
            raise NotEnrolled(f"Site {site.name} has no {name} in {keys}; make it first: {make}.")
    kit = read_enrolment_file(keys / KIT, Kit)
    certificate = _certificate(kit)
    check_has_begun(certificate, f"The certificate of site {site.name}")
    left = days_left(certificate)
    if left < 0:
        raise Expired(
            f"The certificate of site {site.name} expired {-left:.0f} days ago; send the request to the coordinator"
            " again, and take the new kit with relay site join."
        )
    # The certificate is written beside the key as PEM, because the TLS library reads certificates from files.
    path = keys / "tls.crt"
    path.write_bytes(pem(certificate))
    return Admission(kit, keys / NODE_KEY, keys / TLS_KEY, path, left)


def _certificate(kit: Kit) -> x509.Certificate:
    try:
        x509.load_pem_x509_certificate(kit.authority.encode())
        return x509.load_pem_x509_certificate(kit.certificate.encode())
    except ValueError:
        raise RelayError(f"The kit of site {kit.site} holds a damaged certificate; ask for it again.") from None

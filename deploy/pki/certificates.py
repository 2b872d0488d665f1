"""Make, read and write keys and certificates; `coordinator.enroll` and `site.keys` choose the files.

All keys are ECDSA over P-384: Flower asks for P-384 in a SuperNode's key, and TLS 1.2 and 1.3 both take P-384.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.digest import digest_of, digest_of_json
from common.errors import RelayError
from common.text import moment

CA_DAYS = 3650
"""Days for which an authority's certificate is valid."""
LEAF_DAYS = 825
"""Days for which a server's or a hospital's certificate is valid; no common client refuses this length."""

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """Generate a private key."""
    return ec.generate_private_key(ec.SECP384R1())


def write_private(path: Path, content: bytes) -> None:
    """Write a new file, readable by its owner alone.

    Raises:
        RelayError: the file exists already.
    """
    _write_new(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Write a new file, readable by everybody.

    Raises:
        RelayError: the file exists already.
    """
    _write_new(path, content, 0o644)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The file is created with its mode, so that others can read a private file at no moment.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise RelayError(f"{path} is there already; nothing was overwritten.") from None
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()  # a truncated file would block the next try
        raise OSError(error.errno, error.strerror, str(path)) from None


def pem_of_key(key: Key) -> bytes:
    """Serialize a private key as PEM, for TLS."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def ssh_of_key(key: Key) -> bytes:
    """Serialize a private key in OpenSSH's format, from which Flower reads a SuperNode's key."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def ssh_public(key: ec.EllipticCurvePublicKey) -> str:
    """Serialize a public key as a line of OpenSSH, without the usual comment naming a user and a machine."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def pem(certificate: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList) -> bytes:
    """Serialize a certificate, a request or a revocation list as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_key(path: Path) -> Key:
    """Read a private key from a PEM file.

    Raises:
        RelayError: the file is missing, unreadable or damaged.
    """
    return _read_key(path, serialization.load_pem_private_key)


def read_ssh_key(path: Path) -> Key:
    """Read a private key from a file in OpenSSH's format.

    Raises:
        RelayError: the file is missing, unreadable or damaged.
    """
    return _read_key(path, serialization.load_ssh_private_key)


def _read_key(path: Path, load: Callable[[bytes, None], object]) -> Key:
    try:
        key = load(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RelayError(f"The private key {path} cannot be read ({_reason(error)}).") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RelayError(f"The private key {path} is not of the kind that relay makes.")
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate from a PEM file.

    Raises:
        RelayError: the file is missing, unreadable or damaged.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RelayError(f"The certificate {path} cannot be read ({_reason(error)}).") from None


def read_crl(path: Path) -> x509.CertificateRevocationList:
    """Read a revocation list from a PEM file.

    Raises:
        RelayError: the file is missing, unreadable or damaged.
    """
    try:
        return x509.load_pem_x509_crl(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RelayError(f"The revocation list {path} cannot be read ({_reason(error)}).") from None


def _reason(error: Exception) -> str:
    return (error.strerror or "unknown reason") if isinstance(error, OSError) else "it is damaged"


def make_ca(name: str, key: Key, *, since: datetime.datetime | None = None) -> x509.Certificate:
    """Make the certificate of an authority, which signs itself and may sign no further authority.

    Args:
        name: the authority's name.
        key: the authority's key.
        since: when the certificate begins to be valid; None: an hour ago.
    """
    subject = _named(name)
    usage = {"key_cert_sign": True, "crl_sign": True, "digital_signature": True}
    return (
        _builder(subject, subject, key.public_key(), CA_DAYS, since)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def make_server(
    hosts: Sequence[str],
    key: Key,
    *,
    ca: x509.Certificate,
    ca_key: Key,
    since: datetime.datetime | None = None,
) -> x509.Certificate:
    """Make a server's certificate.

    Args:
        hosts: the names and addresses dialled by clients; the first is the certificate's common name, which clients
            do not look at, cut to its limit of 64 characters.
        key: the server's key.
        ca: the certificate of the authority.
        ca_key: the key of the authority.
        since: when the certificate begins to be valid; None: an hour ago.
    """
    subject = _named(hosts[0])
    return (
        _leaf(subject, key.public_key(), ca, ExtendedKeyUsageOID.SERVER_AUTH, since)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .sign(ca_key, hashes.SHA384())
    )


def make_client(
    name: str, public_key: ec.EllipticCurvePublicKey, *, ca: x509.Certificate, ca_key: Key
) -> x509.Certificate:
    """Make a hospital's certificate; of the hospital's request only the public key is used.

    Args:
        name: the site's name.
        public_key: the public key of the request.
        ca: the certificate of the authority.
        ca_key: the key of the authority.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return _leaf(subject, public_key, ca, ExtendedKeyUsageOID.CLIENT_AUTH).sign(ca_key, hashes.SHA384())


def make_request(name: str, key: Key) -> x509.CertificateSigningRequest:
    """Make a request for the coordinator to sign; the request's own signature proves possession of the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA384())


def make_crl(
    revoked: Mapping[int, datetime.datetime], *, ca: x509.Certificate, ca_key: Key
) -> x509.CertificateRevocationList:
    """Make the list of revoked serial numbers.

    The list is valid for as long as the authority. A gateway with an expired list rejects every hospital, and this list
    changes when a hospital is revoked, not with time.

    Args:
        revoked: serial number to the time of revocation.
        ca: the certificate of the authority.
        ca_key: the key of the authority.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(_now() - datetime.timedelta(hours=1))
        .next_update(ca.not_valid_after_utc)
    )
    for serial, when in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(ca_key, hashes.SHA384())


def sign(key: Key, content: bytes) -> str:
    """Sign a content with ECDSA and SHA-384.

    Returns:
        The signature, as base64.
    """
    return base64.b64encode(key.sign(content, ec.ECDSA(hashes.SHA384()))).decode("ascii")


def is_signed(key: ec.EllipticCurvePublicKey, signature: str, content: bytes) -> bool:
    """Return whether a signature of `sign` is the key's own signature of this content."""
    try:
        key.verify(base64.b64decode(signature, validate=True), content, ec.ECDSA(hashes.SHA384()))
    except (ValueError, InvalidSignature):
        return False
    return True


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """Return the sha256 of a public key as 64 hexadecimal digits, however the key was written down."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return digest_of(der)


def days_left(certificate: x509.Certificate) -> float:
    """Return the days for which a certificate is still valid; below 0 after the expiry."""
    return (certificate.not_valid_after_utc - _now()).total_seconds() / 86400


def check_has_begun(certificate: x509.Certificate, what: str) -> None:
    """Refuse a certificate that is not valid yet by this machine's clock.

    Args:
        certificate: the certificate, made with the coordinator's clock.
        what: the certificate in a sentence, such as "The certificate of site A".

    Raises:
        RelayError: the certificate is valid only from a later time.
    """
    begins, now = certificate.not_valid_before_utc, _now()
    if now < begins:
        raise RelayError(
            f"{what} is valid from {moment(begins.isoformat())} on, and this machine's clock shows"
            f" {moment(now.isoformat())}: this clock, or the coordinator's when the certificate was made, is wrong; set"
            " the clock right and try again, or have the certificate made again."
        )


def same_key(one: x509.Certificate, key: Key) -> bool:
    """Return whether a certificate is for a key."""
    return one.public_key() == key.public_key()


def fingerprint(content: Mapping[str, object]) -> str:
    """Return 64 hexadecimal digits over the content of a file, whatever its spaces and line ends."""
    return digest_of_json(content)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _leaf(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    ca: x509.Certificate,
    use: x509.ObjectIdentifier,
    since: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    days = min(LEAF_DAYS, int(days_left(ca)))
    return (
        _builder(subject, ca.subject, public_key, days, since)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(_ec(ca)), critical=False)
    )


def _ec(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RelayError("The authority's certificate is not of the kind that relay makes.")
    return key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    days: int,
    since: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Valid from an hour ago, because the clocks of two hospitals differ.
        .not_valid_before(since or _now() - datetime.timedelta(hours=1))
        .not_valid_after(_now() + datetime.timedelta(days=days))
    )


def _usage(**on: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)

"""Read and write the two files exchanged at enrolment: a hospital's request and the coordinator's kit.

Both files are text and hold no secret, and may therefore travel by mail. The request's fingerprint, read out by the
hospital over the telephone, shows the coordinator whether the request arrived unchanged.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Annotated, Literal, TypeGuard, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.config.values import SiteName
from common.errors import RelayError
from common.files import write_atomically
from deploy.pki.certificates import Key, fingerprint, is_signed, sign, ssh_public

COURIER = "relay-courier"
"""The name in the certificate by which a coordinator signs orders that a courier carries."""
LARGEST = 100_000
"""Bytes of the longest accepted request or kit."""


def _check_host(host: str) -> str:
    if ":" in host:
        ipaddress.IPv6Address(host)  # raises ValueError
    return host


Host = Annotated[
    str,
    Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45})$"),
    AfterValidator(_check_host),
]
"""A name or an address: of IPv4, or of IPv6 without brackets."""
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(max_length=20_000)]


def dialled(host: str, port: int) -> str:
    """Return HOST:PORT as people write it, with brackets around an address of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class EnrolmentFile(BaseModel):
    """Declare the fields shared by requests and kits."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1] = 1
    site: SiteName

    @property
    def fingerprint(self) -> str:
        """Return 64 hexadecimal digits over the file's whole content."""
        return fingerprint(self.model_dump(mode="json"))


class Request(EnrolmentFile):
    """Hold a hospital's request: the public halves of the hospital's two keys, and a signature by each of the two.

    Without the signature of the node's key, a hospital could ask for the admission of another hospital's public key.
    """

    kind: Literal["relay request"] = "relay request"
    node_key: Text
    """The public key of the hospital's SuperNode, in OpenSSH's format."""
    tls_request: Text
    """The certificate request for the coordinator's authority to sign, as PEM."""
    node_signature: Text = ""
    """The signature of the fingerprint by the SuperNode's key, as base64; empty in requests of relay 0.2 and before."""
    tls_signature: Text = ""
    """The signature of the fingerprint by the TLS key, as base64; empty in requests of relay 0.2 and before."""

    @property
    def fingerprint(self) -> str:
        """Return 64 hexadecimal digits over all that the request says, which is everything but its signatures."""
        return fingerprint(self.model_dump(mode="json", exclude={"node_signature", "tls_signature"}))

    def signed(self, node_key: Key, tls_key: Key) -> Request:
        """Return the request with signatures of its fingerprint by both private keys."""
        content = self.fingerprint.encode()
        return self.model_copy(
            update={"node_signature": sign(node_key, content), "tls_signature": sign(tls_key, content)}
        )

    def public_keys(self) -> tuple[ec.EllipticCurvePublicKey, ec.EllipticCurvePublicKey]:
        """Return the public keys of the SuperNode and of TLS, after checking the request.

        Raises:
            RelayError: a key is not ECDSA over P-384 or not written as relay writes it, or a signature does not prove
                that whoever wrote the request has both private keys.
        """
        try:
            request = x509.load_pem_x509_csr(self.tls_request.encode())
            node, tls = load_ssh_public_key(self.node_key.encode()), request.public_key()
            if request.is_signature_valid and _of_p384(tls) and _of_p384(node) and ssh_public(node) == self.node_key:
                content = self.fingerprint.encode()
                if is_signed(node, self.node_signature, content) and is_signed(tls, self.tls_signature, content):
                    return node, tls
                raise RelayError(
                    f"The request of site {self.site} is not signed by both its keys, so it may bring somebody else's;"
                    " have the hospital make it again with this version of relay: relay site init."
                )
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
            pass
        raise RelayError(
            f"The request of site {self.site} does not hold keys that relay made; ask for it again: relay site init."
        )


class Kit(EnrolmentFile):
    """Hold the coordinator's kit: the gateway's address and authority, and the hospital's certificate."""

    kind: Literal["relay kit"] = "relay kit"
    host: Host
    port: Port
    authority: Text
    """The authority's certificate, with which the gateway's certificate is checked, as PEM."""
    certificate: Text
    """The hospital's certificate, as PEM."""


Kind = TypeVar("Kind", Request, Kit)


def write_enrolment_file(path: Path, paper: EnrolmentFile) -> None:
    """Write a request or a kit, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (paper.model_dump_json(indent=1) + "\n").encode(), durable=True)
    path.chmod(0o644)


def read_enrolment_file(path: Path, kind: type[Kind]) -> Kind:
    """Read a request or a kit.

    Args:
        path: the file.
        kind: `Request` or `Kit`.

    Raises:
        RelayError: the file is missing, or is not of this kind.
    """
    what = kind.__name__.lower()
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise RelayError(f"The {what} {path} cannot be read ({error.strerror}); check the path.") from None
    try:
        if len(content) > LARGEST:
            raise ValueError
        return kind.model_validate_json(json.dumps(json.loads(content.decode())))
    except (ValidationError, ValueError, RecursionError):
        raise RelayError(
            f"{path} is not a {what} that relay wrote, or was changed on its way; ask for it again."
        ) from None


def _of_p384(key: object) -> TypeGuard[ec.EllipticCurvePublicKey]:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)

"""Read and write the two files exchanged at enrolment: a hospital's request and the coordinator's kit.

Both files are text and hold no secret, and may therefore travel by mail. The request's fingerprint, read out by the
hospital over the telephone, shows the coordinator whether the request arrived unchanged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.config.study import SiteName
from common.errors import RelayError
from common.files import write_atomically
from deploy.pki.certificates import fingerprint

LARGEST = 100_000
"""Bytes of the longest accepted request or kit."""

Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(max_length=20_000)]


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
    """Hold a hospital's request: the public halves of the hospital's two keys."""

    kind: Literal["relay request"] = "relay request"
    node_key: Text
    """The public key of the hospital's SuperNode, in OpenSSH's format."""
    tls_request: Text
    """The certificate request for the coordinator's authority to sign, as PEM."""

    def tls_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public key to sign a certificate for, after checking the request.

        Raises:
            RelayError: a key is not ECDSA over P-384, or the request's signature does not prove possession of the key.
        """
        try:
            request = x509.load_pem_x509_csr(self.tls_request.encode())
            key = request.public_key()
            if request.is_signature_valid and _of_p384(key) and _of_p384(load_ssh_public_key(self.node_key.encode())):
                assert isinstance(key, ec.EllipticCurvePublicKey)
                return key
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


def _of_p384(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)

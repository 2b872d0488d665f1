"""The two files that a hospital and the coordinator exchange when they first meet: the request and the kit.

Both are text, and neither holds a secret: they may travel by mail. What has to be right is that they arrive as they
were sent, which the fingerprints tell: both ends read the same digits to each other over the telephone.
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
"""Bytes of a request or a kit; nothing longer is read."""

Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(max_length=20_000)]


class EnrolmentFile(BaseModel):
    """What requests and kits share."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1] = 1
    site: SiteName

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits over all that the file says."""
        return fingerprint(self.model_dump(mode="json"))


class Request(EnrolmentFile):
    """From a hospital: the public halves of its two keys."""

    kind: Literal["relay request"] = "relay request"
    node_key: Text
    """Of Flower's SuperNode, as OpenSSH writes it."""
    tls_request: Text
    """What the coordinator's authority signs, as PEM."""

    def tls_key(self) -> ec.EllipticCurvePublicKey:
        """Return the key to sign a certificate for, checked.

        Raises:
            RelayError: it is not of the kind that relay makes, or whoever wrote this does not hold it.
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
    """From the coordinator: whom to dial, by what to know it, and the hospital's own certificate."""

    kind: Literal["relay kit"] = "relay kit"
    host: Host
    port: Port
    authority: Text
    """The certificate that the gateway's own is checked with, as PEM."""
    certificate: Text
    """Of this hospital, as PEM."""


Kind = TypeVar("Kind", Request, Kit)


def write_enrolment_file(path: Path, paper: EnrolmentFile) -> None:
    """Write a request or a kit, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (paper.model_dump_json(indent=1) + "\n").encode(), durable=True)
    path.chmod(0o644)


def read_enrolment_file(path: Path, kind: type[Kind]) -> Kind:
    """Read a request or a kit.

    Raises:
        RelayError: it is missing, or something else.
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

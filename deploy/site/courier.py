"""Do at a site without a network what an order says that a courier brought: `relay courier run`.

The installed app answers the order as it answers any other: approval, commitments, egress filter and audit log are the
same. The answer is sealed for the coordinator, and the courier carries it back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.app import Context, Message, RecordDict

from client import progress
from client.governance.simulation_mode import SIMULATION
from client.site_config import SiteConfig, load_site
from common.errors import RelayError
from common.files import write_atomically
from common.protocol.parcel import BadParcel, Parcel, parcel_of, read_parcel, write_parcel
from deploy.flower import internals
from deploy.pki.certificates import check_has_begun, days_left, read_key
from deploy.pki.enrolment_files import COURIER, Kit
from deploy.pki.sealing import Head, seal, unseal
from deploy.site.keys import admission
from deploy.site.launcher import installed_app

NODE = 1


def run(path: Path, file: Path, to: Path | None, *, observe: Callable[[int, int], None]) -> tuple[Path, str]:
    """Answer a carried order, and write the sealed answer.

    A training of several legs, and the preparation of many patients, is done to its end: the courier comes once.

    Args:
        path: the site's file.
        file: the sealed order.
        to: the sealed answer; None: beside the order.
        observe: is called with the units done and in all, as the work goes on.

    Returns:
        The sealed answer's path, and the reason of a refusal, empty where the order was answered.

    Raises:
        RelayError: the order is not this coordinator's for this site, or a file cannot be read or written.
    """
    site = load_site(path)
    admitted = admission(site)
    key = read_key(admitted.tls_key)
    heads: list[tuple[Head, ec.EllipticCurvePublicKey]] = []

    def writer(head: Head) -> ec.EllipticCurvePublicKey:
        heads.append((head, _coordinators_key(head, admitted.kit, file)))
        return heads[0][1]

    try:
        content = file.read_bytes()
    except OSError as error:
        raise RelayError(f"{file} cannot be read ({error.strerror}); check the path.") from None
    try:
        parcel = read_parcel(memoryview(unseal(content, str(file), key=key, writer=writer)))
    except BadParcel:
        raise RelayError(f"{file} holds no order that relay wrote; ask the coordinator for it again.") from None
    if parcel.site != site.name:
        raise RelayError(f"{file} is an order for site {parcel.site}, and this is site {site.name}.")
    answer = _answered(path, site, parcel, observe)
    head = {"kind": "answer", "site": site.name, "id": parcel.id}
    sealed = seal(b"".join(write_parcel(answer)), head, to=heads[0][1], by=key)
    written = to or file.with_suffix(".answer")
    try:
        write_atomically(written, sealed, durable=True)
    except OSError as error:
        raise RelayError(f"{written} cannot be written ({error.strerror}); name another file with --to.") from None
    return written, answer.reason


def _coordinators_key(head: Head, kit: Kit, file: Path) -> ec.EllipticCurvePublicKey:
    """Return the coordinator's key for the courier, from the certificate that came with an order."""
    foreign = RelayError(f"{file} is not from the coordinator whose kit this site took; nothing was done.")
    if head.get("kind") != "order":
        raise RelayError(f"{file} is no order; relay courier pack at the coordinator makes one.")
    try:
        certificate = x509.load_pem_x509_certificate(head.get("certificate", "").encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(kit.authority.encode()))
    except (ValueError, TypeError, InvalidSignature):
        raise foreign from None
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    key = certificate.public_key()
    if [name.value for name in names] != [COURIER] or not isinstance(key, ec.EllipticCurvePublicKey):
        raise foreign  # such as of the gateway, whose key must not give orders
    check_has_begun(certificate, "The certificate of the coordinator's courier")
    if days_left(certificate) < 0:
        raise RelayError("The certificate of the coordinator's courier has expired; ask the coordinator to renew it.")
    return key


def _answered(path: Path, site: SiteConfig, parcel: Parcel, observe: Callable[[int, int], None]) -> Parcel:
    os.environ.update(
        {"RELAY_SITE": str(path.absolute()), "RELAY_SITE_LOG": str(site.private() / "site.log"), SIMULATION: ""}
    )
    internals.set_task_identity(run_id=NODE, node_id=NODE)
    progress.subscribe(lambda done, of, _: observe(done, of))
    app = installed_app()
    while True:
        message = Message(parcel.record(), dst_node_id=NODE, message_type=parcel.type)
        internals.set_message_id(message, parcel.id)
        context = Context(run_id=NODE, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
        answer = parcel_of(app(message, context), site.name, parcel.id)
        if answer.fields.get("state") != "running" and answer.fields.get("complete", True):
            return answer

"""Keys stay where they are made, papers hold no secret, and who is out stays out."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from client.data import layouts
from client.site_config import SiteConfig, load_site
from common.errors import RelayError
from common.fingerprint import format_fingerprint
from deploy.cli import main
from deploy.coordinator import enroll
from deploy.coordinator.folder import Coordinator
from deploy.pki.certificates import write_private
from deploy.pki.enrolment_files import Kit, Request, read_enrolment_file
from deploy.site import keys

HOST = "fl.example.org"


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    made = Coordinator(tmp_path / "coordinator")
    enroll.set_up(made, host=HOST, port=443, superlink="127.0.0.1:8000")
    return made


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    return tmp_path / "hospital" / "site.toml"


def admitted(coordinator: Coordinator, site_file: Path, name: str = "A") -> tuple[enroll.Enrolled, Path]:
    _, request, path = keys.init(site_file, name=name)
    return enroll.enroll(coordinator, name, path, heard=request.fingerprint)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def openssl(*words: str | Path) -> str:
    """An independent reader of certificates; not needed to use relay."""
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, encoding="utf-8")
    return done.stdout + done.stderr


def test_private_keys_are_their_owners_alone(coordinator: Coordinator, site_file: Path) -> None:
    admitted(coordinator, site_file)
    private = [path for path in coordinator.folder.rglob("*") if path.suffix in (".key", ".secret")]
    private += list(site_file.parent.rglob("*.key"))
    assert len(private) == 5 + 2
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in {path.parent for path in private}:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_nothing_that_is_there_is_overwritten(coordinator: Coordinator, site_file: Path) -> None:
    admitted(coordinator, site_file)
    every = [path for path in [*coordinator.folder.rglob("*"), *site_file.parent.rglob("*")] if path.is_file()]
    before = {path: path.read_bytes() for path in every}
    with pytest.raises(RelayError, match="set up in .* already"):
        enroll.set_up(coordinator, host="other.example.org", port=1, superlink="127.0.0.1:1")
    keys.init(site_file, name="A")
    assert {path: path.read_bytes() for path in every} == before


def limited(writes: int, real: Callable[..., None]) -> Callable[..., None]:
    left = iter(range(writes))

    def write(*given: Any, **named: Any) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*given, **named)

    return write


@pytest.mark.parametrize("fsyncs", range(0, 30, 3))
def test_a_set_up_that_a_full_disk_cut_off_goes_on_with_its_keys(
    tmp_path: Path, site_file: Path, monkeypatch: pytest.MonkeyPatch, fsyncs: int
) -> None:
    made = Coordinator(tmp_path / "coordinator")
    with monkeypatch.context() as patch, suppress(OSError):
        patch.setattr(os, "fsync", limited(fsyncs, os.fsync))
        enroll.set_up(made, host=HOST, port=443, superlink="127.0.0.1:8000")
    if not made.settings_file.exists():
        before = {path: path.read_bytes() for path in made.ca.iterdir()}
        enroll.set_up(made, host=HOST, port=443, superlink="127.0.0.1:8000")
        assert before.items() <= {path: path.read_bytes() for path in made.ca.iterdir()}.items()
    admitted(made, site_file)
    enroll.renew(made)
    assert not list(made.folder.rglob("*.part"))


def test_a_new_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", limited(0, os.fsync))
        with pytest.raises(OSError, match=r"No space left.*a\.key"):
            write_private(tmp_path / "a.key", b"key")
    assert not list(tmp_path.iterdir())
    write_private(tmp_path / "a.key", b"key")
    with pytest.raises(RelayError, match="there already"):
        write_private(tmp_path / "a.key", b"another")
    assert (tmp_path / "a.key").read_bytes() == b"key"


def test_the_nodes_key_is_what_flower_wants(coordinator: Coordinator, site_file: Path) -> None:
    admitted(coordinator, site_file)
    private = load_ssh_private_key((load_site(site_file).folder / "keys" / "node.key").read_bytes(), None)
    assert private.curve.name == "secp384r1"  # type: ignore[union-attr]
    record = enroll.records(coordinator)[0]
    assert re.fullmatch(r"ecdsa-sha2-nistp384 [A-Za-z0-9+/=]+", record.node_key), "with a comment it names a machine"


def test_papers_hold_no_secret_and_no_path(coordinator: Coordinator, site_file: Path, tmp_path: Path) -> None:
    _, kit = admitted(coordinator, site_file)
    for path in (kit, site_file.parent / "A.request", site_file):
        text = path.read_text(encoding="utf-8")
        assert "PRIVATE" not in text
        assert str(tmp_path) not in text
    assert set(json.loads(kit.read_text())) == {"version", "site", "kind", "host", "port", "authority", "certificate"}
    assert set(json.loads((site_file.parent / "A.request").read_text())) == {
        "version",
        "site",
        "kind",
        "node_key",
        "tls_request",
    }


def test_openssl_agrees_with_every_certificate(coordinator: Coordinator, site_file: Path, tmp_path: Path) -> None:
    _, kit_path = admitted(coordinator, site_file)
    client = tmp_path / "client.crt"
    client.write_text(read_enrolment_file(kit_path, Kit).certificate)
    gateway, superlink = coordinator.gateway, coordinator.superlink
    for ca, use, leaf in (
        (gateway / "clients-ca.crt", "sslclient", client),
        (gateway / "server-ca.crt", "sslserver", gateway / "server.crt"),
        (superlink / "server-ca.crt", "sslserver", superlink / "server.crt"),
    ):
        verify = ("verify", "-x509_strict", "-CAfile", ca, "-purpose", use, leaf)
        assert openssl(*verify).strip() == f"{leaf}: OK"
    assert "error" in openssl("verify", "-CAfile", gateway / "server-ca.crt", client)
    assert f"{gateway / 'server.crt'}: OK" in openssl(
        "verify", "-CAfile", gateway / "server-ca.crt", "-verify_hostname", HOST, gateway / "server.crt"
    )
    assert "mismatch" in openssl(
        "verify", "-CAfile", gateway / "server-ca.crt", "-verify_hostname", "other.org", gateway / "server.crt"
    )
    usage = certificate(client).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_new_certificates_need_no_new_authority(coordinator: Coordinator) -> None:
    """Hospitals know the authority; so they notice nothing."""
    before = {path: path.read_bytes() for path in coordinator.folder.rglob("*") if path.is_file()}
    assert enroll.renew(coordinator) > 800
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    names = {"server.key", "server.crt"}
    assert changed == {folder / name for folder in (coordinator.gateway, coordinator.superlink) for name in names}
    leaf = coordinator.gateway / "server.crt"
    assert openssl("verify", "-CAfile", coordinator.gateway / "server-ca.crt", leaf).strip() == f"{leaf}: OK"


def test_what_was_changed_on_its_way_is_not_signed(coordinator: Coordinator, site_file: Path, tmp_path: Path) -> None:
    """Somebody in the middle puts keys of his own into the hospital's request; it reads its own digits out."""
    _, request, _ = keys.init(site_file, name="A")
    _, _, forged = keys.init(tmp_path / "middle" / "site.toml", name="A")
    for heard in (
        request.fingerprint,
        format_fingerprint(request.fingerprint),
        format_fingerprint(request.fingerprint).upper().replace(" ", "-"),
    ):
        with pytest.raises(RelayError, match="Nothing was signed"):
            enroll.enroll(coordinator, "A", forged, heard=heard)
    assert not enroll.records(coordinator) and not list(coordinator.kits.iterdir())
    with pytest.raises(RelayError, match="wants the 20 digits"):
        enroll.enroll(coordinator, "A", forged, heard=request.fingerprint[:19])


def test_the_fingerprint_is_over_all_that_the_file_says() -> None:
    one = Request(site="A", node_key="k", tls_request="r")
    assert len(one.fingerprint) == 64
    others = [one.model_copy(update={name: "B"}) for name in ("site", "node_key", "tls_request")]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert re.fullmatch(r"([0-9a-f]{4} ){4}[0-9a-f]{4}", format_fingerprint(one.fingerprint))


def test_a_request_needs_the_key_it_asks_for(coordinator: Coordinator, site_file: Path, tmp_path: Path) -> None:
    _, request, path = keys.init(site_file, name="A")
    _, other, _ = keys.init(tmp_path / "other" / "site.toml", name="A")
    signed = x509.load_pem_x509_csr(other.tls_request.encode())
    spoilt = bytearray(signed.public_bytes(Encoding.DER))
    spoilt[-3] ^= 1
    bad = x509.load_der_x509_csr(bytes(spoilt)).public_bytes(Encoding.PEM).decode()
    for change in ({"tls_request": bad}, {"tls_request": "nothing"}, {"node_key": "ssh-ed25519 AAAA"}):
        path.write_text(request.model_copy(update=change).model_dump_json())
        with pytest.raises(RelayError, match="does not hold keys that relay made"):
            enroll.enroll(coordinator, "A", path)


def test_a_name_is_taken_by_its_keys(coordinator: Coordinator, site_file: Path, tmp_path: Path) -> None:
    first, _ = admitted(coordinator, site_file)
    again, _ = admitted(coordinator, site_file)
    assert again.fingerprint == first.fingerprint and len(again.serials) == 2, "a renewed certificate"
    with pytest.raises(RelayError, match="is enrolled with other keys; revoke it first"):
        admitted(coordinator, tmp_path / "other" / "site.toml")
    with pytest.raises(RelayError, match="is the request of site A, not B"):
        enroll.enroll(coordinator, "B", site_file.parent / "A.request")


def revoked_serials(coordinator: Coordinator) -> set[int]:
    crl = x509.load_pem_x509_crl((coordinator.gateway / "crl.pem").read_bytes())
    ca = certificate(coordinator.ca / "clients-ca.crt")
    assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    assert crl.next_update_utc == ca.not_valid_after_utc, "a gateway with a list out of date turns everybody away"
    return {entry.serial_number for entry in crl}


def test_who_is_revoked_stays_out_with_every_certificate_it_had(
    coordinator: Coordinator, site_file: Path, tmp_path: Path
) -> None:
    assert revoked_serials(coordinator) == set()
    admitted(coordinator, site_file)
    record, _ = admitted(coordinator, site_file)
    other, _ = admitted(coordinator, tmp_path / "b" / "site.toml", "B")
    enroll.revoke(coordinator, "A")
    assert revoked_serials(coordinator) == set(record.serials)
    with pytest.raises(RelayError, match="revoked with these very keys"):
        admitted(coordinator, site_file)
    with pytest.raises(RelayError, match="revoked on"):
        enroll.revoke(coordinator, "A")
    # With new keys it may come back; the old ones stay out, and B was never touched.
    fresh, _ = admitted(coordinator, tmp_path / "new" / "site.toml")
    assert not fresh.revoked
    enroll.revoke(coordinator, "B")
    assert revoked_serials(coordinator) == {*record.serials, *other.serials}
    assert not set(fresh.serials) & revoked_serials(coordinator)


def test_a_kit_is_taken_by_the_site_that_asked_for_it_alone(
    coordinator: Coordinator, site_file: Path, tmp_path: Path
) -> None:
    _, kit = admitted(coordinator, site_file)
    other = tmp_path / "other" / "site.toml"
    with pytest.raises(RelayError, match="no site file"):
        keys.join(other, kit)
    keys.init(other, name="A")
    with pytest.raises(RelayError, match="answers another request"):
        keys.join(other, kit)
    third = tmp_path / "third" / "site.toml"
    keys.init(third, name="B")
    with pytest.raises(RelayError, match="is the kit of site A, and this is site B"):
        keys.join(third, kit)
    with pytest.raises(RelayError, match="has no kit.json"):
        keys.admission(load_site(site_file))
    keys.join(site_file, kit)
    assert keys.admission(load_site(site_file)).kit.host == HOST


BAD = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\xff" * 300),
    lambda path: path.write_text("[1, 2]"),
    lambda path: path.write_text("{" * 10_000),
    lambda path: path.write_text('{"a": ' * 50_000),
    lambda path: path.write_bytes(b"x" * 10_000_000),
    lambda path: path.write_text(path.read_text().replace("relay", "other")),
    lambda path: path.write_text(path.read_text().replace('"version": 1', '"version": 2')),
    lambda path: path.write_text(path.read_text().replace('"site"', '"extra": 1, "site"')),
    lambda path: path.unlink(),
]


@pytest.mark.parametrize("spoil", BAD)
@pytest.mark.parametrize("what", ["request", "kit"])
def test_bad_papers_are_one_sentence(
    coordinator: Coordinator,
    site_file: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object],
    what: str,
) -> None:
    _, kit = admitted(coordinator, site_file)
    path = kit if what == "kit" else site_file.parent / "A.request"
    spoil(path)
    words = ["site", "join", site_file, path] if what == "kit" else ["enroll", "site", "A", path]
    words += [] if what == "kit" else ["--dir", coordinator.folder]

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("deploy.cli.program.os._exit", ended)
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    assert exit_.value.code == 1
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.rstrip().endswith(".")


@pytest.mark.parametrize("name", ["", "../a", "a b", "1a", "pooled", "a" * 33, "ä"])
def test_a_site_needs_a_name_that_is_one(site_file: Path, name: str) -> None:
    with pytest.raises(RelayError, match="--name"):
        keys.init(site_file, name=name)
    assert not site_file.exists()


@pytest.mark.parametrize("host", ["", "a b", "x;y", "-a", "a/b", "x\n"])
def test_a_host_needs_a_name_that_is_one(tmp_path: Path, host: str) -> None:
    with pytest.raises(RelayError, match="--host wants a name .* such as"):
        enroll.set_up(Coordinator(tmp_path / "c"), host=host, port=443, superlink="127.0.0.1:8000")
    assert not (tmp_path / "c").exists()


def test_an_init_that_was_cut_off_goes_on_where_it_was(site_file: Path) -> None:
    keys.init(site_file, name="A")
    folder = load_site(site_file).folder / "keys"
    before = (folder / "tls.key").read_bytes()
    (folder / "request.json").unlink()
    (folder / "node.key").unlink()
    _, request, _ = keys.init(site_file, name="A")
    assert (folder / "tls.key").read_bytes() == before
    assert request.tls_key()


def test_the_site_file_that_is_written_holds_every_key_explained_and_as_it_is_by_default(site_file: Path) -> None:
    site, _, _ = keys.init(site_file, name="A")
    assert site == load_site(site_file)
    changed = {"name": "A", "images": site_file.parent / "images", "folder": site_file.parent / "private"}
    for key, field in SiteConfig.model_fields.items():
        assert getattr(site, key) == changed.get(key, field.default), key
    text = site_file.read_text(encoding="utf-8")
    written = dict(re.findall(r"((?:^# .+\n)+)^(?:# )?(\w+) = ", text, re.MULTILINE)).values()
    assert set(written) == set(SiteConfig.model_fields) - {"members"}
    for name, layout in layouts.known().items():
        assert re.search(rf"^# +{name} +{re.escape(layout.looks_for)}$", text, re.MULTILINE)
    assert "One of auto, cpu, cuda, mps." in text

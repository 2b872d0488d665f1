"""Keys stay where they are made, papers hold no secret, and who is out stays out."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from client.data import layouts
from client.site_config import ArchiveConfig, SiteConfig, load_site
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
        "node_signature",
        "tls_signature",
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
    signed = one.model_copy(update={"node_signature": "s", "tls_signature": "t"})
    assert signed.fingerprint == one.fingerprint, "signatures prove, and say nothing"
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


@pytest.mark.parametrize("name", ["node.key", "tls.key"])
@pytest.mark.parametrize("revoked", [False, True])
def test_a_key_that_is_known_is_refused_whoever_brings_it(
    coordinator: Coordinator, site_file: Path, tmp_path: Path, name: str, revoked: bool
) -> None:
    """Even with the private key, as when a hospital copies its folder for a second site."""
    admitted(coordinator, site_file)
    if revoked:
        enroll.revoke(coordinator, "A")
    other = tmp_path / "other" / "site.toml"
    keys.init(other, name="B")
    mine, theirs = load_site(site_file).folder / "keys" / name, load_site(other).folder / "keys" / name
    theirs.write_bytes(mine.read_bytes())
    (theirs.parent / "request.json").unlink()
    with pytest.raises(RelayError, match="request of site B holds a key of site A; nothing was signed"):
        admitted(coordinator, other, "B")


def test_the_keys_of_before_a_revocation_never_come_back(
    coordinator: Coordinator, site_file: Path, tmp_path: Path
) -> None:
    admitted(coordinator, site_file)
    enroll.revoke(coordinator, "A")
    fresh = tmp_path / "fresh" / "site.toml"
    admitted(coordinator, fresh)
    enroll.revoke(coordinator, "A")
    for old in (site_file, fresh):
        with pytest.raises(RelayError, match="revoked with these very keys"):
            admitted(coordinator, old)
    newest = tmp_path / "newest" / "site.toml"
    admitted(coordinator, newest)
    with pytest.raises(RelayError, match="enrolled with other keys"):
        admitted(coordinator, site_file)


def test_a_record_of_before_the_keys_were_noted_is_compared_by_its_node_key(
    coordinator: Coordinator, site_file: Path, tmp_path: Path
) -> None:
    admitted(coordinator, site_file)
    path = coordinator.sites / "A.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("keys", "earlier_keys")}
    path.write_text(json.dumps(old))
    other = tmp_path / "other" / "site.toml"
    keys.init(other, name="B")
    folder = load_site(other).folder / "keys"
    (folder / "node.key").write_bytes((load_site(site_file).folder / "keys" / "node.key").read_bytes())
    (folder / "request.json").unlink()
    with pytest.raises(RelayError, match="holds a key of site A"):
        admitted(coordinator, other, "B")


def test_a_request_of_an_earlier_version_is_made_again_with_its_keys(site_file: Path) -> None:
    _, request, path = keys.init(site_file, name="A")
    kept = load_site(site_file).folder / "keys" / "request.json"
    old = request.model_dump(exclude={"node_signature", "tls_signature"})
    for place in (kept, path):
        place.write_text(json.dumps(old))
    with pytest.raises(RelayError, match="not signed by both its keys"):
        read_enrolment_file(path, Request).public_keys()
    _, again, path = keys.init(site_file, name="A")
    assert again.fingerprint == request.fingerprint
    assert read_enrolment_file(path, Request).public_keys()


class SuperLink:
    """Stands in for Flower's: it knows nodes by their keys, and refuses a key that it has."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.asked: list[tuple[str, ...]] = []

    def ask(self, *words: str) -> dict[str, Any]:
        self.asked.append(words)
        if words[1] == "list":
            return {"nodes": [{"node-id": number, "status": "online"} for number in self.nodes]}
        if words[1] == "unregister":
            if words[2] not in self.nodes:
                raise RelayError("The SuperLink refused: no such node.")
            del self.nodes[words[2]]
            return {}
        key = Path(words[2]).read_text(encoding="ascii")
        if key in self.nodes.values():
            raise RelayError("The SuperLink refused: the public key is registered already.")
        number = str(len(self.asked))
        self.nodes[number] = key
        return {"node-id": number}


def test_one_bad_record_stops_no_other_hospital(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A", "B", "C", "D"):
        admitted(coordinator, tmp_path / name / "site.toml", name)
    a = json.loads((coordinator.sites / "A.json").read_text())
    b = json.loads((coordinator.sites / "B.json").read_text())
    (coordinator.sites / "B.json").write_text(json.dumps(b | {"node_key": a["node_key"]}))
    (coordinator.sites / "C.json").write_text("{")
    superlink = SuperLink()
    monkeypatch.setattr(Coordinator, "control", lambda self: superlink)
    told: list[str] = []
    enroll.update_superlink(coordinator, told.append)
    assert len(superlink.nodes) == 2
    assert [sentence for sentence in told if "C.json" in sentence and "cannot be read" in sentence]
    assert [sentence for sentence in told if sentence.startswith("At the SuperLink, site B alone is left as it was")]
    assert [sentence for sentence in told if "Site D was made known" in sentence]


def test_a_restored_backup_lets_nobody_in_again(coordinator: Coordinator, site_file: Path, tmp_path: Path) -> None:
    """A tar of the folder, unpacked over the folder."""
    record, _ = admitted(coordinator, site_file)
    admitted(coordinator, tmp_path / "b" / "site.toml", "B")
    backup = tmp_path / "backup"
    shutil.copytree(coordinator.folder, backup)
    enroll.revoke(coordinator, "A")
    shutil.copytree(backup, coordinator.folder, dirs_exist_ok=True)
    assert not enroll.record_of(coordinator, "A").revoked and revoked_serials(coordinator) == set()  # type: ignore[union-attr]
    told = enroll.keep_out(coordinator)
    assert len(told) == 1 and told[0].startswith("Site A was revoked on ") and "stays out" in told[0]
    assert enroll.record_of(coordinator, "A").revoked  # type: ignore[union-attr]
    assert not enroll.record_of(coordinator, "B").revoked  # type: ignore[union-attr]
    assert revoked_serials(coordinator) == set(record.serials)
    assert enroll.keep_out(coordinator) == []
    with pytest.raises(RelayError, match="revoked with these very keys"):
        admitted(coordinator, site_file)


def test_what_an_earlier_version_revoked_stays_revoked(
    coordinator: Coordinator, site_file: Path, tmp_path: Path
) -> None:
    record, _ = admitted(coordinator, site_file)
    enroll.revoke(coordinator, "A")
    shutil.rmtree(coordinator.revoked)
    admitted(coordinator, tmp_path / "b" / "site.toml", "B")
    enroll.revoke(coordinator, "B")
    assert revoked_serials(coordinator) >= set(record.serials)


def test_a_damaged_entry_of_the_list_is_one_sentence(coordinator: Coordinator, site_file: Path) -> None:
    admitted(coordinator, site_file)
    enroll.revoke(coordinator, "A")
    entry = next(coordinator.revoked.glob("*.json"))
    for text in ("", "{", entry.read_text().replace("20", "x")):
        entry.write_text(text)
        with pytest.raises(RelayError, match="of a revoked certificate cannot be read; restore it"):
            enroll.keep_out(coordinator)


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
    assert request.public_keys()


def test_the_site_file_that_is_written_holds_every_key_explained_and_nearly_all_by_default(
    site_file: Path,
) -> None:
    site, _, _ = keys.init(site_file, name="A")
    assert site == load_site(site_file)
    changed = {"name": "A", "images": site_file.parent / "images", "folder": site_file.parent / "private"}
    changed |= {"scoring_floor": 0.05, "split_key": "site"}
    for key, field in SiteConfig.model_fields.items():
        assert getattr(site, key) == changed.get(key, field.default), key
    text = site_file.read_text(encoding="utf-8")
    plain, table, query = text.partition("\n# [archive]\n")
    written = dict(re.findall(r"((?:^# .+\n)+)^(?:# )?(\w+) = ", plain, re.MULTILINE)).values()
    assert table and set(written) == set(SiteConfig.model_fields) - {"members", "archive"}
    asked = re.findall(r"^# (\w+) = (.+)$", query, re.MULTILINE)
    assert [name for name, _ in asked] == list(ArchiveConfig.model_fields)
    filled = tomllib.loads(plain + "".join(f"\n{line}" for line in ["[archive]", *(f"{k} = {v}" for k, v in asked)]))
    assert filled["archive"] == json.loads(ArchiveConfig().model_dump_json(exclude_none=True))
    for name, layout in layouts.known().items():
        assert re.search(rf"^# +{name} +{re.escape(layout.looks_for)}$", text, re.MULTILINE)
    assert "One of auto, cpu, cuda, mps." in text


def test_a_change_writes_the_kits_of_those_who_may_take_part_alone(coordinator: Coordinator, tmp_path: Path) -> None:
    for name in ("A", "B"):
        admitted(coordinator, tmp_path / name / "site.toml", name)
    enroll.revoke(coordinator, "B")
    settings, kits = enroll.change(coordinator, host="other.example.org")
    assert settings.host == "other.example.org"
    assert kits == [coordinator.kits / "A.kit"]
    hosts = [read_enrolment_file(coordinator.kits / f"{name}.kit", Kit).host for name in ("A", "B")]
    assert hosts == ["other.example.org", HOST]


def test_a_change_with_a_damaged_kit_changes_nothing(coordinator: Coordinator, site_file: Path) -> None:
    _, kit = admitted(coordinator, site_file)
    kit.write_text("damaged", encoding="utf-8")
    before = {path: path.read_bytes() for path in coordinator.folder.rglob("*") if path.is_file()}
    with pytest.raises(RelayError, match="A.kit"):
        enroll.change(coordinator, host="other.example.org", superlink="127.0.0.1:8010")
    assert {path: path.read_bytes() for path in coordinator.folder.rglob("*") if path.is_file()} == before

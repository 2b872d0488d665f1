"""A hospital without a network, served by a courier: the table is that of three hospitals with one, bit for bit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

from client.governance import audit_log
from client.site_config import load_site
from common.errors import RelayError
from common.protocol.codec import to_record
from common.protocol.messages import DESCRIBE, Describe
from common.protocol.parcel import read_parcel, write_parcel
from deploy.coordinator import courier, enroll
from deploy.coordinator.folder import Coordinator
from deploy.coordinator.study_status import presences
from deploy.pki.certificates import make_server, new_key, pem, read_certificate, read_key
from deploy.pki.sealing import seal
from deploy.simulation.local_grid import LocalGrid, enter_run
from deploy.site import courier as at_site
from deploy.site import keys
from server.study_run import run_study
from server.transport import courier as mail
from tests.support.hospitals import approve_everywhere, forget_stages, run_on_grid, small_study, write_hospitals

STUDY = small_study(
    split={"use_folds": 1, "source": "same-fold"},
    methods={"baseline": True, "sequential": {"routes": (("A", "C"), ("C", "B"))}},
)
RELAY = [sys.executable, "-m", "deploy.cli"]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 4, "B": 4, "C": 4}, slices=5)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Coordinator:
    return enrolled(tmp_path_factory.mktemp("coordinator"), {name: hospitals[name] for name in ("B", "C")})


def enrolled(folder: Path, sites: dict[str, Path]) -> Coordinator:
    made = Coordinator(folder / "relay-coordinator")
    enroll.set_up(made, host="localhost", port=9443, superlink="localhost:9092")
    for name, path in sites.items():
        _, request, request_path = keys.init(path, name=name)
        _, kit = enroll.enroll(made, name, request_path, heard=request.fingerprint)
        keys.join(path, kit)
    return made


def at_the_site(site: Path, order: Path) -> Path:
    """`relay courier run`, in a process of its own as at a hospital."""
    done = subprocess.run(
        [*RELAY, "courier", "run", str(site), str(order)], capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    return order.with_suffix(".answer")


class Study:
    """A study that runs, with A and B on the embedded grid and C by courier."""

    def __init__(self, sites: dict[str, Path], out: Path) -> None:
        self.out, self.results, self._sites = out, {}, sites
        courier.begin(out, ["C"])
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with LocalGrid({name: self._sites[name] for name in ("A", "B")}, at_once=1) as grid:
            self.results = run_study(grid, STUDY, self.out, beside=self.out, observe=lambda _: None)

    def orders(self, coordinator: Coordinator, to: Path) -> Iterator[Path]:
        """Each order that is packed while the study runs."""
        while self._thread.is_alive():
            try:
                yield from courier.pack(coordinator, self.out, "C", to)
            except RelayError:
                time.sleep(0.2)


@pytest.mark.slow
def test_the_table_is_that_of_three_hospitals_with_a_network_whatever_happens_to_parcels(
    hospitals: dict[str, Path], coordinator: Coordinator, tmp_path: Path
) -> None:
    approve_everywhere(hospitals, STUDY)
    study, carried, refused = Study(hospitals, tmp_path / "out"), 0, []
    left_before = len(audit_log.read(load_site(hospitals["C"]).private() / "egress.jsonl").lines)
    kept: list[Path] = []
    for order in study.orders(coordinator, tmp_path / "medium"):
        if carried == 1:  # lost on the way, and packed again
            order.unlink()
            (order,) = courier.pack(coordinator, study.out, "C", tmp_path / "medium")
        answer = at_the_site(hospitals["C"], order)
        for earlier in kept:  # an old answer, brought once more
            with pytest.raises(RelayError, match="answers no order that waits"):
                courier.take(coordinator, study.out, earlier)
        assert courier.take(coordinator, study.out, answer) == "C"
        try:  # the same one twice, before or after the study has read it
            courier.take(coordinator, study.out, answer)
        except RelayError as error:
            refused.append(str(error))
        kept.append(answer.rename(tmp_path / f"{carried}.answer"))
        carried += 1
    assert carried >= 5 and len(refused) == carried
    left = audit_log.read(load_site(hospitals["C"]).private() / "egress.jsonl").lines[left_before:]
    assert len(left) >= carried and not any(line.get("simulation") for line in left)
    forget_stages(hospitals)
    whole, _ = run_on_grid(STUDY, hospitals, tmp_path / "whole")
    plain = [json.loads(json.dumps(found)) for found in (study.results, whole)]
    assert plain[0] == plain[1] and plain[0]["parked"] == []
    weights = [sorted(path.name for path in (out / "weights").iterdir()) for out in (study.out, tmp_path / "whole")]
    assert weights[0] == weights[1]


class Waiting:
    """An order that waits for C, and what a courier can do with it."""

    def __init__(self, coordinator: Coordinator, hospitals: dict[str, Path], folder: Path) -> None:
        self.coordinator, self.hospitals, self.folder = coordinator, hospitals, folder
        self.out = folder / "out"
        courier.begin(self.out, ["C"])
        enter_run(1)
        message = Message(to_record(Describe(study=STUDY.digest)), dst_node_id=1, message_type=DESCRIBE)
        (self.number,) = mail.couriers_in(self.out)["C"].push_messages([message])
        (self.order,) = courier.pack(coordinator, self.out, "C", folder / "medium")

    def content(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.out.rglob("*")) if path.is_file()}


@pytest.fixture
def waiting(coordinator: Coordinator, hospitals: dict[str, Path], tmp_path: Path) -> Waiting:
    return Waiting(coordinator, hospitals, tmp_path)


def run(site: Path, order: Path) -> None:
    at_site.run(site, order, None, observe=lambda *_: None)


def test_both_sides_name_the_same_folders() -> None:
    assert (courier.FOLDER, courier.WAITING, courier.ANSWERED) == (mail.FOLDER, mail.WAITING, mail.ANSWERED)


def test_nobody_on_the_way_reads_or_changes_an_order(waiting: Waiting) -> None:
    sealed = waiting.order.read_bytes()
    assert STUDY.digest.encode() not in sealed
    before = audit_log.read(load_site(waiting.hospitals["C"]).private() / "egress.jsonl").lines
    for place in (20, len(sealed) // 2, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        waiting.order.write_bytes(bytes(changed))
        with pytest.raises(RelayError):
            run(waiting.hospitals["C"], waiting.order)
    for cut in (sealed[:10], sealed[: len(sealed) // 2], b""):
        waiting.order.write_bytes(cut)
        with pytest.raises(RelayError):
            run(waiting.hospitals["C"], waiting.order)
    assert audit_log.read(load_site(waiting.hospitals["C"]).private() / "egress.jsonl").lines == before
    assert not waiting.order.with_suffix(".answer").exists()


def test_another_site_cannot_open_an_order(waiting: Waiting) -> None:
    with pytest.raises(RelayError, match="sealed for another reader"):
        run(waiting.hospitals["B"], waiting.order)


def test_another_coordinators_order_is_not_done(waiting: Waiting, tmp_path: Path) -> None:
    stranger = write_hospitals(tmp_path / "others", {"C": 1})
    other = enrolled(tmp_path / "other", stranger)
    own = load_site(waiting.hospitals["C"]).private() / "keys" / "kit.json"
    # The stranger seals for the right key, which is no secret.
    shutil.copy(waiting.coordinator.kits / "C.kit", other.kits / "C.kit")
    (order,) = courier.pack(other, waiting.out, "C", tmp_path / "theirs")
    assert own.exists()
    with pytest.raises(RelayError, match="not from the coordinator whose kit this site took"):
        run(waiting.hospitals["C"], order)


def test_the_gateways_key_gives_no_orders(waiting: Waiting) -> None:
    """Its certificate is of the same authority, and it lies on a machine that the internet reaches."""
    ca = waiting.coordinator.ca
    key = new_key()
    certificate = make_server(
        ["localhost"], key, ca=read_certificate(ca / "server-ca.crt"), ca_key=read_key(ca / "server-ca.key")
    )
    reader = read_key(load_site(waiting.hospitals["C"]).private() / "keys" / "tls.key").public_key()
    head = {"kind": "order", "site": "C", "id": waiting.number, "certificate": pem(certificate).decode()}
    waiting.order.write_bytes(seal(b"x", head, to=reader, by=key))
    with pytest.raises(RelayError, match="not from the coordinator"):
        run(waiting.hospitals["C"], waiting.order)


@pytest.mark.slow
def test_an_answer_of_another_or_changed_or_for_another_order_changes_nothing(waiting: Waiting, tmp_path: Path) -> None:
    approve_everywhere(waiting.hospitals, STUDY)
    answer = at_the_site(waiting.hospitals["C"], waiting.order)
    sealed, before = answer.read_bytes(), waiting.content()
    changed = bytearray(sealed)
    changed[-1] ^= 1
    answer.write_bytes(bytes(changed))
    with pytest.raises(RelayError, match="changed on its way"):
        courier.take(waiting.coordinator, waiting.out, answer)
    # B signs what it says is C's: under C's name it has not the key, under its own the order is not B's.
    reader = read_certificate(waiting.coordinator.courier / "courier.crt").public_key()
    theirs = read_key(load_site(waiting.hospitals["B"]).private() / "keys" / "tls.key")
    parcel = read_parcel((waiting.out / "courier/C/waiting" / waiting.number).read_bytes())
    for name in ("C", "B"):
        head = {"kind": "answer", "site": name, "id": waiting.number}
        answer.write_bytes(seal(b"".join(write_parcel(parcel)), head, to=reader, by=theirs))  # type: ignore[arg-type]
        with pytest.raises(RelayError, match=r"changed on its way|answers no order"):
            courier.take(waiting.coordinator, waiting.out, answer)
    answer.write_bytes(waiting.order.read_bytes())  # an order is no answer
    with pytest.raises(RelayError, match="is no answer of a site"):
        courier.take(waiting.coordinator, waiting.out, answer)
    elsewhere = tmp_path / "another-study"
    courier.begin(elsewhere, ["C"])
    answer.write_bytes(sealed)
    with pytest.raises(RelayError, match="answers no order that waits"):
        courier.take(waiting.coordinator, elsewhere, answer)
    assert waiting.content() == before
    assert courier.take(waiting.coordinator, waiting.out, answer) == "C"


@pytest.mark.slow
def test_what_was_not_approved_is_refused_in_the_answer(waiting: Waiting) -> None:
    shutil.rmtree(load_site(waiting.hospitals["C"]).private() / "approved", ignore_errors=True)
    done = subprocess.run(
        [*RELAY, "courier", "run", str(waiting.hospitals["C"]), str(waiting.order)],
        capture_output=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "the order was refused" in done.stdout
    courier.take(waiting.coordinator, waiting.out, waiting.order.with_suffix(".answer"))
    (reply,) = mail.couriers_in(waiting.out)["C"].pull_messages([waiting.number])
    assert reply.has_error() and reply.error.reason


def test_a_site_that_was_revoked_or_has_no_order_gets_nothing(waiting: Waiting, tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="No courier serves site B"):
        courier.pack(waiting.coordinator, waiting.out, "B", tmp_path)
    courier.begin(waiting.out, ["B"])
    with pytest.raises(RelayError, match="No order waits for site B"):
        courier.pack(waiting.coordinator, waiting.out, "B", tmp_path)
    copy = Coordinator(tmp_path / "copy")
    shutil.copytree(waiting.coordinator.folder, copy.folder)
    record: dict[str, Any] = json.loads((copy.sites / "C.json").read_text(encoding="utf-8"))
    record["revoked"] = "2026-01-01T00:00:00+00:00"
    (copy.sites / "C.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(RelayError, match="was revoked on 2026-01-01"):
        courier.pack(copy, waiting.out, "C", tmp_path)


def test_the_same_order_after_a_restart_has_the_same_number_and_finds_its_answer(waiting: Waiting) -> None:
    order = Message(to_record(Describe(study=STUDY.digest)), dst_node_id=1, message_type=DESCRIBE)
    box = mail.couriers_in(waiting.out)["C"]
    answered = waiting.out / "courier/C/answered" / waiting.number
    answered.parent.mkdir(exist_ok=True)
    answered.write_bytes((waiting.out / "courier/C/waiting" / waiting.number).read_bytes())
    assert list(box.push_messages([order])) == [waiting.number] and answered.exists()
    other = Message(to_record(Describe(study="0" * 64)), dst_node_id=1, message_type=DESCRIBE)
    (number,) = box.push_messages([other])
    assert number != waiting.number and not answered.exists()


def test_who_is_served_by_a_courier_is_not_missing(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = SimpleNamespace(ask=lambda *_: {"nodes": []})
    monkeypatch.setattr(Coordinator, "control", lambda _: nobody)
    assert [one["site"] for one in presences(waiting.coordinator)] == ["B", "C"]
    assert [one["site"] for one in presences(waiting.coordinator, waiting.out)] == ["B"]

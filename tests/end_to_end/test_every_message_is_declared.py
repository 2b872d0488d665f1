"""What a whole study says inside TLS, byte for byte: declared messages and nothing else, as much as was approved."""

from __future__ import annotations

import hashlib
import json
import subprocess
import typing
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from flwr.app import ConfigRecord
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from client.governance import audit_log
from client.governance.approval import Approval, approvals
from client.site_config import load_site
from common.model.weights import Weights
from common.protocol.codec import BadMessage, from_record, to_record
from common.protocol.messages import (
    DELIVER,
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    Description,
    EvaluateReply,
    FineTuneReply,
    FromSite,
    ToSite,
    WireMessage,
)
from common.protocol.refusals import REFUSALS
from deploy.flower.supervisor import a_free_port
from deploy.site.approve import approve_study
from tests.end_to_end.test_deployed import STUDY, Bench
from tests.end_to_end.test_names_never_leave import assert_silent, write_named_hospitals
from tests.support.federation import RELAY, Federation
from tests.support.recorder import Exchange, Recorder
from tests.support.selected import best_row

pytestmark = pytest.mark.slow

CALLS: dict[str, tuple[Any, Any]] = {
    "activate-node": (fleet_pb2.ActivateNodeRequest, fleet_pb2.ActivateNodeResponse),
    "deactivate-node": (fleet_pb2.DeactivateNodeRequest, fleet_pb2.DeactivateNodeResponse),
    "send-node-heartbeat": (heartbeat_pb2.SendNodeHeartbeatRequest, heartbeat_pb2.SendNodeHeartbeatResponse),
    "get-run": (run_pb2.GetRunRequest, run_pb2.GetRunResponse),
    "get-fab": (fab_pb2.GetFabRequest, fab_pb2.GetFabResponse),
    "pull-messages": (fleet_pb2.PullMessagesRequest, fleet_pb2.PullMessagesResponse),
    "push-messages": (fleet_pb2.PushMessagesRequest, fleet_pb2.PushMessagesResponse),
    "pull-object": (message_pb2.PullObjectRequest, message_pb2.PullObjectResponse),
    "push-object": (message_pb2.PushObjectRequest, message_pb2.PushObjectResponse),
    "confirm-message-received": (
        message_pb2.ConfirmMessageReceivedRequest,
        message_pb2.ConfirmMessageReceivedResponse,
    ),
}
"""Flower's fleet interface: what a SuperNode asks, and what it is answered."""


class Recorded:
    """A study of two hospitals that are apart, and all that was said in its course."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bench = Bench(folder, write_named_hospitals(folder / "hospitals"))
        self.sites = self.bench.sites
        self.approved: dict[str, Approval] = {}
        for name, path in self.sites.items():
            approve_study(load_site(path), STUDY, yes=True)
            (self.approved[name],) = approvals(load_site(path))
        with Federation(folder, self.sites, dialled=a_free_port()) as federation:
            with Recorder(federation.coordinator, federation.gateway_port) as recorder:
                federation.start("superlink", "superexec", "A", "B")
                run = federation.study(str(self.bench.study), "--out", str(folder / "out"))
                self.printed, errors = run.communicate(timeout=420)
                assert run.returncode == 0, errors + federation.told()
                words = ("--dir", str(federation.coordinator.folder), "--out", str(folder / "out"), "--json")
                status = federation.relay("study", "status", *words)
                assert status.returncode == 0
                self.status = json.loads(status.stdout)
            self.exchanges: list[Exchange] = recorder.exchanges
        self.objects: dict[str, bytes] = {}
        """All that was sent in either direction, by its digest."""
        self.pushed: dict[str, set[str]] = {name: set() for name in self.sites}
        self.decoded = [(exchange, *decoded(exchange)) for exchange in self.exchanges]
        for exchange, asked, answered in self.decoded:
            if exchange.path.endswith("/push-object"):
                self.objects[asked.object_id] = asked.object_content
                self.pushed[exchange.site].add(asked.object_id)
            elif exchange.path.endswith("/pull-object") and answered.object_available:
                self.objects[asked.object_id] = answered.object_content

    def messages(self, *, orders: bool) -> Iterator[tuple[str, Any, set[str]]]:
        """Site, message, and the objects that it is made of: orders that came, or answers that left."""
        seen = set()
        for exchange, asked, answered in self.decoded:
            if exchange.path.endswith("/pull-messages" if orders else "/push-messages"):
                told = answered if orders else asked
                assert len(told.messages_list) == len(told.message_object_trees)
                for tree in told.message_object_trees:
                    parts = {part.object_id for part in iterate_object_tree(tree)}
                    if tree.object_id not in seen and parts <= self.objects.keys():
                        seen.add(tree.object_id)
                        message = inflate_object_from_contents(tree.object_id, self.objects, keep_object_contents=True)
                        yield exchange.site, message, parts

    def answers(self, site: str) -> dict[tuple[type[WireMessage], str, str], tuple[WireMessage, Weights | None]]:
        """What left a site, each answer once, however often it was asked for."""
        found = {}
        for name, message, _ in self.messages(orders=False):
            if name == site and not message.has_error():
                answer, weights = declared(message.content)
                key = (type(answer), getattr(answer, "key", ""), getattr(answer, "state", ""))
                found[key] = (answer, weights)
        return found


def decoded(exchange: Exchange) -> tuple[Any, Any]:
    """Both sides of an exchange; every byte of either is a declared field of Flower's."""
    kinds = CALLS[exchange.path.removeprefix("/v1/fleet/")]
    made = []
    for kind, content in zip(kinds, (exchange.request, exchange.response), strict=True):
        if kind is kinds[1] and exchange.status != 200:
            made.append(kind())
            continue
        message = kind.FromString(content)
        message.DiscardUnknownFields()
        again = message.SerializeToString(deterministic=True)
        # The SuperLink does not sort its tables before it sends them.
        assert again == content or (kind is kinds[1] and sorted(again) == sorted(content))
        made.append(message)
    return made[0], made[1]


def declared(record: Any) -> tuple[WireMessage, Weights | None]:
    """The one declared answer that a record is."""
    (one,) = fitting(record, FromSite)
    return one


def fitting(record: Any, kinds: Any) -> list[tuple[WireMessage, Weights | None]]:
    found = []
    for kind in typing.get_args(kinds):
        with suppress(BadMessage):
            found.append(from_record(record, kind))
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("recorded"))


def test_a_study_over_flowers_engine_gives_what_it_gives_embedded(recorded: Recorded) -> None:
    assert {entry["site"]: entry["online"] for entry in recorded.status["present"]} == {"A": True, "B": True}
    assert recorded.status["state"] == "done"
    assert json.loads(recorded.printed) == recorded.bench.embedded
    recorded.bench.assert_equal(recorded.folder / "out")


def test_the_hospital_has_the_weights_that_its_patients_chose(recorded: Recorded, tmp_path: Path) -> None:
    """A, where the route ends; it draws with them. At B none ends, and nothing is sent there."""
    best = best_row(row for row in recorded.bench.embedded["rows"] if row["target"] == "A")
    out, site = recorded.folder / "out", recorded.sites["A"]
    assert best["target"] == "A" and "A: delivered: B → A" in (out / "study.log").read_text(encoding="utf-8")
    folder = tmp_path / "received"
    done = relay("site", "receive", str(site), "--to", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads(done.stdout)["received"]
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == best["weights"] == outcome["selected"]["weights"]
    assert outcome["selected"]["checked"], "by the site's own record"
    assert outcome["selected"]["scores"]["dice"]["mean"] == pytest.approx(best["dice"], abs=1e-5)
    assert "Keep your own model" in (folder / "letter.txt").read_text(encoding="utf-8"), "nothing was compared"
    delivered = json.loads((out / "run.json").read_text(encoding="utf-8"))["delivered"]
    assert delivered == {"A": {"study": STUDY.digest, "selected": digest}}
    nothing = relay("site", "receive", str(recorded.sites["B"]))
    assert nothing.returncode == 1 and "Nothing has arrived at site B yet" in nothing.stderr
    mask = folder / "mask.nii.gz"
    scan = next(path for path in site.parent.rglob("*") if path.suffix == ".dcm" or path.name.endswith(".nii.gz"))
    given = scan.parent if scan.suffix == ".dcm" else scan
    drawn = relay("predict", str(folder / "model.safetensors"), str(given), "-o", str(mask))
    assert drawn.returncode == 0, drawn.stderr
    assert sitk.ReadImage(str(mask)).GetSize()[:2] == sitk.ReadImage(str(scan)).GetSize()[:2]


def relay(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RELAY, *words], capture_output=True, encoding="utf-8", timeout=120)


def test_every_request_is_one_of_flowers_and_says_nothing_else(recorded: Recorded) -> None:
    assert {exchange.site for exchange in recorded.exchanges} == {"A", "B"}
    assert {exchange.path.removeprefix("/v1/fleet/") for exchange in recorded.exchanges} <= CALLS.keys()
    for exchange in recorded.exchanges:
        for line in filter(None, exchange.headers.splitlines()):
            name = line.partition(":")[0].lower()
            assert name in HEADERS or name.startswith(("flwr-", "x-flwr-")), line


HEADERS = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"}


def test_every_answer_is_a_declared_message_to_the_last_byte(recorded: Recorded) -> None:
    of_answers: dict[str, set[str]] = {name: set() for name in recorded.sites}
    kinds: Counter[str] = Counter()
    for site, message, parts in recorded.messages(orders=False):
        of_answers[site] |= parts
        assert hashlib.sha256(message.deflate()).hexdigest() in parts
        if message.has_error():
            assert REFUSALS[message.error.code] == message.error.reason
            continue
        answer, weights = declared(message.content)
        kinds[type(answer).__name__] += 1
        again = get_all_nested_objects(to_record(answer, weights))
        for name, part in again.items():
            assert recorded.objects[name] == part.deflate()
        # The message itself, which holds Flower's own numbers, and its content: no part is left over.
        assert parts == {*again, message.object_id}
        assert message.metadata.group_id == "" or message.metadata.group_id.isprintable()
    assert kinds.keys() == {"Description", "FineTuneReply", "EvaluateReply", "Receipt"}
    for site, pushed in recorded.pushed.items():
        assert pushed and pushed <= of_answers[site], "something was sent that belongs to no answer"


def test_every_order_is_a_declared_message(recorded: Recorded) -> None:
    orders = [message for _, message, _ in recorded.messages(orders=True)]
    assert {message.metadata.message_type for message in orders} == {DESCRIBE, FINE_TUNE, EVALUATE, DELIVER}
    for message in orders:
        assert fitting(message.content, ToSite)


def test_no_planted_name_is_in_any_byte(recorded: Recorded) -> None:
    pieces = [
        piece
        for exchange in recorded.exchanges
        for piece in (
            exchange.path.encode(),
            exchange.headers.encode(),
            exchange.request,
            exchange.response,
        )
    ]
    assert sum(map(len, pieces)) > 100 * 2**20, "the weights are among them"
    assert_silent(pieces, also=(str(recorded.folder / "hospitals"), "Case0", ".dcm", ".nrrd", ".nii"))
    for path in recorded.sites.values():
        # The key under which the fingerprint of the data is made: without it nobody can try out names or files.
        key = (load_site(path).folder / "site.key").read_bytes()
        assert not any(form in piece for piece in pieces for form in (key, key.hex().encode()))


def test_as_much_leaves_as_was_shown_when_it_was_approved(recorded: Recorded) -> None:
    for name, record in recorded.approved.items():
        shown = record.disclosure
        assert shown is not None and shown.exact
        numbers: Counter[type] = Counter()
        tensors = weight_bytes = trainings = scorings = 0
        for (kind, _, state), (answer, weights) in recorded.answers(name).items():
            if state == "needs-weights":
                continue
            numbers[kind] += numbers_of(to_record(answer)["message"])
            if kind is FineTuneReply:
                assert weights is not None
                trainings += 1
                tensors += len(weights)
                weight_bytes += sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
            scorings += kind is EvaluateReply
        assert (trainings, tensors, weight_bytes) == (shown.trainings, shown.tensors, shown.weight_bytes)
        assert scorings == shown.validations + shown.tests
        assert sum(numbers[kind] for kind in (FineTuneReply, EvaluateReply)) == (
            shown.training_numbers + shown.scoring_numbers + shown.patient_numbers
        )
        assert numbers[Description] == shown.description_numbers


def numbers_of(record: Any) -> int:
    assert isinstance(record, ConfigRecord)
    lists = [value if isinstance(value, list) else [value] for value in record.values()]
    return sum(not isinstance(value, str | bytes | bool) for values in lists for value in values)


def test_the_sites_own_log_says_what_was_recorded(recorded: Recorded) -> None:
    for name, path in recorded.sites.items():
        log = audit_log.read(load_site(path).folder / "egress.jsonl")
        assert log.fault == ""
        logged = {(line["kind"], line["stage"], line["state"]): line["digest"] for line in log.lines}
        for (kind, key, state), (answer, _) in recorded.answers(name).items():
            digest = hashlib.sha256(answer.model_dump_json().encode()).hexdigest()
            assert logged[kind.__name__, key, state] == digest
            assert json.loads(answer.model_dump_json())["study"] == STUDY.digest

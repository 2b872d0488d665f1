"""A history: a study from its first start to its last, struck by what a seed has planned for it.

A person does what the program's sentences say: starts again, makes room, approves again. When nothing is planned
any more, the study must end with exactly the results, the ledger and the weights of the undisturbed run.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message

import client.app
import client.stages.evaluate
import client.stages.fine_tune
import client.stages.order
import client.stages.store
import common.files
import server.ledger.ledger
import server.transport.retry
from client.app import app
from client.governance import audit_log, egress
from client.governance.approval import approve
from client.site_config import SiteConfig
from client.training.device import choose_device
from common.config.study import Study
from common.digest import digest_of
from common.errors import RelayError
from common.model.weights import serialize_chunks
from common.plan.graph import FineTune
from common.plan.stage_key import ExecutionEnvironment, stage_key
from common.protocol.codec import BadMessage, from_record, to_record
from common.protocol.messages import FINE_TUNE, FineTuneOrder, FineTuneReply
from server import descriptions, run_record
from server.scheduling import dispatch, scheduler, weight_owners, work
from server.study_run import run_study
from server.transport import discovery, site_channel
from tests.faults.disk import Disks
from tests.faults.engine import Door, Engine, Failed, Node
from tests.faults.hospital import Hospitals
from tests.faults.kernel import Kernel, Process
from tests.faults.plans import COORDINATOR, Fault

PATIENCE = 3600.0
MOST_STARTS = 12


@dataclass(frozen=True)
class Bench:
    """A study that histories are made of."""

    name: str
    study: Study
    epoch_seconds: float


@dataclass
class Ending:
    """What a study has left behind."""

    results: bytes
    ledger: dict[str, Any]
    weights: frozenset[str]
    counts: dict[tuple[str, str], int]
    """By who and what, how often it happened."""
    again: tuple[str, ...]
    """Stages that a site has finished once more."""
    removed: tuple[str, ...]
    """Records that the coordinator has taken away."""
    logs: tuple[str, ...]
    """What is wrong with the hospitals' logs of what left."""


class Strikes:
    """The faults that strike at one use."""

    def __init__(self, history: History, faults: list[Fault]) -> None:
        self.history, self.faults = history, faults

    def any(self, moment: str) -> bool:
        return any(fault.moment == moment for fault in self.faults)

    def __call__(self, moment: str, subject: Any) -> None:
        for fault in [fault for fault in self.faults if fault.moment == moment]:
            self.history.strike(fault, subject)


class _Nothing:
    def any(self, _: str) -> bool:
        return False

    def __call__(self, moment: str, subject: Any) -> None:
        pass


NOTHING = _Nothing()


class History:
    """The world in which a study runs."""

    def __init__(self, bench: Bench, folder: Path, seed: int, faults: tuple[Fault, ...]) -> None:
        self.bench, self.folder, self.faults = bench, folder, faults
        self.kernel = Kernel(seed)
        self.out = folder / "out"
        self.counts: Counter[tuple[str, str]] = Counter()
        self.told: list[str] = []
        """What happened, line by line; the same for the same seed."""
        self.starts = 0
        self._due: dict[tuple[str, str, int], list[Fault]] = {}
        for fault in faults:
            self.plan(fault)
        self.disks = Disks(self.kernel, self.count)
        sites = {}
        for name in bench.study.sites:
            site = SiteConfig(
                name=name, layout="nifti-pairs", images=folder, folder=folder / name, device="cpu", patient_scores=True
            )
            (site.private() / "site.key").write_bytes(name.encode() * 32)
            approve(site, bench.study)
            sites[name] = site
        self.hospitals = Hospitals(sites, self.kernel.sleep, bench.epoch_seconds)
        self.finished: set[tuple[str, str]] = set()
        """Site and key of every stage that a site has finished."""
        self.again: list[str] = []
        """Stages that were finished once more."""
        self.struck_since_start = False
        self.engine = Engine(self.kernel, bench.study.sites, app, self.count)

    # Faults.

    def plan(self, fault: Fault) -> None:
        self._due.setdefault((fault.actor, fault.kind, fault.nth), []).append(fault)

    def count(self, kind: str) -> Strikes | _Nothing:
        actor = self.kernel.process.actor
        number = self.counts[actor, kind] = self.counts[actor, kind] + 1
        due = self._due.pop((actor, kind, number), None)
        return NOTHING if due is None else Strikes(self, due)

    def tell(self, text: str) -> None:
        self.told.append(f"{self.kernel.now:9.2f}  {text.replace(str(self.folder), '…')}")

    def strike(self, fault: Fault, subject: Any) -> None:
        """One fault, now. Raises what it raises where it strikes."""
        self.tell(f"{fault}{f' ({subject.name})' if isinstance(subject, Path) and subject.name[:1] != '.' else ''}")
        self.struck_since_start = True
        kernel, random, process = self.kernel, self.kernel.random, self.kernel.process
        actor = process.actor
        match fault.harm:
            case "killed":
                kernel.kill(process)
            case "power fails":
                self._power_fails(actor)
            case "disk is full":
                self.disks.full.add(actor)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "input/output error" | "reading fails":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            case "a bit changes":
                self._flip(actor if random.random() < 0.7 else random.choice((COORDINATOR, *self.engine.nodes)))
            case "killed, and a bit changes":
                process.at_end.append(lambda: self._flip(actor))
                kernel.kill(process)
            case "slow":
                kernel.sleep(random.choice((30.0, 600.0, 7200.0)))
            case "clock jumps":
                kernel.jumped[actor] = kernel.jumped.get(actor, 0.0) + random.choice((60.0, 86400.0))
            case "a second coordinator":
                self._second_coordinator()
            case "leaves for good":
                self.engine.kill(self.engine.nodes[actor], away=math.inf, silently=False)
            case "a hospital dies":
                self._die(random.choice(list(self.engine.nodes.values())))
            case "this hospital dies":
                self._die(self.engine.nodes[actor])
            case "engine fails":
                times = random.choice((1, 1, 3))
                for more in range(1, times):
                    number = self.counts[actor, fault.kind] + more
                    self.plan(Fault(actor, fault.kind, number, "before", "engine fails once more"))
                raise Failed(random.choice((500, 503)))
            case "engine fails once more":
                raise Failed(500)
            case "engine is away":
                self.engine.outage_until = kernel.now + random.choice((5.0, 300.0))
            case _:
                self._strike_on_the_way(fault, subject)

    def _strike_on_the_way(self, fault: Fault, subject: Any) -> None:
        engine, random = self.engine, self.kernel.random
        if fault.kind == "push":
            order = engine.orders.get(subject[0]) if subject else None
            node = order and next(node for node in engine.nodes.values() if order in node.waiting)
            if order is None or node is None:
                return
            node.waiting.remove(order)
            if fault.harm == "order comes twice":
                node.waiting += [order, order]
            elif fault.harm == "order is overtaken":
                self._later(random.choice((1.0, 200.0)), lambda: node.waiting.append(order))
            return
        if fault.harm == "forged order":
            self._forge(engine.nodes[self.kernel.process.actor])
            return
        order, reply = subject
        name = order.metadata.message_id
        engine.answers.pop(name, None)
        older = engine.nodes[self.kernel.process.actor].answered[:-1]
        match fault.harm:
            case "answer is lost, and a bit changes":
                self._flip(self.kernel.process.actor)
            case "answer becomes an error":
                engine.say(order, Message(Error(random.choice((3, 4, 5)), "lost"), reply_to=order))
            case "answer is late":
                engine.say(order, reply, random.choice((1.0, 10.0, 300.0)))
            case "older answer comes again" if older:
                engine.answers[name] = random.choice(older)[1]
                engine.later[name] = reply
            case "another answer in its place" if older:
                other = random.choice(older)[1]
                if not other.has_error():
                    engine.say(order, Message(other.content, reply_to=order))

    def _later(self, seconds: float, act: Any) -> None:
        def wait() -> None:
            self.kernel.sleep(seconds)
            act()

        self.kernel.spawn(Process("later", "", 0), wait)

    def _die(self, node: Node) -> None:
        random = self.kernel.random
        silently = random.random() < 0.5
        away = random.choice((2.0, 60.0, 2000.0))
        self.tell(f"  {node.name} is away for {away:.0f} s{', silently' if silently else ''}")
        self.engine.kill(node, away=away, silently=silently)

    def _power_fails(self, actor: str) -> None:
        if actor == COORDINATOR:
            self.kernel.process.at_end.append(lambda: self.disks.power_fails(actor))
            self.kernel.kill(self.kernel.process)
        else:
            node = self.engine.nodes[actor]
            assert node.process is not None
            node.process.at_end.append(lambda: self.disks.power_fails(actor))
            self.engine.kill(node, away=120.0, silently=False)

    def _flip(self, actor: str) -> None:
        path = self.disks.flip(self._finished_files(actor), actor)
        self.tell(f"  in {path and path.relative_to(self.folder)}")

    def _finished_files(self, actor: str) -> Iterator[Path]:
        """Those of one kind, since of some there are many."""
        folders = [self.out / name for name in ("ledger", "weights", "ledger", "weights", "descriptions")]
        if actor != COORDINATOR:
            private = self.hospitals.sites[actor].folder
            folders = [private / "stages", private / "stages", private / "answered"]
        folder = self.kernel.random.choice(folders)
        yield from (path for path in folder.rglob("*") if path.is_file() and path.name[:1] != ".")

    def _second_coordinator(self) -> None:
        """Whoever starts a second one on the same folder is refused, and disturbs nobody."""
        if not self.out.exists() or not (self.out / ".lock").exists():
            return
        with pytest.raises(RelayError, match="Another study is writing"):
            server.ledger.ledger.Ledger(self.out)

    def _forge(self, node: Node) -> None:
        """A stage that the site has answered is asked for once more, from other weights."""
        asked = [order for order, reply in node.answered if not reply.has_error()]
        asked = [order for order in asked if order.metadata.message_type == FINE_TUNE]
        if not asked:
            return
        copied = self.kernel.random.choice(asked)
        order, _ = from_record(copied.content, FineTuneOrder)
        other = {"count": torch.tensor(7), "layer": torch.ones(2, 3)}
        site, study = self.hospitals.sites[node.name], self.bench.study
        census = {name: tuple(counts) for name, counts in json.loads(order.census).items()}
        choices = {name: tuple(selected) for name, selected in json.loads(order.choices).items()}
        training = client.stages.order.plan(study, census, choices).by_id[order.node]
        assert isinstance(training, FineTune)
        device = choose_device(site.device, study.training.precision)
        environment = ExecutionEnvironment(order.fingerprint, torch.__version__, device.kind, device.precision)
        digest = digest_of(serialize_chunks(other))
        forged = order.model_copy(
            update={
                "weights": digest,
                "key": stage_key(training, study=study, weights=digest, environment=environment),
                "acknowledged": (),
            }
        )
        message = Message(to_record(forged, other), dst_node_id=node.number, message_type=FINE_TUNE)
        name = self.engine.push(message)

        def look() -> None:
            self.kernel.wait(lambda: name in self.engine.answers, 86400.0)
            reply = self.engine.answers.get(name)
            if reply is None or reply.has_error():
                return
            with suppress(BadMessage):  # another answer may have come in its place
                assert from_record(reply.content, FineTuneReply)[0].key != forged.key, "a stage from two weights"

        self.kernel.spawn(Process("an impostor", "", 0), look)

    # What a person does.

    def start(self, *, keep_weights: bool = False) -> str | None:
        """Start the study and wait for its end; returns what it said, None if it was killed, "" if all was well."""
        self.starts += 1
        self.struck_since_start = False
        process = Process(f"coordinator {self.starts}", COORDINATOR, 0)
        said: list[str] = []

        def work() -> None:
            try:
                run_study(
                    Door(self.engine),
                    self.bench.study,
                    self.out,
                    beside=self.folder,
                    observe=lambda _: None,
                    patience=PATIENCE,
                    keep_weights=keep_weights,
                )
                said.append("")
            except RelayError as error:
                said.append(str(error))
            self.kernel.end(process)

        self.kernel.spawn(process, work)
        self.kernel.run(until=lambda: not process.alive)
        answer = said[0] if said else None
        self.tell(f"start {self.starts}: {'killed' if answer is None else answer or 'done'}")
        return answer

    def react(self, said: str) -> None:
        """What a person does upon a sentence."""
        if "make room" in said:
            self.disks.full.clear()
        refused = "the site has answered this stage from other|the site's own data have changed"
        for name in re.findall(rf"site (\w+): (?:{refused})", said):
            approve(self.hospitals.sites[name], self.bench.study)

    def live(self) -> Ending:
        """From the first start to the last."""
        while True:
            said = self.start()
            if said == "" and not self.struck_since_start:
                break
            assert self.starts < MOST_STARTS, f"after {self.starts} starts the study has not ended"
            if said:
                self.react(said)
            if self.kernel.random.random() < 0.5:
                self.engine.forget_orders()
        return self._ending()

    def _ending(self) -> Ending:
        files = {path.stem: path.read_bytes() for path in (self.out / "weights").glob("*.safetensors")}
        for name, content in files.items():
            assert digest_of(content) == name, f"weights {name} are others than their name says"
        logs = {name: audit_log.read(site.private() / egress.LOG) for name, site in self.hospitals.sites.items()}
        return Ending(
            results=(self.out / "results.json").read_bytes(),
            ledger={path.name: json.loads(path.read_bytes()) for path in (self.out / "ledger").glob("*.json")},
            weights=frozenset(files),
            counts=dict(self.counts),
            again=tuple(self.again),
            removed=tuple(path.name for path in self.disks.removed),
            logs=tuple(f"{name}: {log.fault}" for name, log in logs.items() if log.fault),
        )


class _AsManyAsNeeded:
    """In the place of a semaphore: what it bounds is memory, and all threads here are one."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def world(history: History) -> Iterator[None]:
    """Production code in the world of a history."""
    kernel, disks, hospitals = history.kernel, history.disks, history.hospitals
    lock = common.locks.exclusive
    finish = client.stages.store.StageStore.finish

    def locked(path: Path, **how: Any) -> ExitStack:
        held = ExitStack()
        held.enter_context(lock(path, **how))
        if kernel.current:
            kernel.process.at_end.append(held.close)
        return held

    def finished(store: Any, reply: Any) -> None:
        finish(store, reply)
        entry = kernel.process.actor, reply.key
        if entry in history.finished:
            history.again.append(f"{entry[0]} finished {entry[1][:12]} again")
        history.finished.add(entry)

    with pytest.MonkeyPatch.context() as patch:
        retry, training = server.transport.retry, client.stages.fine_tune
        for module in (site_channel, discovery, dispatch, work, run_record, retry, training):
            patch.setattr(module, "time", kernel.time())
        for module in (descriptions, scheduler, weight_owners, work):
            patch.setattr(module, "threading", kernel.threading())
        for module in (descriptions, scheduler):
            patch.setattr(module, "queue", kernel.queue())
        patch.setattr(site_channel, "TRANSFER_SLOTS", _AsManyAsNeeded())
        for module in (common.files, audit_log):
            patch.setattr(module, "open", disks.open, raising=False)
            patch.setattr(module, "os", disks.os())
        patch.setattr(Path, "open", _method(disks.open_path))
        patch.setattr(Path, "unlink", _method(disks.unlink))
        patch.setattr(client.stages.store, "shutil", types.SimpleNamespace(rmtree=disks.rmtree))
        patch.setattr(server.ledger.ledger, "locks", types.SimpleNamespace(exclusive=locked))
        patch.setattr(client.stages.store.StageStore, "finish", finished)
        patch.setattr(client.app, "site_of", lambda context: hospitals.sites[str(context.node_config["site"])])
        patch.setattr(client.stages.fine_tune, "fine_tune", hospitals.fine_tune)
        patch.setattr(client.stages.fine_tune, "re_estimated", hospitals.re_estimated)
        for module in (client.stages.fine_tune, client.stages.evaluate):
            patch.setattr(module, "predictions", lambda network, *_: network)
            patch.setattr(module, "validated", lambda *given: (hospitals.scores(*given[:-1]), False))
        patch.setattr(client.stages.evaluate, "evaluate", hospitals.scores)
        try:
            yield
        finally:
            kernel.close()
            history.engine.close()


def _method(function: Any) -> Any:
    """A bound method as one of Path's own."""
    return lambda path, *rest, **named: function(path, *rest, **named)

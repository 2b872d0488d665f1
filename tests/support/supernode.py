"""Flower's SuperNode as far as a hospital's SuperExec sees it: its own state and interface, and no coordinator."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import Status
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.start_client_internal import _insert_message

from deploy.flower.supervisor import a_free_port
from deploy.pki.certificates import make_ca, make_server, new_key, pem, pem_of_key
from deploy.simulation.local_grid import RUN_ID, enter_run

NODE = 1
SECRET = "a secret of this test, as long as Flower wants it"


@dataclass
class SuperNode:
    """One that runs: orders are put into it as the coordinator's are, and answers taken out."""

    address: str
    authority: Path
    """The authority that signed its certificate."""
    factory: NodeStateFactory
    server: uvicorn.Server
    answers: list[Message] = field(default_factory=list)

    @property
    def state(self) -> NodeState:
        return self.factory.state()

    def order(self) -> None:
        """A message for the hospital."""
        enter_run(NODE)
        message = Message(
            RecordDict({"message": ConfigRecord({"at": time.time()})}), dst_node_id=NODE, message_type="query.describe"
        )
        _insert_message(message, self.state, self.factory.objectstore_factory.store())
        assert self.state.create_task(TaskType.CLIENT_APP, RUN_ID, fab_hash="none")

    def answered(self) -> bool:
        """Whether an answer has come; like Flower, it looks again and again, and so sees which claims have lapsed."""
        self.answers += self.state.get_messages_legacy(is_reply=True)
        return bool(self.answers)

    def started(self) -> bool:
        """Whether a process has been found for an order, and its claim has not lapsed."""
        return any(task.status.status in (Status.STARTING, Status.RUNNING) for task in self.state.get_tasks())

    def stop(self) -> None:
        self.server.should_exit = True


@contextmanager
def supernode(
    *, listening: socket.socket | None = None, tls: bool = True, secret: str | None = SECRET
) -> Iterator[SuperNode]:
    """A SuperNode on the loopback interface, with an authority of its own.

    Args:
        listening: where it listens; default: a free port.
        tls: False: it speaks plain HTTP.
        secret: by which a SuperExec proves itself; None: it takes anybody's word.
    """
    with TemporaryDirectory() as folder:
        ca_key, key = new_key(), new_key()
        ca = make_ca("a test's", ca_key)
        files = [Path(folder) / name for name in ("ca", "certificate", "key")]
        certificate = make_server(["127.0.0.1"], key, ca=ca, ca_key=ca_key)
        for path, content in zip(files, (pem(ca), pem(certificate), pem_of_key(key)), strict=True):
            path.write_bytes(content)
        shown = {"ssl_certfile": files[1], "ssl_keyfile": files[2]} if tls else {}
        with listening or listening_at(a_free_port()) as place, _serving(place, files[0], shown, secret) as made:
            yield made


def listening_at(port: int) -> socket.socket:
    """A socket that has taken a port of the loopback interface: whoever dials it from now on waits for an answer."""
    return socket.create_server(("127.0.0.1", port))


@contextmanager
def _serving(place: socket.socket, authority: Path, shown: dict[str, Path], secret: str | None) -> Iterator[SuperNode]:
    factory = NodeStateFactory(ObjectStoreFactory())
    state = factory.state()
    state.set_node_id(NODE)
    context = Context(run_id=RUN_ID, node_id=NODE, node_config={}, state=RecordDict(), run_config={}, series_id=RUN_ID)
    state.set_run_series_context(RUN_ID, context)
    run = Run.create_empty(RUN_ID)
    run.series_id, run.fab_hash = RUN_ID, state.store_fab(Fab("", b"", {}))
    state.store_run(run)
    app = create_app(state_factory=factory, superexec_auth_secret=secret.encode() if secret else None)
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, loop="asyncio", log_level="error", **shown))
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.02)
    assert server.started
    try:
        yield SuperNode(f"127.0.0.1:{place.getsockname()[1]}", authority, factory, server)
    finally:
        server.should_exit = True
        with suppress(RuntimeError):
            thread.join(10)

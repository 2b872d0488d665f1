"""Simulate hospitals on this machine behind Flower's Grid.

As in Flower, each message is handled in a fresh process, which holds the settings of a single site and nothing of
another site; a site handles one message at a time. The processes come from a fork server, which has imported torch and
the client's app and has run nothing, and are therefore ready in milliseconds. CUDA cannot be forked, and needs spawned
processes. In simulation mode a worker also reports its progress, epoch by epoch.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from multiprocessing import forkserver, reduction, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Array, Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from client.governance.simulation_mode import SIMULATION, in_simulation_mode
from common.errors import DiskFull
from common.model.weights import mapped
from common.protocol.refusals import DIED, Refusal, refusal_error
from deploy.flower import internals
from deploy.memory import peak_memory
from deploy.simulation.places import Places, Worker

if TYPE_CHECKING:
    from deploy.flower.internals import NodeInfo, Run

log = logging.getLogger("relay")

RUN_ID = 1
"""The number of a local grid's only run."""
LONGEST = 70
"""The longest path, in bytes, of a folder for temporary files that can hold a socket; the path of a socket is limited
to about a hundred bytes."""
PROGRESS = b"\0"
"""The first byte of a worker's progress report. No message of Flower's begins with this byte, because protobuf has no
field 0."""
MEMORY = b"\1"
"""The first byte of a worker's report of the memory that it has held; see `PROGRESS`."""

Progress = tuple[int, int, float | None]
"""Units done, units in all, and the last epoch's validation Dice; see `client.progress`."""


def enter_run(node_id: int) -> None:
    """Let this process build messages at a node; Flower builds a message only where the run and the node are set."""
    internals.set_task_identity(run_id=RUN_ID, node_id=node_id)


def _start_the_fork_server() -> None:
    """Start the fork server with Ctrl-C ignored, also by its workers: the coordinator ends the workers silently.

    Raises:
        DiskFull: the folder for temporary files cannot be written.
    """
    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ours else None
    try:
        _short_folder_for_sockets()
        forkserver.ensure_running()
    except OSError as error:
        raise _no_room(error) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _short_folder_for_sockets() -> None:
    """Put the fork server's socket into TMPDIR, or into /tmp where the path of TMPDIR is too long for a socket."""
    folder = tempfile.gettempdir()
    try:
        if len(os.fsencode(folder)) > LONGEST:
            tempfile.tempdir = "/tmp"
        util.get_temp_dir()  # makes the folder, which multiprocessing then keeps using
    finally:
        tempfile.tempdir = folder


class LocalGrid(Grid):
    """Run the sites of this machine as Flower nodes.

    Args:
        sites: the site file of each site.
        at_once: the largest number of stages run at the same time; fewer where more would not fit into the memory.
        spawn: start each worker afresh and not from the fork server, as CUDA needs.

    Raises:
        DiskFull: the folder for temporary files cannot be written.
    """

    def __init__(self, sites: Mapping[str, Path], *, at_once: int, spawn: bool = False) -> None:
        enter_run(0)
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
        self._processes: SpawnContext | ForkServerContext
        if spawn:
            self._processes = multiprocessing.get_context("spawn")
        else:
            self._processes = multiprocessing.get_context("forkserver")
            self._processes.set_forkserver_preload(["deploy.simulation.worker_imports"])
            _start_the_fork_server()
        self._nodes = dict(enumerate(sites, start=1))
        self._sites = dict(sites)
        self._cores = max(1, (os.cpu_count() or 1) // at_once)
        self._places = Places(at_once)
        self._queues: dict[int, queue.Queue[Message | None]] = {node: queue.Queue() for node in self._nodes}
        self._replies: dict[str, Message] = {}
        self._progress: dict[str, list[Progress]] = defaultdict(list)
        """By message id, the progress reports not yet returned by `wait_for`."""
        self._arrived = threading.Condition()
        self._alive: dict[int, BaseProcess] = {}
        self._closed = False
        self._no_room = ""
        """Why no message can be sent any more; empty while messages can be sent."""
        self._threads = [
            threading.Thread(target=self._serve, args=(node,), daemon=True, name=name)
            for node, name in self._nodes.items()
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End all workers."""
        self._closed = True
        for node, waiting in self._queues.items():
            waiting.put(None)
            if process := self._alive.get(node):
                process.terminate()
        for thread in self._threads:
            thread.join(timeout=10)

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        # A full disk is the cause of whatever other error the study ended with.
        if kind is not KeyboardInterrupt:
            self._check_room()

    def set_run(self, run: Run) -> None:
        """Refuse another run: the run of a local grid is fixed."""
        raise ValueError("the run of a local grid is fixed")

    @property
    def run(self) -> Run:
        """Return the grid's run, which has no app."""
        return internals.empty_run(RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node; see `flwr.serverapp.Grid`."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of all nodes."""
        return list(self._nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return a description of each node; all are online."""
        return [internals.online_node(node, name) for node, name in self._nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages for their nodes, and return their ids."""
        ids = []
        for message in messages:
            ids.append(uuid.uuid4().hex)
            internals.set_message_id(message, ids[-1])
            self._queues[message.metadata.dst_node_id].put(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the arrived replies to some messages, each reply once.

        Raises:
            DiskFull: an order could not be sent, because the folder for temporary files cannot be written.
        """
        self._check_room()
        with self._arrived:
            return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def wait_for(self, message_id: str, seconds: float) -> list[Progress]:
        """Wait until a message has a reply or a progress report.

        Flower's own grids have no such function: they can only be polled for a reply.

        Args:
            message_id: the message.
            seconds: the longest time to wait.

        Returns:
            The progress reports since the last call, oldest first.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: message_id in self._replies or message_id in self._progress, seconds)
            return self._progress.pop(message_id, [])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies.

        Args:
            messages: the messages.
            timeout: the longest time to wait, in seconds; None: without limit.

        Returns:
            The replies received in time.
        """
        waiting = set(self.push_messages(messages))
        until = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (until is None or time.monotonic() < until):
            arrived = list(self.pull_messages(waiting))
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            with self._arrived:
                if not arrived:
                    self._arrived.wait(0.05)
        return replies

    def _check_room(self) -> None:
        if self._no_room:
            raise DiskFull(self._no_room)

    def _serve(self, node: int) -> None:
        """Handle a site's messages in turn, each in a fresh worker; the site's thread runs this function."""
        while not self._closed and self._serve_one(node):
            pass

    def _serve_one(self, node: int) -> bool:
        """Handle a message of a site, and return whether more messages can come.

        Local variables of `_serve` would keep a message and its reply in memory while the next message is awaited.
        """
        message = self._queues[node].get()
        if message is None:
            return False
        with self._places.place(message.metadata.message_type) as worker:
            if self._closed:
                return False
            reply = self._handle(node, message, worker)
        with self._arrived:
            self._replies[message.metadata.message_id] = reply
            self._arrived.notify_all()
        return True

    def _handle(self, node: int, message: Message, worker: Worker) -> Message:
        try:
            ours, theirs = multiprocessing.Pipe()
        except OSError:  # too many open files, which must not end this thread
            return Message(Error(DIED, "there is no way to a worker"), reply_to=message)
        settings = {
            "RELAY_SITE": str(self._sites[self._nodes[node]]),
            "RELAY_CORES": str(self._cores),
            # The value is passed with each message, because the fork server keeps the environment of its start.
            SIMULATION: os.environ.get(SIMULATION, ""),
        }
        process = self._processes.Process(target=_work, args=(theirs, node, settings), daemon=True)
        try:
            process.start()
            theirs.close()
            self._alive[node] = process
            _send(ours, message)
            news = partial(self._note_progress, message.metadata.message_id), partial(self._places.note, worker)
            reply = _receive(ours, *news)
        except DiskFull as error:
            self._no_room = str(error)
            reply = Message(Error(DIED, "the order was not sent"), reply_to=message)
        except Exception:  # the worker died, or its reply cannot be read: a retry may succeed
            reply = Message(Error(DIED, "the worker ended without an answer"), reply_to=message)
        finally:
            ours.close()
            if process.pid is not None:
                process.join()
            self._alive.pop(node, None)
        if process.exitcode == -signal.SIGKILL and not self._closed:
            log.warning(
                "The system ended the process of a stage at %s (SIGKILL), most often for want of memory: the stage is"
                " begun again, and from now on at most %d run at once.",
                self._nodes[node],
                self._places.lost(),
            )
        return reply

    def _note_progress(self, message_id: str, progress: Progress) -> None:
        with self._arrived:
            self._progress[message_id].append(progress)
            self._arrived.notify_all()


def _work(wire: Connection, node: int, settings: Mapping[str, str]) -> None:
    """Handle a message, in the worker."""
    # Ctrl-C reaches every process of a terminal, and the coordinator's process ends the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_coordinator, daemon=True).start()
    enter_run(node)
    os.environ.update(settings)
    from client import progress
    from client.app import app

    before = peak_memory()  # with all that the fork server has imported, which its workers share
    if in_simulation_mode():
        progress.subscribe(partial(_send_progress, wire, before))
    try:
        message = _receive(wire)
    except EOFError:  # the coordinator could not send the message, and reports the reason itself
        return
    context = Context(run_id=RUN_ID, node_id=node, node_config={}, state=RecordDict(), run_config={})
    try:
        reply = app(message, context)
        _send_memory(wire, before)
        _send(wire, reply)
    except DiskFull as error:
        logging.getLogger("relay.site").error("%s", error)
        _send(wire, Message(refusal_error(Refusal.DISK_FULL), reply_to=message))
    wire.close()


def _send(wire: Connection, message: Message) -> None:
    """Send a message packed by Flower, with the content of each array in a file without a name.

    Flower would copy an array's content four times; a reply kept in files takes no memory while waiting for the
    coordinator. The files lie in TMPDIR.

    Raises:
        DiskFull: there is no room for the files.
    """
    arrays = _arrays(message)
    files: list[int] = []
    try:
        for array in arrays:
            files.append(_filed(array.data))
            array.data = b""
        wire.send_bytes(internals.pack(message))
        for file in files:
            reduction.send_handle(wire, file, None)
    finally:
        for file in files:
            os.close(file)


def _filed(content: bytes) -> int:
    """Write a content to a file without a name, and return the file's descriptor.

    Raises:
        DiskFull: there is no room for the file.
    """
    try:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            return os.dup(file.fileno())
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> DiskFull:
    # `gettempdir` is not called, because the function fails where no folder has room.
    folder = tempfile.tempdir or os.environ.get("TMPDIR", "/tmp")
    return DiskFull(
        f"The folder for temporary files, {folder} (TMPDIR), cannot be written ({error.strerror}); make room there or"
        " set TMPDIR to another folder, and start again: what is finished is kept."
    )


def _send_progress(wire: Connection, before: int, done: int, of: int, dice: float | None) -> None:
    """Send a progress report to the grid, whose thread reads all the time, so the worker does not wait."""
    wire.send_bytes(PROGRESS + json.dumps([done, of, dice]).encode())
    if done:
        _send_memory(wire, before)


def _send_memory(wire: Connection, before: int) -> None:
    wire.send_bytes(MEMORY + str(max(0, peak_memory() - before)).encode())


def _receive(
    wire: Connection,
    note_progress: Callable[[Progress], None] = lambda _: None,
    note_memory: Callable[[int], None] = lambda _: None,
) -> Message:
    """Receive a message of `_send`, and note the reports of progress and memory before the message."""
    while (frame := wire.recv_bytes()).startswith((PROGRESS, MEMORY)):
        if frame.startswith(MEMORY):
            note_memory(int(frame[len(MEMORY) :]))
        else:
            done, of, dice = json.loads(frame[len(PROGRESS) :])
            note_progress((done, of, dice))
    message = internals.unpack(frame)
    for array in _arrays(message):
        with os.fdopen(reduction.recv_handle(wire), "rb") as file:
            array.data = mapped(file)  # type: ignore[assignment]  # Flower accepts any buffer
    return message


def _arrays(message: Message) -> list[Array]:
    if message.has_error():
        return []
    return [array for record in message.content.array_records.values() for array in record.values()]


def _end_with_the_coordinator() -> None:
    """End this worker when its coordinator ends: a worker of a killed coordinator would disturb the next run."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(DIED)

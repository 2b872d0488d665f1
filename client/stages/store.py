"""The site's store of its stages: checkpoints during a stage, and finished results until the coordinator has them.

All files lie in the site's private folder under `stages/<key>/`. A key is computed at the site, never taken from a
message. Weights are compared with their digest before use. Replies and checkpoints end with the sha256 of their
content, so that a file with a changed bit is neither sent nor trained on.
"""

from __future__ import annotations

import io
import logging
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import torch

from client.training.fine_tune import Trained
from common.digest import digest_of
from common.files import write_atomically
from common.model.weights import UnfitWeights, Weights, load, serialize_chunks
from common.protocol.messages import EvaluateReply, FineTuneReply

log = logging.getLogger("relay.site")

SEAL_BYTES = 32
"""Bytes of a sha256."""

Reply = TypeVar("Reply", FineTuneReply, EvaluateReply)


@dataclass(frozen=True)
class StageStore:
    """The folder of one site's stages."""

    folder: Path

    def reply(self, key: str, kind: type[Reply]) -> Reply | None:
        """Return the finished reply to a stage; None where the stage has no readable reply."""
        content = _unsealed(self.folder / key / "reply.json")
        try:
            return None if content is None else kind.model_validate_json(bytes(content))
        except ValueError:  # the reply was written by another version of this program
            return None

    def finish(self, reply: FineTuneReply | EvaluateReply) -> None:
        """Store a finished reply, whole or not at all, and delete the stage's checkpoint."""
        folder = self._made(reply.key)
        write_atomically(folder / "reply.json", _sealed(reply.model_dump_json().encode()), durable=True)
        (folder / "checkpoint.pt").unlink(missing_ok=True)

    def save_weights(self, key: str, weights: Weights) -> str:
        """Store a stage's finished weights and return their digest."""
        file = serialize_chunks(weights)
        # Not forced to the disk: after a loss of power the file is compared with its digest before sending.
        write_atomically(self._made(key) / "weights.safetensors", file)
        return digest_of(file)

    def weights(self, digest: str) -> Weights | None:
        """Return the weights of a digest, if this site trained and still has them; else None."""
        for path in self.folder.glob("*/reply.json"):
            reply = self.reply(path.parent.name, FineTuneReply)
            if reply is not None and reply.weights == digest:
                return self._load(path.with_name("weights.safetensors"))
        return None

    def save_start(self, key: str, weights: Weights) -> None:
        """Store the weights from which a stage starts, so that the order for the next leg need not carry them."""
        write_atomically(self._made(key) / "start.safetensors", serialize_chunks(weights))

    def has_start(self, key: str) -> bool:
        """Return whether the weights from which a stage starts are stored."""
        return (self.folder / key / "start.safetensors").exists()

    def start(self, key: str) -> Weights | None:
        """Return the weights from which a stage started; None where they are missing or damaged."""
        return self._load(self.folder / key / "start.safetensors")

    def save_checkpoint(self, key: str, trained: Trained) -> None:
        """Store the whole state with which a stage can be continued."""
        buffer = io.BytesIO()  # torch reports a full disk as RuntimeError, where a plain file raises OSError
        torch.save({item.name: getattr(trained, item.name) for item in fields(trained)}, buffer)
        write_atomically(self._made(key) / "checkpoint.pt", _sealed(buffer.getbuffer()))

    def checkpoint(self, key: str) -> Trained | None:
        """Return the last checkpoint of a stage; None where there is no readable checkpoint."""
        content = _unsealed(self.folder / key / "checkpoint.pt")
        if content is None:
            return None
        try:
            # weights_only: reading a checkpoint must never run code.
            return Trained(**torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        except Exception as error:  # torch and pickle fail in many ways at a checkpoint of another version
            log.warning(
                "A checkpoint cannot be read (%s: %s); its stage starts from the beginning.",
                type(error).__name__,
                error,
            )
            return None

    def beside(self, key: str) -> Path:
        """Return the folder for an ensemble's unfinished scoring."""
        return self.folder / key / "ensemble"

    def forget(self, keys: tuple[str, ...]) -> None:
        """Delete stages whose results the coordinator has acknowledged."""
        for key in keys:
            shutil.rmtree(self.folder / key, ignore_errors=True)

    def restart(self, key: str, token: str) -> None:
        """Delete a stage's files, once for each token, since an order may arrive twice."""
        path = self.folder / key / "restart_token"
        if not path.exists() or path.read_bytes() != token.encode():
            self.forget((key,))
            self._made(key)
            write_atomically(path, token.encode(), durable=True)

    def _made(self, key: str) -> Path:
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _load(self, path: Path) -> Weights | None:
        try:
            return load(path) if path.exists() else None
        except UnfitWeights:
            return None


def intact(weights: Weights | None, digest: str) -> Weights | None:
    """Return weights if they have this digest; else None."""
    return weights if weights is not None and digest_of(serialize_chunks(weights)) == digest else None


def _sealed(content: bytes | memoryview) -> list[bytes | memoryview]:
    """Return a file's content followed by its sha256.

    Neither JSON nor torch's own format would notice a changed bit.
    """
    return [content, bytes.fromhex(digest_of(content))]


def _unsealed(path: Path) -> memoryview | None:
    """Return a file's content without the sha256 at its end; None where the file is missing or damaged."""
    try:
        file = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    content, seal = file[:-SEAL_BYTES], file[-SEAL_BYTES:]
    return content if digest_of(content) == seal.hex() else None

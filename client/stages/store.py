"""What a site keeps of its stages: checkpoints on the way, finished results until they are acknowledged.

Everything lies in the site's private folder under `stages/<key>/`. A key is worked out at the site, never
taken from a message. Weights are compared with their digest before they are used; answers and checkpoints end with
the sha256 of all before it, so that a bit that has changed on the disk is never sent, nor trained on.
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
"""Of a sha256."""

Reply = TypeVar("Reply", FineTuneReply, EvaluateReply)


@dataclass(frozen=True)
class StageStore:
    """The folder of one site's stages."""

    folder: Path

    def reply(self, key: str, kind: type[Reply]) -> Reply | None:
        """Return the finished answer to a stage, or None."""
        content = _unsealed(self.folder / key / "reply.json")
        try:
            return None if content is None else kind.model_validate_json(bytes(content))
        except ValueError:  # of another version of this program
            return None

    def finish(self, reply: FineTuneReply | EvaluateReply) -> None:
        """Keep a finished answer; it is there whole or not at all. The checkpoint has done its work."""
        folder = self._made(reply.key)
        write_atomically(folder / "reply.json", _sealed(reply.model_dump_json().encode()), durable=True)
        (folder / "checkpoint.pt").unlink(missing_ok=True)

    def save_weights(self, key: str, weights: Weights) -> str:
        """Keep a stage's finished weights; returns their digest."""
        file = serialize_chunks(weights)
        # Not forced to the disk: what a loss of power leaves is compared with its digest before it is sent.
        write_atomically(self._made(key) / "weights.safetensors", file)
        return digest_of(file)

    def weights(self, digest: str) -> Weights | None:
        """Weights that this site finished and still has."""
        for path in self.folder.glob("*/reply.json"):
            reply = self.reply(path.parent.name, FineTuneReply)
            if reply is not None and reply.weights == digest:
                return self._load(path.with_name("weights.safetensors"))
        return None

    def save_start(self, key: str, weights: Weights) -> None:
        """Keep the weights that a stage starts from, so that its next leg need not bring them again."""
        write_atomically(self._made(key) / "start.safetensors", serialize_chunks(weights))

    def has_start(self, key: str) -> bool:
        return (self.folder / key / "start.safetensors").exists()

    def start(self, key: str) -> Weights | None:
        """Return the weights that a stage started from."""
        return self._load(self.folder / key / "start.safetensors")

    def save_checkpoint(self, key: str, trained: Trained) -> None:
        """Keep all that a stage needs to go on from here."""
        buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError, a plain file says what it is
        torch.save({item.name: getattr(trained, item.name) for item in fields(trained)}, buffer)
        write_atomically(self._made(key) / "checkpoint.pt", _sealed(buffer.getbuffer()))

    def checkpoint(self, key: str) -> Trained | None:
        """Return the last checkpoint of a stage, or None where there is none that can be read."""
        content = _unsealed(self.folder / key / "checkpoint.pt")
        if content is None:
            return None
        try:
            # weights_only: a checkpoint is data, and must never run code when it is read.
            return Trained(**torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        except Exception as error:  # torch and pickle fail in many ways, at one of another version
            log.warning(
                "A checkpoint cannot be read (%s: %s); its stage starts from the beginning.",
                type(error).__name__,
                error,
            )
            return None

    def forget(self, keys: tuple[str, ...]) -> None:
        """Drop stages whose results are safe at the coordinator."""
        for key in keys:
            shutil.rmtree(self.folder / key, ignore_errors=True)

    def restart(self, key: str, token: str) -> None:
        """Forget what there is of a stage, once for each token: an order may come twice."""
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
    """Return kept weights if they still have their digest; damaged ones are as good as none."""
    return weights if weights is not None and digest_of(serialize_chunks(weights)) == digest else None


def _sealed(content: bytes | memoryview) -> list[bytes | memoryview]:
    """Return a file's content with its sha256 behind it: neither JSON nor torch's own format would notice a changed bit."""
    return [content, bytes.fromhex(digest_of(content))]


def _unsealed(path: Path) -> memoryview | None:
    """Return the content of a sealed file, or None where it is missing or damaged."""
    try:
        file = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    content, seal = file[:-SEAL_BYTES], file[-SEAL_BYTES:]
    return content if digest_of(content) == seal.hex() else None

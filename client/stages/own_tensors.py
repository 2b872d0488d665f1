"""The tensors that never leave the site: batch norm's of averages with "local", and Ditto's personal models.

They lie in the private folder under `own/<study>/<training>/<digest>.safetensors`: by the digest of the plain study,
by the training that kept them, and by their own digest. A coordinator names the digest; the site looks for it only
among the trainings that its own plan names, so that an order of an old round finds the tensors of that round. Nothing
is deleted while the study may go on; `relay site forget` removes the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from client.stages.store import intact
from common.digest import digest_of
from common.files import write_atomically
from common.model.weights import UnfitWeights, Weights, load, serialize_chunks
from common.plan.graph import FineTune
from common.protocol.refusals import Refusal, Refused

FOLDER = "own"


@dataclass(frozen=True)
class OwnTensors:
    """The tensors that stay at one site for one plain study."""

    folder: Path

    def keep(self, node: FineTune, tensors: Weights) -> str:
        """Store the tensors that stay after a training, durably, and return their digest."""
        file = serialize_chunks(tensors)
        digest = digest_of(file)
        path = self._path(node, digest)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, file, durable=True, mode=0o600)
        return digest

    def has(self, node: FineTune, digest: str) -> bool:
        """Return whether the tensors that stayed after a training are here and undamaged."""
        return self._read(node, digest) is not None

    def get(self, nodes: Iterable[FineTune], digest: str) -> Weights:
        """Return tensors with a digest, kept by one of some trainings.

        Raises:
            Refused: none of the trainings has kept such tensors, or the file is damaged.
        """
        for node in nodes:
            if (tensors := self._read(node, digest)) is not None:
                return tensors
        raise Refused(Refusal.OWN_TENSORS_GONE)

    def _read(self, node: FineTune, digest: str) -> Weights | None:
        path = self._path(node, digest)
        try:
            return intact(load(path), digest) if path.exists() else None
        except UnfitWeights:
            return None

    def _path(self, node: FineTune, digest: str) -> Path:
        return self.folder / node.id / f"{digest}.safetensors"


def own_tensors(private: Path, study_digest: str) -> OwnTensors:
    """Return the store of a site for a plain study.

    Args:
        private: the site's private folder.
        study_digest: the digest of the site's own copy of the study.
    """
    return OwnTensors(private / FOLDER / study_digest)

"""The first weights of a study; only the coordinator ever loads pretrained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from common.config.study import Study
from common.digest import digest_of
from common.errors import RelayError, Unreachable
from common.model.network import build, segmentation_models
from common.model.weights import UnfitWeights, Weights, load
from common.seeds import seed_of
from server.ledger.ledger import Ledger, StageRecord
from server.scheduling.keys import start_key


def start_weights(study: Study, beside: Path) -> Weights:
    """Return the network's weights, drawn from the study's seed, with the study's pretrained encoder, if any.

    A file of encoder weights must have the batch normalisation of the encoder's training. Files made for inference may
    have batch normalisation folded into the convolutions (all means 0, all variances 1). Such a network is right in
    evaluation, but loses its features in the first training step, which normalises every layer anew: recalibrate such a
    file on images before using the file in a study.

    Args:
        study: a plain study (a single network and pair of seeds).
        beside: the folder in which a relative `encoder_weights` is looked up.

    Raises:
        RelayError: the file is missing or holds weights of another encoder, or ImageNet's weights cannot be downloaded.
    """
    torch.manual_seed(seed_of(study.seed, "start"))
    network = build(study.model)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    source = study.model.encoder_weights
    if source == "none":
        return weights
    encoder = _imagenet(study) if source == "imagenet" else _from_file(beside / source)
    return _with_encoder(weights, encoder, study, source)


def start_of(study: Study, ledger: Ledger, *, source: str, weights: Callable[[], Weights]) -> StageRecord:
    """Return the record of a study's first weights, from the ledger or made now.

    Args:
        study: a plain study (a single network and pair of seeds).
        ledger: holds the record and the weights.
        source: the digest of the file of encoder weights, or empty; see `source_digest`.
        weights: makes the weights; called only if the ledger lacks them.
    """
    key = start_key(study, source)
    record = ledger.get(key)
    if record is None or not ledger.has(record.weights):
        record = StageRecord(key=key, kind="start", weights=ledger.put_weights(weights()))
        ledger.put(record)
    return record


def source_digest(study: Study, beside: Path) -> str:
    """Return the digest of the file of encoder weights, which the first weights depend on besides the study.

    The result is empty for a study without such a file.
    """
    if study.model.encoder_weights in ("none", "imagenet"):
        return ""
    return digest_of(_bytes_of(beside / study.model.encoder_weights))


def _imagenet(study: Study) -> Weights:
    try:
        encoder = segmentation_models().encoders.get_encoder(study.model.encoder, in_channels=3, weights="imagenet")
    except Exception as error:
        raise Unreachable(
            f"The ImageNet weights of {study.model.encoder} cannot be fetched ({type(error).__name__});"
            ' fetch them where there is a network and name their file as "encoder_weights" in [model],'
            ' or set it to "none".'
        ) from None
    return dict(encoder.state_dict())


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RelayError(
            f'The encoder weights {path} cannot be read ({error.strerror}); check "encoder_weights" in [model].'
        ) from None


def _from_file(path: Path) -> Weights:
    """Return the tensors in a file of encoder weights."""
    _bytes_of(path)
    try:
        if path.suffix == ".safetensors":
            return load(path)
        # weights_only: loading the file must never run code from it.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnfitWeights, RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError, ImportError) as error:
        raise RelayError(f"{path} holds no weights that can be read ({type(error).__name__}).") from None
    except Exception as error:  # pickle's own errors share no base with the others
        raise RelayError(f"{path} holds no weights that can be read ({type(error).__name__}).") from None
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise RelayError(f"{path} holds no table of tensors; name a file with an encoder's state_dict.")
    return dict(tensors)


def _with_encoder(weights: Weights, encoder: Weights, study: Study, source: str) -> Weights:
    """Return the network's weights with an encoder's tensors put in.

    A first layer for three colours is summed over its colours; the sum gives the layer's output for a grey image in
    three equal channels. A classifier's head is left out; all other tensors must fit.
    """
    result = dict(weights)
    own = {name.removeprefix("encoder.") for name in weights if name.startswith("encoder.")}
    given = {name.removeprefix("encoder."): tensor for name, tensor in encoder.items()}
    lacking = sorted(own - set(given))
    lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]
    if lacking:
        raise RelayError(
            f'"{source}" holds no weights of the encoder {study.model.encoder}: {lacking[0]} is missing,'
            f" and {len(lacking) - 1} more."
        )
    for name in own & set(given):
        wanted, tensor = weights[f"encoder.{name}"], given[name]
        if tensor.dim() == 4 and tensor.shape[1] == 3 and wanted.shape[1] == 1:
            tensor = tensor.sum(dim=1, keepdim=True)
        if tensor.shape != wanted.shape:
            raise RelayError(
                f'"{source}" holds no weights of the encoder {study.model.encoder}: {name} has the shape'
                f" {tuple(tensor.shape)}, and {tuple(wanted.shape)} is needed."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RelayError(f'"{source}" holds values that are not finite, in {name}; take another file.')
        result[f"encoder.{name}"] = tensor.to(wanted.dtype).contiguous()
    return result

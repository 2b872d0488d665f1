"""The first weights of a study; only the coordinator ever loads pretrained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from common.config.model import ModelConfig
from common.config.study import Study
from common.digest import digest_of
from common.errors import RelayError, Unreachable
from common.model.network import build
from common.model.weights import UnfitWeights, Weights, load
from common.networks.smp import segmentation_models
from common.seeds import seed_of
from server.ledger.ledger import Ledger, StageRecord
from server.scheduling.keys import start_key

HEADS = ("fc", "_fc", "classifier", "last_linear", "logits", "head", "conv_head", "bn2", "norm_head")
"""The first names of tensors between an encoder's last features and its classes, in the libraries' files."""


def start_weights(study: Study, beside: Path) -> Weights:
    """Return the network's weights, drawn from the study's seed, with the study's pretrained encoder, if any.

    A file of encoder weights must have the batch normalisation of the encoder's training. Files made for inference may
    have batch normalisation folded into the convolutions (all means 0, all variances 1). Such a network is right in
    evaluation, but loses its features in the first training step, which normalises every layer anew, and is refused.

    Args:
        study: a plain study (a single network and pair of seeds).
        beside: the folder in which a relative `encoder_weights` is looked up.

    Raises:
        RelayError: the file is missing, holds other weights than the encoder's (or, of a network without encoder, the
            network's), has folded batch normalisation, or ImageNet's weights cannot be downloaded.
    """
    torch.manual_seed(seed_of(study.seed, "start"))
    network = build(study.model)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    source = study.model.encoder_weights
    if source == "none":
        return weights
    given = _imagenet(study) if source == "imagenet" else _from_file(beside / source)
    return _with_given(weights, given, study.model, source)


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


def _with_given(weights: Weights, given: Weights, model: ModelConfig, source: str) -> Weights:
    """Return the network's weights with the given tensors of its encoder, or of all of it where it has no encoder.

    A first layer for three colours is adapted as segmentation_models.pytorch does: for one channel it is summed over
    its colours, which gives the layer's output for a grey image in three equal channels; for other numbers of channels
    the colours are repeated, and scaled to the same sum. A classifier's head is left out; all other tensors must fit.
    """
    prefix = "encoder." if model.encoder else ""
    what = f"the encoder {model.encoder}" if model.encoder else f"the network {model.architecture}"
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    tensors = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
    if prefix:
        tensors = {name: tensor for name, tensor in tensors.items() if name in own or not _is_head(name)}
    _check_names(own, tensors, f'"{source}" holds no weights of {what}')
    if _is_folded(tensors):
        raise RelayError(
            f'"{source}" holds batch normalisation folded into the convolutions (every mean is 0, every variance 1),'
            " which is right for prediction, and lost in the first step of a training; take a file with the statistics"
            " of its training."
        )
    result = dict(weights)
    for name in sorted(own.keys() & tensors.keys()):
        wanted, tensor = own[name], _adapted(tensors[name], own[name])
        if tensor.shape != wanted.shape:
            raise RelayError(
                f'"{source}" holds no weights of {what}: {name} has the shape {tuple(tensor.shape)}, and'
                f" {tuple(wanted.shape)} is needed."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RelayError(f'"{source}" holds values that are not finite, in {name}; take another file.')
        result[prefix + name] = tensor.to(wanted.dtype).contiguous()
    return result


def _is_head(name: str) -> bool:
    """Return whether a tensor is of a classifier's head, or of the layers between the last features and the head."""
    return name.removeprefix("model.").partition(".")[0] in HEADS


def _check_names(own: Weights, given: Weights, sentence: str) -> None:
    """Compare the names of a file's tensors with those needed; counts of batches may be missing.

    Raises:
        RelayError: a tensor is missing or unexpected; the text begins with `sentence`, and names the first tensor.
    """
    lacking = sorted(name for name in own.keys() - given.keys() if not name.endswith("num_batches_tracked"))
    for wrong, names in (("missing", lacking), ("unexpected", sorted(given.keys() - own.keys()))):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise RelayError(f"{sentence}: {names[0]} is {wrong}{more}.")


def _is_folded(weights: Weights) -> bool:
    """Return whether batch normalisation was folded into the convolutions: every mean is 0 and every variance 1."""
    means = [tensor for name, tensor in weights.items() if name.endswith("running_mean")]
    variances = [tensor for name, tensor in weights.items() if name.endswith("running_var")]
    nothing_left = all(bool((mean == 0).all()) for mean in means)
    return bool(means) and nothing_left and all(bool((variance - 1).abs().max() < 0.01) for variance in variances)


def _adapted(tensor: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return a first layer for three colours as a layer for the network's channels; any other tensor unchanged."""
    size, needed = tuple(tensor.shape), tuple(wanted.shape)
    if len(size) != 4 or size[1] != 3 or needed[1] == 3 or size[:1] + size[2:] != needed[:1] + needed[2:]:
        return tensor
    if wanted.shape[1] == 1:
        return tensor.sum(dim=1, keepdim=True)
    channels = wanted.shape[1]
    return tensor[:, [channel % 3 for channel in range(channels)]] * (3 / channels)

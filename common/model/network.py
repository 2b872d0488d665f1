"""The network declared in a study: identical at the coordinator and at every site."""

from __future__ import annotations

import functools
import math
import threading

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.config.model import ModelConfig
from common.errors import BadConfiguration, RelayError
from common.networks.registry import Form, Network, find

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""For each tensor, by name, its shape and type."""

_shapes: dict[ModelConfig, Shapes] = {}
"""Shapes of every network built so far; a site that builds its network needs no second build for the shapes."""
_norms: dict[ModelConfig, frozenset[str]] = {}
"""The names of batch norm's tensors, of every network built so far."""
_parts: dict[ModelConfig, dict[str, int]] = {}
"""The names of the tensors that belong to a site, and their bytes, of every network asked for that has such tensors."""
_once = threading.RLock()
"""The coordinator's site channels are threads, and two may ask for the shapes at once."""


def declared(model: ModelConfig) -> Network:
    """Return the traits of the declared network.

    Raises:
        BadConfiguration: the network is a plug-in's whose package is not the one that the study names.
    """
    return find(model.architecture, model.package)


def build(model: ModelConfig, *, whole: bool = False) -> nn.Module:
    """Return the network, its weights drawn from torch's global generator; nothing is downloaded.

    The network maps (batch, channels, rows, columns) float images to (batch, classes, rows, columns) logits: of the
    gland, or of the background and each zone (`common.target`). In three dimensions slices come before the rows. In
    training, a network with auxiliary outputs returns a list of logits (`common.networks.registry.Network`).

    Args:
        model: the declared network.
        whole: with the modules that belong to a site (`registry.Network.stays`), as for a training there; otherwise
            without, as the network travels, is scored and predicts.

    Raises:
        BadConfiguration: the network cannot be built.
    """
    network_of = declared(model)
    classes = model.segments.classes
    form = Form(model.architecture, model.encoder, model.channels, classes, model.decoder_attention, model.dimensions)
    if model.dimensions not in network_of.dimensions:
        raise BadConfiguration(
            f"The network {_name(model)} cannot be built in {model.dimensions} dimensions; set others under [model]."
        )
    try:
        network: nn.Module = network_of.made(form)
    except (RelayError, MemoryError):
        raise
    except Exception as error:  # libraries of networks raise errors of any kind
        raise _not_built(model, "", error) from error
    if whole and network_of.stays:
        return network
    for module in network_of.stays:
        delattr(network, module)
    _shapes[model] = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
    _norms[model] = norm_names(network)
    return network


def build_undrawn(model: ModelConfig, *, whole: bool = False) -> nn.Module:
    """Return the network without initial values, for loading weights afterwards; see `build`.

    Drawing initial values takes half the time of `build`. A network with tensors outside its state_dict is built with
    initial values, since loading a state_dict would leave these tensors without a value.
    """
    network = _drafted(model, whole=whole)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    # Not every tensor of a draft need be without memory: smp makes the first convolution for other than three channels
    # by a constructor that knows no device.
    if any(tensor.is_meta for tensor in tensors.values()) and tensors.keys() <= set(network.state_dict()):
        return network.to_empty(device="cpu")
    return build(model, whole=whole)


def _drafted(model: ModelConfig, *, whole: bool = False) -> nn.Module:
    """Return the network without memory for its tensors, or built in memory where the network needs values for that.

    The global generator is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build(model, whole=whole)
        except BadConfiguration:
            return build(model, whole=whole)


@functools.lru_cache(maxsize=256)
def check_network(model: ModelConfig, pixels: int) -> None:
    """Check before a study runs that its network can be built, and makes of a slice what it should.

    Args:
        model: the network.
        pixels: rows and columns of a slice.

    Raises:
        BadConfiguration: the network cannot be built, cannot take slices of this size, or returns something else than
            its entry in the registry promises.
    """
    network = _drafted(model, whole=True)
    try:
        with torch.device("meta"):  # shapes alone: nothing is computed
            _check_outputs(network, model, pixels)
    except BadConfiguration:
        raise
    except Exception:  # not every operation can do without values
        try:
            _check_outputs(build(model, whole=True), model, pixels)
        except (RelayError, MemoryError):
            raise
        except Exception as error:
            raise _not_built(model, f" for {_extent(model, pixels)}", error) from error


@torch.no_grad()
def _check_outputs(network: nn.Module, model: ModelConfig, pixels: int) -> None:
    images = torch.empty(2, model.channels, *model.shape(pixels)).fill_(1.0)
    weights = declared(model).output_weights
    trained = network.train()(images)
    outputs = trained if isinstance(trained, list) else [trained]
    scored = network.eval()(images)
    whole = (2, model.segments.classes, *model.shape(pixels))
    promised = len(outputs) == len(weights) and isinstance(scored, torch.Tensor)
    if not promised or tuple(outputs[0].shape) != whole or tuple(scored.shape) != whole:
        raise BadConfiguration(
            f"The network {_name(model)} does not return {_maps(whole[1])} of logits for {_extent(model, pixels)};"
            " choose another architecture or encoder under [model]."
        )


def _extent(model: ModelConfig, pixels: int) -> str:
    return f"{model.samples} of {' × '.join(map(str, model.shape(pixels)))} pixels"


def _maps(classes: int) -> str:
    return "one map" if classes == 1 else f"{classes} maps"


def _not_built(model: ModelConfig, where: str, error: Exception) -> BadConfiguration:
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0][:200]}".rstrip(".: ")
    return BadConfiguration(
        f"The network {_name(model)} cannot be built{where} ({reason}); choose another architecture or encoder under"
        " [model]."
    )


def _name(model: ModelConfig) -> str:
    return f"{model.architecture} with the encoder {model.encoder}" if model.encoder else model.architecture


def declared_shapes(model: ModelConfig) -> Shapes:
    """Return name, shape and type of every tensor of the declared network, without allocating the network."""
    with _once:
        if model not in _shapes:
            _drafted(model)
        return _shapes[model]


def declared_bytes(model: ModelConfig) -> int:
    """Return the bytes of all tensors of the declared network."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in declared_shapes(model).values())


def norm_names(network: nn.Module) -> frozenset[str]:
    """Return the names of batch norm's tensors in a network's state: scale, shift, statistics and count of batches.

    The kind of layer decides, not its name: other normalisations keep no statistics of a site's images.
    """
    return frozenset(
        f"{layer}.{name}" if layer else name
        for layer, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        for name in module.state_dict()
    )


def norm_names_of(model: ModelConfig) -> frozenset[str]:
    """Return the names of batch norm's tensors of the declared network, without allocating the network."""
    with _once:
        if model not in _norms:
            with torch.device("meta"):
                build(model)
        return _norms[model]


def part_names(model: ModelConfig) -> frozenset[str]:
    """Return the names of the tensors of the modules that belong to a site (`registry.Network.stays`).

    They are among no other names of this module: to everybody else, the network is without them.
    """
    if not (stays := declared(model).stays):
        return frozenset()
    with _once:
        if model not in _parts:
            found = _drafted(model, whole=True).state_dict()
            own = {name: tensor for name, tensor in found.items() if name.partition(".")[0] in stays}
            _parts[model] = {name: tensor.numel() * tensor.element_size() for name, tensor in own.items()}
        return frozenset(_parts[model])


def part_bytes(model: ModelConfig) -> int:
    """Return the bytes of the tensors of the modules that belong to a site; see `part_names`."""
    return sum(_parts[model][name] for name in part_names(model))


def staying_names(model: ModelConfig, stays: str) -> frozenset[str]:
    """Return the names of the tensors of a training's result that never leave the site.

    Args:
        model: the declared network.
        stays: the stage's rule (`common.plan.graph.Stays`): "", "batch-norm" or "everything".
    """
    if stays == "everything":
        return frozenset(declared_shapes(model))
    return norm_names_of(model) if stays == "batch-norm" else frozenset()


def staying_bytes(model: ModelConfig, stays: str) -> int:
    """Return the bytes of the tensors of a training's result that never leave the site; see `staying_names`."""
    shapes = declared_shapes(model)
    return sum(math.prod(shapes[name][0]) * shapes[name][1].itemsize for name in staying_names(model, stays))

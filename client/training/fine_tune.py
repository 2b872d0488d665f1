"""Fine-tuning of a network at one site, an epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from client.training.batch_norm import estimate_statistics
from client.training.batches import Slices, augment, batches, batches_in
from client.training.device import Device, place
from client.training.distillation import Teacher, distillation_loss
from client.training.knowledge_transfer import is_warm, transfer_loss
from client.training.recipe import clip_gradients, learning_rate, loss_of_outputs, optimizer_of
from common.config.study import TrainingConfig
from common.model.weights import Weights
from common.networks.registry import Transfer
from common.plan.graph import Hop, Schedule
from common.protocol.refusals import Refusal, Refused
from common.seeds import seed_of

CHUNK = 32
"""The number of slices predicted at once."""


@dataclass(frozen=True)
class Trained:
    """The state of a stage after `epoch` epochs. The tuples have one entry for each epoch.

    `kept` is a copy on the CPU. `current` and `optimizer` are the live tensors, which the next epoch changes.
    """

    epoch: int = 0
    losses: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    dices: tuple[float, ...] = ()
    gradient_steps: int = 0
    kept_epoch: int = 0
    kept: Weights = field(default_factory=dict)
    current: Weights = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


def fine_tune(
    network: nn.Module,
    train: Slices,
    validation: Slices,
    *,
    training: TrainingConfig,
    schedule: Schedule,
    seed_names: tuple[str | int, ...],
    device: Device,
    proximal_mu: float = 0.0,
    anchor: Weights | None = None,
    hop: Hop | None = None,
    output_weights: Sequence[float] = (1.0,),
    transfer: Transfer | None = None,
    apart: Collection[str] = (),
    resume: Trained | None = None,
) -> Iterator[Trained]:
    """Train from the network's weights, or continue from `resume`, and yield the state after every epoch.

    The order of batches, the augmentation and the dropout of an epoch depend on `seed_names` and the epoch's number in
    the whole cosine alone, so that stopping and continuing changes nothing. At a stage's start the optimizer remembers
    nothing.

    Args:
        network: takes images (n, channels, pixels, pixels) and returns logits (n, classes, pixels, pixels), in training
            with auxiliary outputs; in three dimensions boxes (n, 1, depth, pixels, pixels), which the slices then are.
        train: standardised training slices.
        validation: standardised validation slices.
        training: the study's training settings.
        schedule: the stage's epochs within the whole cosine, and the choice of the epoch whose weights are kept.
        seed_names: the source of the random seeds, besides the epoch's number.
        device: the device and precision to train in.
        proximal_mu: the strength of a pull towards the stage's start weights (FedProx: Li et al., MLSys 2020; L2-SP:
            Li, Grandvalet and Davoine, ICML 2018), or towards the anchor.
        anchor: weights towards which the pull goes, of the network's shape, where they are not the start weights
            (Ditto's personal models: Li et al., ICML 2021).
        hop: the settings of a second or later training, where it has any.
        output_weights: the weights of the losses of the network's outputs in training.
        transfer: how the first output learns from the auxiliary one, where it does.
        apart: the names of the tensors that belong to the site; no pull moves them.
        resume: the state after an earlier leg of the same stage.

    Yields:
        The state after each epoch; its live tensors change with the next epoch.

    Raises:
        Refused: the mean loss of an epoch is not finite.
    """
    place(network, device)
    pulled = _pulled(network, anchor, apart) if proximal_mu else []
    weight = hop.distillation if hop else 0.0
    teacher = Teacher(network, train.images, training, device) if weight else None
    frozen = _frozen(network, hop)
    of_epoch = batches_in(train, training)
    optimizer = optimizer_of(network, training)
    state = resume or Trained()
    if resume is not None:
        network.load_state_dict(resume.current)
        optimizer.load_state_dict(resume.optimizer)
    elif frozen is not None and training.batch_norm == "precise":
        # From here on, each epoch's estimate gives the frozen encoder the same statistics again.
        estimate_statistics(network, train.images, device)
    for epoch in range(schedule.first + state.epoch, schedule.last):
        rate = learning_rate(schedule, epoch, training, hop)
        for group in optimizer.param_groups:
            group["lr"] = rate
        seed = seed_of(*seed_names, epoch)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        network.train()
        if frozen is not None:
            frozen.eval()
        losses: list[torch.Tensor] = []
        for images, masks in batches(train, training, generator):
            images, masks = augment(images, masks, training.augmentation, generator)
            images = device.taken(images)
            masks = masks.to(device.kind)
            optimizer.zero_grad(set_to_none=True)
            with device.autocast():
                outputs = network(images)
            if transfer is None:
                loss = loss_of_outputs(outputs, masks, training.loss, output_weights)
            else:
                warm = is_warm(transfer, epoch * of_epoch + len(losses), schedule.total_epochs * of_epoch)
                loss = transfer_loss(outputs, masks, training.loss, transfer, warm=warm)
            if teacher is not None and hop is not None:
                logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
                loss = loss + weight * distillation_loss(logits, teacher.logits(images), hop.temperature)
            if proximal_mu:
                loss = loss + proximal_mu / 2 * torch.stack([(a - b).square().sum() for a, b in pulled]).sum()
            loss.backward()
            clip_gradients(network, training)
            optimizer.step()
            losses.append(loss.detach())
        mean_loss = float(torch.stack(losses).mean())
        if not math.isfinite(mean_loss):
            raise Refused(Refusal.DIVERGED)
        if training.batch_norm == "precise":
            estimate_statistics(network, train.images, device)
        dice = grid_dice(network, validation, device)
        done = epoch + 1 - schedule.first
        if schedule.keep == "last":
            better = epoch == schedule.last - 1
        else:
            better = not state.dices or dice > max(state.dices)
        current = network.state_dict()
        state = replace(
            state,
            epoch=done,
            losses=(*state.losses, mean_loss),
            learning_rates=(*state.learning_rates, rate),
            dices=(*state.dices, dice),
            gradient_steps=state.gradient_steps + len(losses),
            kept_epoch=done if better else state.kept_epoch,
            kept={name: tensor.cpu().clone() for name, tensor in current.items()} if better else state.kept,
            current=current,
            optimizer=optimizer.state_dict(),
        )
        yield state


def _pulled(
    network: nn.Module, anchor: Weights | None, apart: Collection[str]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the network's parameters, each with a copy of its value, or with the anchor's in the same layout."""
    copies = [
        (name, parameter, parameter.detach().clone())
        for name, parameter in network.named_parameters()
        if name not in apart
    ]
    return [(parameter, copy if anchor is None else copy.copy_(anchor[name])) for name, parameter, copy in copies]


def _frozen(network: nn.Module, hop: Hop | None) -> nn.Module | None:
    """Return the network's encoder, with weights that no step changes, where a training freezes it; else None."""
    if hop is None or hop.freeze == "none":
        return None
    return network.get_submodule(hop.freeze).requires_grad_(requires_grad=False)


def re_estimated(network: nn.Module, train: Slices, device: Device) -> Trained:
    """Estimate batch norm's statistics of the network's weights, and return the state of a stage without an epoch.

    Args:
        network: the network with the stage's start weights; left with the new statistics, on the device.
        train: standardised training slices.
        device: the device and precision to compute in.
    """
    place(network, device)
    estimate_statistics(network, train.images, device)
    return Trained(kept={name: tensor.cpu().clone() for name, tensor in network.state_dict().items()})


def probabilities(network: nn.Module, images: torch.Tensor, device: Device) -> torch.Tensor:
    """Return the probability of the gland, or of each zone, at every pixel.

    Args:
        network: the network, on its device.
        images: (n, channels, pixels, pixels), standardised, or boxes (n, 1, depth, pixels, pixels).
        device: the device and precision to predict in.

    Returns:
        (n, 1 or zones, pixels, pixels), or of boxes (n, 1, depth, pixels, pixels), float32 on the CPU.
    """
    return torch.cat(
        [
            logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)[:, 1:]
            for logits in predicted_logits(network, images, device)
        ]
    )


@torch.inference_mode()
def predicted_logits(network: nn.Module, images: torch.Tensor, device: Device) -> Iterator[torch.Tensor]:
    """Yield the network's logits, CHUNK slices at a time: (n, classes, pixels, pixels), float32 on the CPU.

    Args:
        network: the network, on its device.
        images: (slices, channels, pixels, pixels), standardised, or boxes (n, 1, depth, pixels, pixels), of which at
            least one is predicted at a time.
        device: the device and precision to predict in.
    """
    network.eval()
    depth = images.shape[2] if images.dim() == 5 else 1
    for chunk in images.split(max(1, CHUNK // depth)):
        with device.autocast():
            logits = network(device.taken(chunk))
        yield logits.float().cpu()


def grid_dice(network: nn.Module, slices: Slices, device: Device) -> float:
    """Return the gland's mean Dice on the study's grid, 0 to 1: over volumes where the slices name them, else slices.

    Of boxes it is the mean over boxes.

    Zones make up the gland. Where neither the prediction nor the mask holds gland, the Dice is 1.
    """
    predicted = probabilities(network, slices.images, device).sum(1, keepdim=True) > 0.5
    truth = slices.masks[:, :1] > 0.5
    both = (predicted & truth).flatten(1).sum(1)
    sizes = predicted.flatten(1).sum(1) + truth.flatten(1).sum(1)
    if slices.volumes:
        both, sizes = (torch.stack([part.sum() for part in counts.split(slices.volumes)]) for counts in (both, sizes))
    dice = torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0)
    return float(dice.double().mean())

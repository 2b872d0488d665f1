"""Training as anybody would write it: one process, torch alone, nothing of `client/` but the prepared slices.

The oracle of the hand-off. Rules are taken from the docstrings of the study, the seeds and augmentation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from client.data.splits import split
from client.preprocessing.pipeline import load, prepare
from client.site_config import load_site
from common.config.study import Study
from common.model.network import build
from common.networks.smp import segmentation_models

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Patient:
    image: NDArray[np.float32]
    """The slices that the study trains on, each with its neighbours as channels."""
    mask: NDArray[np.float32]
    native: NDArray[np.bool_]
    """The expert's mask of these slices, on the patient's own grid."""


@dataclass(frozen=True)
class Stage:
    """What a stage leaves behind."""

    weights: Tensors
    losses: list[float]
    dices: list[float]
    native_dice: float


def digest(weights: Tensors) -> str:
    plain = {name: weights[name].contiguous() for name in sorted(weights)}
    return hashlib.sha256(safetensors.torch.save(plain)).hexdigest()


def seed_of(*names: object) -> int:
    first = hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8]
    return int(first.hex(), 16) // 2


class PlainLoop:
    """One process that holds every hospital's patients, as nobody may in earnest."""

    def __init__(self, study: Study, sites: dict[str, Path]) -> None:
        self.study, self.sites = study, sites
        self.patients: dict[str, dict[str, Patient]] = {}
        for name, path in sites.items():
            self.patients[name] = {}
            for record in prepare(load_site(path), study.preprocessing).records:
                slices = load(record)
                used = slices.selected | (study.training.slices == "all")
                shown = beside(slices.image, study.model.neighbours)[used]
                self.patients[name][record.patient] = Patient(
                    shown, slices.mask[used].astype(np.float32), slices.native_mask[used]
                )

    def network(self) -> torch.nn.Module:
        model = self.study.model
        if not hasattr(segmentation_models(), model.architecture):
            return build(model)
        make = getattr(segmentation_models(), model.architecture)
        channels = 1 + 2 * model.neighbours
        network: torch.nn.Module = make(model.encoder, encoder_weights=None, in_channels=channels, classes=1)
        return network

    def start(self) -> Tensors:
        torch.manual_seed(seed_of(self.study.seed, "start"))
        return {name: tensor.clone() for name, tensor in self.network().state_dict().items()}

    def members(self, site: str, fold: int) -> tuple[list[Patient], list[Patient]]:
        part = self.study.split
        here = self.patients[site]
        made = split(here, part, site=site)
        training = [name for k, names in enumerate(made.validation) if k != fold for name in names]
        return [here[name] for name in sorted(training)], [here[name] for name in made.validation[fold]]

    def fine_tune(
        self,
        site: str,
        fold: int,
        parent: Tensors,
        *,
        epochs: range | None = None,
        total: int | None = None,
        keep: str = "best",
        mu: float = 0.0,
        towards: Tensors | None = None,
        visit: int = 0,
        rate: float | None = None,
        warmup: int = 0,
        frozen: bool = False,
        taught: tuple[float, float] | None = None,
    ) -> Stage:
        """Train; `taught` is the weight and the temperature of learning without forgetting."""
        rules = self.study.training
        total = total or rules.epochs
        train, validation = self.members(site, fold)
        images, seen = self.standardised(site, fold)
        masks = tensor([patient.mask for patient in train])
        truth = [patient.mask > 0.5 for patient in validation]
        empty = [not plane.any() for patient in train for plane in patient.native]

        network = self.network()
        network.load_state_dict(parent)
        self.lay_out(network)
        if self.study.training.precision == "bfloat16":
            train_depthwise_in_float32(network)
        anchor = [parameter.detach().clone() for parameter in network.parameters()]
        if towards is not None:
            for (name, _), before in zip(network.named_parameters(), anchor, strict=True):
                before.copy_(towards[name])
        adam = torch.optim.Adam(network.parameters(), lr=rules.learning_rate, weight_decay=rules.weight_decay)
        if rules.recipe == "nnunet":
            adam = NnUNetsDescent(network.parameters(), rules.weight_decay)
        low, high = rules.final_learning_rate, rate or rules.learning_rate
        teacher = self._teacher(parent, images) if taught else None
        if frozen:
            for parameter in network.encoder.parameters():
                parameter.requires_grad = False
            if rules.batch_norm == "precise":
                with self._precision():
                    estimate_anew(network, images)
        losses: list[float] = []
        dices: list[float] = []
        kept: Tensors = {}
        for epoch in epochs or range(total):
            for group in adam.param_groups:
                if epoch < warmup:
                    group["lr"] = (epoch + 1) * high / (warmup + 1)
                else:
                    part = (epoch - warmup) / (total - warmup)
                    group["lr"] = low + (high - low) * (1 + math.cos(math.pi * part)) / 2
                if rules.recipe == "nnunet":
                    group["lr"] = high * (1 - epoch / total) ** 0.9
            seed = seed_of(self.study.seed, site, fold, *([f"visit {visit}"] if visit else []), epoch)
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            network.train()
            if frozen:
                network.encoder.eval()
            batch_losses = []
            for selected in self._batches(empty, generator):
                x, y = images[selected], masks[selected]
                if rules.augmentation == "light":
                    x, y = augmented(x, y, generator)
                with self._precision():
                    logits = network(laid(x))
                loss = self._loss(logits, y)
                if taught and teacher is not None:
                    weight, temperature = taught
                    with torch.no_grad(), self._precision():
                        answers = teacher(x.to(memory_format=torch.channels_last)).float()
                    softened = torch.sigmoid(answers / temperature)
                    loss = loss + weight * F.binary_cross_entropy_with_logits(logits.float() / temperature, softened)
                adam.zero_grad()
                loss.backward()
                if mu:  # the gradient of mu/2 |w - anchor|², by hand
                    for parameter, before in zip(network.parameters(), anchor, strict=True):
                        assert parameter.grad is not None
                        parameter.grad += mu * (parameter.detach() - before)
                        loss = loss.detach() + mu / 2 * (parameter.detach() - before).square().sum()
                adam.step()
                batch_losses.append(loss.detach())
            losses.append(float(torch.stack(batch_losses).mean()))
            if rules.batch_norm == "precise":
                with self._precision():
                    estimate_anew(network, images)
            dices.append(self._dice(self._predict(network, seen) > 0.5, truth))
            if keep == "last" or dices[-1] > max(dices[:-1], default=-1.0):
                kept = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(kept)
        return Stage(kept, losses, dices, self.native_dice(network, site, fold))

    def _teacher(self, parent: Tensors, images: torch.Tensor) -> torch.nn.Module:
        """The received model, with batch normalisation's statistics of this site where the study estimates them."""
        network = self.network()
        network.load_state_dict(parent)
        network.to(memory_format=torch.channels_last)
        network.eval()
        if self.study.training.batch_norm == "precise":
            with self._precision():
                estimate_anew(network, images)
        return network

    def _loss(self, logits: torch.Tensor | list[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        """Of a network with auxiliary outputs the sum over all, each at its own size, by the weights of its authors."""
        one = nnunets_dice_and_bce if self.study.training.loss == "nnunet" else dice_and_bce
        if isinstance(logits, torch.Tensor):
            return one(logits.float(), y)
        weights = AUTHORS_WEIGHTS[self.study.model.architecture]
        assert len(weights) == len(logits)
        losses = []
        for weight, output in zip(weights, logits, strict=True):
            step = y.shape[2] // output.shape[2]  # of each step × step pixels, the one that lies after the middle
            losses.append(weight * one(output.float(), y[:, :, step // 2 :: step, step // 2 :: step]))
        return torch.stack(losses).sum()

    def with_own_statistics(self, site: str, fold: int, average: Tensors) -> Stage:
        """An average of which nothing but batch normalisation's means and variances becomes the site's own."""
        network = self.network()
        network.load_state_dict(average)
        network.to(memory_format=torch.channels_last)
        with self._precision():
            estimate_anew(network, self.standardised(site, fold)[0])
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        return Stage(weights, [], [], self.native_dice(network, site, fold))

    def standardised(self, site: str, fold: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Training and validation slices, by the mean and deviation of the training slices."""
        train, validation = self.members(site, fold)
        middle = self.study.model.neighbours
        pixels = np.concatenate([patient.image[:, middle] for patient in train]).astype(np.float64)
        mean, std = np.float32(pixels.mean()), np.float32(pixels.std())
        first, second = (
            torch.from_numpy(np.concatenate([(patient.image - mean) / std for patient in patients]))
            for patients in (train, validation)
        )
        return first, second

    def native_dice(self, network: torch.nn.Module, site: str, fold: int) -> float:
        """On the validation patients' own grid."""
        native = [patient.native for patient in self.members(site, fold)[1]]
        spacing = self.study.preprocessing.spacing_mm
        on_native = enlarge(self._predict(network, self.standardised(site, fold)[1]), spacing, native[0].shape[1:])
        return self._dice(on_native > 0.5, native)

    def _dice(self, predicted: NDArray[np.bool_], truth: list[NDArray[np.bool_]]) -> float:
        """Of slices, or of volumes: each patient's slices laid side by side are one picture."""
        ends = np.cumsum([len(mask) for mask in truth])[:-1]
        if self.study.training.slices == "chosen":
            return slice_dice(predicted, np.concatenate(truth))
        return float(
            np.mean(
                [
                    slice_dice(one[None], other[None])
                    for one, other in zip(np.split(predicted, ends), truth, strict=True)
                ]
            )
        )

    def _batches(self, empty: list[bool], generator: torch.Generator) -> Iterator[torch.Tensor]:
        """All slices with gland and the study's share of the others, drawn first, in a random order."""
        size = self.study.training.batch
        places = [place for place, without in enumerate(empty) if without]
        wanted = round(self.study.training.empty_share * len(places))
        left_out: set[int] = set()
        if wanted < len(places):
            shuffled = torch.randperm(len(places), generator=generator).tolist()
            left_out = {places[k] for k in shuffled[wanted:]}
        shown = torch.tensor([place for place in range(len(empty)) if place not in left_out])
        count = len(shown)
        order = shown[torch.randperm(count, generator=generator)]
        whole = count // size - (count % size == 1 and count > size)
        for k in range(whole):
            yield order[k * size : (k + 1) * size]
        if whole * size < count:
            yield order[whole * size :]

    def lay_out(self, network: torch.nn.Module) -> None:
        if self.study.model.dimensions == 2:
            network.to(memory_format=torch.channels_last)

    def _predict(self, network: torch.nn.Module, images: torch.Tensor) -> NDArray[np.float32]:
        network.eval()
        with torch.no_grad(), self._precision():
            logits = network(laid(images))
        return torch.sigmoid(logits.float())[:, 0].numpy()

    def _precision(self) -> torch.autocast | nullcontext[None]:
        bfloat16 = self.study.training.precision == "bfloat16"
        return torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()


AUTHORS_WEIGHTS = {
    "HolisticallyNested": [1.0] * 6,
    "DynUNet": [2.0**-level / (1 + 1 / 2 + 1 / 4 + 1 / 8) for level in range(4)],
}
"""HED's six losses count alike; nnU-Net halves the weight with each level, and the sum is 1."""


class NnUNetsDescent:
    """Stochastic gradient descent with Nesterov's momentum of 0.99, and gradients clipped to a norm of 12, by hand."""

    def __init__(self, parameters: Iterator[torch.nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.param_groups: list[dict[str, float]] = [{}]
        self.velocity: list[torch.Tensor] | None = None

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        rate = self.param_groups[0]["lr"]
        slopes = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        assert len(slopes) == len(self.parameters)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(slope) for slope in slopes]))
        slopes = [slope * (12 / (norm + 1e-6)).clamp(max=1.0) for slope in slopes]
        slopes = [slope.add(one, alpha=self.decay) for slope, one in zip(slopes, self.parameters, strict=True)]
        if self.velocity is None:
            self.velocity = [slope.clone() for slope in slopes]
        else:
            self.velocity = [before * 0.99 + slope for before, slope in zip(self.velocity, slopes, strict=True)]
        for parameter, slope, speed in zip(self.parameters, slopes, self.velocity, strict=True):
            parameter.add_(slope.add(speed, alpha=0.99), alpha=-rate)


def nnunets_dice_and_bce(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """As nnU-Net's source has them: soft Dice over the batch with 1e-5 above and below, and cross entropy."""
    gland = torch.sigmoid(logits)
    shared = (gland * masks).sum()
    dice = (2 * shared + 1e-5) / (gland.sum() + masks.sum() + 1e-5)
    return torch.stack([1 - dice, F.binary_cross_entropy_with_logits(logits, masks)]).sum()


NORMS = (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


def train_depthwise_in_float32(network: torch.nn.Module) -> None:
    """Switch autocast off around every depthwise convolution that is in training."""

    def before(module: torch.nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        if not module.training:
            return given
        torch.set_autocast_enabled("cpu", False)
        return (given[0].float(),)

    def after(module: torch.nn.Module, *_: object) -> None:
        if module.training:
            torch.set_autocast_enabled("cpu", True)

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.groups == module.in_channels > 1:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)


def laid(images: torch.Tensor) -> torch.Tensor:
    """Slices with their channels last in memory; boxes as they are."""
    return images.to(memory_format=torch.channels_last) if images.dim() == 4 else images


def beside(image: NDArray[np.float32], neighbours: int) -> NDArray[np.float32]:
    """Each slice between its neighbours, (slices, channels, rows, columns); the last slices stand again at the ends."""
    shown = [
        [image[min(max(k + step, 0), len(image) - 1)] for step in range(-neighbours, neighbours + 1)]
        for k in range(len(image))
    ]
    return np.array(shown)


def tensor(arrays: list[NDArray[np.float32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays))[:, None]


@torch.no_grad()
def estimate_anew(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Batch normalisation's mean and variance of each channel over all training slices, shown at once, while dropout
    is off: torch's own of one batch, with n values in place of its n - 1, and rounded as the mean of the squares less
    the square of the mean is in float64."""
    network.eval()
    norms = {name: module for name, module in network.named_modules() if isinstance(module, NORMS)}
    before = {
        name: norm.num_batches_tracked.clone() for name, norm in norms.items() if norm.num_batches_tracked is not None
    }
    shapes: dict[str, torch.Size] = {}
    hooks = [
        norm.register_forward_hook(lambda _, __, output, name=name: shapes.__setitem__(name, output.shape))
        for name, norm in norms.items()
    ]
    for norm in norms.values():
        norm.train()
        norm.momentum = 1.0
    network(laid(images))
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        norm.momentum = 0.1
        assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
        norm.num_batches_tracked.copy_(before[name])
        if name in shapes:
            count = shapes[name].numel() // shapes[name][1]
            mean = norm.running_mean.double()
            squares = norm.running_var.double() * ((count - 1) / count) + mean**2
            norm.running_var.copy_(squares - mean**2)
    network.eval()


def dice_and_bce(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss over the whole batch plus binary cross entropy.

    Of all formulas for Dice, equal but for their last bits, this is the one of Wang et al. (arXiv 2302.05666):
    what two regions share is half of what their sum exceeds their difference by.
    """
    gland, truth = F.logsigmoid(logits).exp().reshape(len(logits), 1, -1), masks.reshape(len(masks), 1, -1)
    area, expected = gland.sum((0, 2)), truth.sum((0, 2))
    shared = (area + expected - torch.linalg.vector_norm(gland - truth, ord=1, dim=(0, 2))) / 2
    too_much, too_little = area - shared, expected - shared
    # Autograd adds up the parts of a gradient in the order in which the formula was worked out.
    upper = shared + 0.0
    dice = upper / (shared + 0.5 * too_much + 0.5 * too_little).clamp_min(1e-7)
    return (1 - dice).mean() + F.binary_cross_entropy_with_logits(logits, masks)


def augmented(
    images: torch.Tensor, masks: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip, turn, scale, shift, gain and offset of each slice, drawn in this order: flip, angle, scale, shift by
    columns, shift by rows, gain, offset."""
    n = len(images)

    def within(limit: float) -> torch.Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * limit

    mirrored = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    angle = within(math.radians(10))
    size = 1 + within(0.1)
    right, down = within(0.2), within(0.2)  # of a side of 2
    gain, offset = 1 + within(0.1), within(0.1)
    matrix = torch.empty(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 0, 2] = angle.cos() * size * mirrored, -(angle.sin() * size), right
    matrix[:, 1, 0], matrix[:, 1, 1], matrix[:, 1, 2] = angle.sin() * size * mirrored, angle.cos() * size, down
    if images.dim() == 5:  # a box: every slice by itself, at the same places
        where = F.affine_grid(matrix, [n, 1, *images.shape[3:]], align_corners=False)
        moved, region = (
            torch.stack([F.grid_sample(part[:, :, k], where, align_corners=False) for k in range(part.shape[2])], 2)
            for part in (images, masks)
        )
        return moved * gain[:, None, None, None, None] + offset[:, None, None, None, None], (region >= 0.5).float()
    where = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, where, align_corners=False)
    region = F.grid_sample(masks, where, align_corners=False) >= 0.5
    return moved * gain[:, None, None, None] + offset[:, None, None, None], region.float()


def slice_dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Mean Dice over slices; two empty slices agree."""
    scores = []
    for one, other in zip(predicted, truth, strict=True):
        total = int(one.sum()) + int(other.sum())
        scores.append(2 * int((one & other).sum()) / total if total else 1.0)
    return float(np.mean(scores))


def enlarge(slices: NDArray[np.float32], spacing: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Linear, from the study's grid to a native one of 1 mm pixels with the same centre."""
    result = slices.astype(np.float64)
    for axis, count in enumerate(shape, start=1):
        old = (np.arange(result.shape[axis]) - (result.shape[axis] - 1) / 2) * spacing
        new = np.arange(count) - (count - 1) / 2
        result = np.apply_along_axis(lambda line, old=old, new=new: np.interp(new, old, line), axis, result)
    return result

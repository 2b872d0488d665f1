"""Training at a site: the schedule, the loss, the epoch kept, legs, statistics, batches, augmentation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from client.data.slice_counts import SliceCounts, slices_an_epoch
from client.preprocessing.pipeline import Record, prepare
from client.preprocessing.pipeline import load as load_slices
from client.site_config import load_site
from client.training.batches import Slices, augment, batches, standardised, standardised_slices, standards, statistics
from client.training.device import Device, choose_device
from client.training.fine_tune import Trained, fine_tune, grid_dice
from client.training.recipe import learning_rate, loss_of
from common.config.study import PreprocessingConfig, TrainingConfig
from common.plan import batches_per_epoch
from common.plan.graph import Schedule
from common.protocol.refusals import Refused
from tests.support.hospitals import small_study, write_hospitals

CPU = Device("cpu", "float32")
pytestmark = pytest.mark.usefixtures("one_thread")


class Small(nn.Module):
    """A network with batch normalisation and dropout: both have state of their own to keep."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout2d(0.3)
        self.last = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.drop(torch.relu(self.norm(self.first(x)))))
        return out


def slices_of(count: int, seed: int = 0, pixels: int = 16) -> Slices:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 1, pixels, pixels)
    masks[:, :, 4:10, 5:12] = 1
    return Slices(torch.randn(count, 1, pixels, pixels, generator=generator) + masks, masks)


def training_of(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"slices": "chosen", "batch": 4, "epochs": 4, "precision": "float32", **changes}
    )


CHOSEN = training_of()


def trained(
    *, schedule: Schedule | None = None, resume: Trained | None = None, network: nn.Module | None = None, **more: Any
) -> list[Trained]:
    """All epochs' states, each copied as a checkpoint would."""
    training = more.pop("training", training_of())
    schedule = schedule or Schedule(4, 0, 4, "best")
    states = []
    for state in fine_tune(
        network or Small(),
        more.pop("train", slices_of(10)),
        more.pop("validation", slices_of(5, seed=9)),
        training=training,
        schedule=schedule,
        seed_names=more.pop("seed_names", (1, "A", 0, 0)),
        device=CPU,
        resume=resume,
        **more,
    ):
        states.append(frozen(state))
    return states


def frozen(state: Trained) -> Trained:
    import copy

    return replace(
        state,
        kept={k: v.clone() for k, v in state.kept.items()},
        current={k: v.clone() for k, v in state.current.items()},
        optimizer=copy.deepcopy(state.optimizer),
    )


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("total", "low"), [(1, 0.0), (7, 0.0), (50, 1e-5)])
def test_the_learning_rate_is_torchs_cosine(total: int, low: float) -> None:
    training = training_of(learning_rate=3e-3, final_learning_rate=low)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=low)
    for epoch in range(total):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(Schedule(total, 0, total, "best"), epoch, training) == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        cosine.step()


def test_a_slice_of_a_cosine_goes_on_where_the_one_before_ended() -> None:
    whole = trained(schedule=Schedule(4, 0, 4, "last"))[-1].learning_rates
    parts = [trained(schedule=Schedule(4, k, k + 2, "last"))[-1].learning_rates for k in (0, 2)]
    assert (*parts[0], *parts[1]) == whole
    assert whole[0] == 1e-3 and whole == tuple(sorted(whole, reverse=True)) and whole[-1] > 0


@pytest.mark.parametrize("kind", ["dice", "bce", "dice+bce"])
def test_the_loss_is_the_formula(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 1, 8, 8, generator=generator)
    masks = (torch.rand(3, 1, 8, 8, generator=generator) > 0.6).float()
    p = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    y = masks.numpy().astype(np.float64)
    dice = 1 - 2 * (p * y).sum() / (p.sum() + y.sum())  # over the whole batch
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    expected = {"dice": dice, "bce": bce, "dice+bce": dice + bce}[kind]
    assert float(loss_of(logits, masks, kind)) == pytest.approx(expected, rel=1e-5)
    assert loss_of(logits.bfloat16(), masks, kind).dtype == torch.float32


def test_the_best_epoch_is_kept_the_first_among_equals() -> None:
    states = trained(schedule=Schedule(6, 0, 6, "best"))
    final = states[-1]
    best = final.dices.index(max(final.dices))
    assert len(final.dices) == len(final.losses) == 6
    assert final.kept_epoch == best + 1
    assert same(final.kept, states[best].current)


def test_an_epoch_no_better_than_the_one_before_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.7, 0.7, 0.6])
    monkeypatch.setattr("client.training.fine_tune.grid_dice", lambda *_: next(scores))
    states = trained()
    assert [state.kept_epoch for state in states] == [1, 2, 2, 2]
    assert same(states[-1].kept, states[1].current)


def test_the_last_epoch_is_kept_where_the_study_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.9, 0.1, 0.1, 0.1])
    monkeypatch.setattr("client.training.fine_tune.grid_dice", lambda *_: next(scores))
    states = trained(schedule=Schedule(4, 0, 4, "last"))
    assert states[-1].kept_epoch == 4
    assert same(states[-1].kept, states[-1].current)


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_stopping_and_going_on_changes_no_bit(cut: int, mu: float) -> None:
    whole = trained(proximal_mu=mu)
    torch.manual_seed(1234)  # whatever something else left behind
    resumed = trained(proximal_mu=mu, resume=trained(proximal_mu=mu)[cut - 1])
    assert [state.epoch for state in resumed] == list(range(cut + 1, 5))
    a, b = whole[-1], resumed[-1]
    assert (a.losses, a.dices, a.learning_rates) == (b.losses, b.dices, b.learning_rates)
    assert (a.kept_epoch, a.gradient_steps) == (b.kept_epoch, b.gradient_steps)
    assert same(a.current, b.current) and same(a.kept, b.kept)


def test_site_fold_and_seed_give_other_orders() -> None:
    ends = [trained(seed_names=names)[-1] for names in ((1, "A", 0, 0), (1, "B", 0, 0), (1, "A", 1, 0), (2, "A", 0, 0))]
    assert len({end.losses for end in ends}) == 4
    assert trained()[-1].losses == ends[0].losses


def test_the_proximal_term_holds_the_weights_back() -> None:
    start = Small().state_dict()

    def moved(mu: float) -> float:
        end = trained(proximal_mu=mu, training=training_of(augmentation="none"))[-1].current
        return sum(float((end[k] - start[k]).square().sum()) for k in ("first.weight", "last.weight"))

    assert moved(100.0) < moved(0.1) < moved(0.0) * 1.1


@pytest.mark.parametrize("spoil", ["images", "weights"])
def test_a_loss_that_is_not_finite_is_refused(spoil: str) -> None:
    train, network = slices_of(10), Small()
    if spoil == "images":
        train.images[3] = float("nan")
    else:
        network.last.bias.data.fill_(float("inf"))
    with pytest.raises(Refused, match="not finite"):
        trained(train=train, network=network)


@given(st.integers(1, 70), st.integers(2, 20), st.integers(0, 5))
def test_an_epoch_shows_every_slice_once_and_no_batch_of_one(count: int, size: int, seed: int) -> None:
    numbers = torch.arange(float(count)).view(-1, 1, 1, 1)
    training = training_of(batch=size)
    shown = list(batches(Slices(numbers, numbers + 0.5), training, torch.Generator().manual_seed(seed)))
    assert sorted(torch.cat([images.flatten() for images, _ in shown]).tolist()) == list(range(count))
    assert all(torch.equal(images + 0.5, masks) for images, masks in shown)
    sizes = [len(images) for images, _ in shown]
    assert all(length == size for length in sizes[:-1])
    assert sizes[-1] <= size + 1
    assert min(sizes) > 1 or count == 1
    assert len(shown) == batches_per_epoch(count, size)


@given(st.integers(1, 40), st.integers(0, 40), st.floats(0, 1), st.integers(0, 5))
def test_an_epoch_shows_all_gland_and_its_share_of_the_slices_without(
    gland: int, empty: int, share: float, seed: int
) -> None:
    places = torch.randperm(gland + empty, generator=torch.Generator().manual_seed(seed)).tolist()
    numbers = torch.arange(float(gland + empty)).view(-1, 1, 1, 1)
    without = tuple(sorted(places[:empty]))
    training = training_of(slices="all", empty_share=share)
    epochs = []
    for epoch in (0, 1):
        shown = list(
            batches(Slices(numbers, numbers, empty=without), training, torch.Generator().manual_seed(seed + epoch))
        )
        epochs.append(sorted(int(k) for images, _ in shown for k in images.flatten()))
        assert len(set(epochs[-1])) == len(epochs[-1]), "no slice twice"
        assert set(places[empty:]) <= set(epochs[-1])
        assert len(set(epochs[-1]) & set(without)) == round(share * empty)
        counts = [SliceCounts(selected=gland, below=0, empty=empty)]
        assert len(epochs[-1]) == slices_an_epoch(counts, training), "as the plan counts"
        assert len(shown) == batches_per_epoch(len(epochs[-1]), training.batch)


def test_each_epoch_draws_other_slices_without_gland() -> None:
    numbers = torch.arange(40.0).view(-1, 1, 1, 1)
    slices = Slices(numbers, numbers, empty=tuple(range(20, 40)))
    training = training_of(slices="all", empty_share=0.5)
    drawn = [
        frozenset(
            int(k) for images, _ in batches(slices, training, torch.Generator().manual_seed(seed)) for k in images
        )
        for seed in range(8)
    ]
    assert len(set(drawn)) == 8 and frozenset.union(*drawn) == set(range(40))


def test_on_chosen_slices_a_training_is_the_one_of_version_0_1() -> None:
    """Recorded before whole volumes could be trained on. Other processors round otherwise, in the last digits."""
    last = trained(training=training_of(batch_norm="running"))[-1]
    assert last.losses == pytest.approx(
        (1.262096881866455, 1.2361031770706177, 1.2141598463058472, 1.2329381704330444), rel=1e-5
    )
    sums = {name: float(tensor.double().abs().sum()) for name, tensor in last.kept.items()}
    assert sums["first.weight"] == pytest.approx(5.910336651024409, rel=1e-5)
    assert sums["norm.running_var"] == pytest.approx(3.113686740398407, rel=1e-5)
    assert sums["last.weight"] == pytest.approx(0.8400494270026684, rel=1e-5)


def test_the_steps_counted_are_the_batches_shown() -> None:
    assert trained(train=slices_of(9))[-1].gradient_steps == 4 * 2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_augmentation_keeps_shapes_and_masks_of_0_and_1(seed: int, count: int) -> None:
    given_slices = slices_of(count, seed, pixels=32)
    images, masks = augment(given_slices.images, given_slices.masks, "light", torch.Generator().manual_seed(seed))
    assert images.shape == given_slices.images.shape and masks.shape == given_slices.masks.shape
    assert images.dtype == masks.dtype == torch.float32
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert torch.isfinite(images).all()
    # Turned by at most 10°, scaled and shifted by at most 10 %: the gland stays a gland of about its size.
    ratio = masks.sum((1, 2, 3)) / given_slices.masks.sum((1, 2, 3))
    assert ((ratio > 0.5) & (ratio < 1.6)).all()
    again = augment(given_slices.images, given_slices.masks, "light", torch.Generator().manual_seed(seed))
    assert torch.equal(images, again[0]) and torch.equal(masks, again[1])


def test_no_augmentation_is_none() -> None:
    both = slices_of(3)
    images, masks = augment(both.images, both.masks, "none", torch.Generator())
    assert images is both.images and masks is both.masks


def centre(mask: torch.Tensor) -> tuple[float, float]:
    weight = mask[0].double()
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in weight.shape), indexing="ij")
    return float((rows * weight).sum() / weight.sum()), float((columns * weight).sum() / weight.sum())


def test_augmentation_moves_image_and_mask_together() -> None:
    """A landmark away from the middle stays where the mask has it, whatever was done."""
    mask = torch.zeros(200, 1, 64, 64)
    mask[:, :, 20:26, 38:46] = 1
    images, masks = augment(mask * 10, mask, "light", torch.Generator().manual_seed(2))
    places = []
    for image, moved in zip(images, masks, strict=True):
        bright = (image > image.min() + (image.max() - image.min()) / 2).float()
        found, expected = centre(bright), centre(moved)
        assert math.dist(found, expected) < 0.5
        places.append(expected)
    rows, columns = torch.tensor(places).T
    assert rows.std() > 2 and columns.std() > 2  # they did move
    left = (columns < 32).float().mean()
    assert 0.35 < left < 0.65  # flipped left–right by an even chance
    assert (rows < 36).all()  # never upside down: the landmark lies above the middle


def test_validation_dice_is_the_mean_over_slices() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    masks = torch.zeros(4, 1, 4, 4)
    masks[0, 0, :2] = masks[1, 0, :2] = masks[3, 0, :1] = 1
    logits = torch.full((4, 1, 4, 4), -5.0)
    logits[0, 0, :2] = 5  # right
    logits[1, 0, 1:3] = 5  # half
    # the third: nothing there, nothing found; the fourth: missed
    assert grid_dice(Fixed(), Slices(logits, masks), CPU) == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def test_validation_dice_of_volumes_counts_every_slice_of_a_patient_and_every_patient_alike() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    masks = torch.zeros(5, 1, 4, 4)
    logits = torch.full((5, 1, 4, 4), -5.0)
    masks[0, 0, :2] = 1  # 8 voxels, all found,
    logits[0, 0, :2] = 5
    logits[1, 0, :2] = 5  # and 8 more where there is no gland: 16 of 24
    masks[2, 0, 0] = 1  # 4 voxels in one slice, none found; two empty slices, left empty
    slices = Slices(logits, masks, empty=(1, 3, 4), volumes=(2, 3))
    assert grid_dice(Fixed(), slices, CPU) == pytest.approx((16 / 24 + 0) / 2)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    sites = write_hospitals(tmp_path_factory.mktemp("h"), {"A": 2, "B": 2}, slices=5)
    part = PreprocessingConfig.model_validate({"pixels": 32, "spacing_mm": 2.0, "n4": {"enabled": False}})
    return [record for path in sites.values() for record in prepare(load_site(path), part).records]


def test_statistics_are_over_all_pixels_of_the_selected_slices_of_each_site(records: list[Record]) -> None:
    found = statistics(records, CHOSEN)
    assert found.keys() == {"A", "B"}
    for site in found:
        pixels = np.concatenate(
            [
                load_slices(record).image[load_slices(record).selected].ravel().astype(np.float64)
                for record in records
                if record.site == site
            ]
        )
        assert found[site] == pytest.approx((pixels.mean(), pixels.std()), rel=1e-9)


def test_training_slices_are_standardised_by_their_own_site(records: list[Record]) -> None:
    for site in "AB":
        own = [record for record in records if record.site == site]
        slices = standardised_slices(own, statistics(records, CHOSEN), CHOSEN)
        assert slices.images.shape == slices.masks.shape == (sum(record.selected for record in own), 1, 32, 32)
        assert float(slices.images.double().mean()) == pytest.approx(0, abs=1e-4)
        assert float(slices.images.double().std()) == pytest.approx(1, abs=1e-3)
        assert set(slices.masks.unique().tolist()) == {0.0, 1.0}


def test_a_volume_is_standardised_by_all_of_its_own_slices_where_the_study_says_so(records: list[Record]) -> None:
    study = small_study(preprocessing={"standardise": "volume"})
    own = sorted((record for record in records if record.site == "A"), key=lambda record: record.patient)
    found = standards(records, study)
    assert found == {"A": None, "B": None}
    assert torch.equal(
        standardised_slices(own, found, CHOSEN).images[:, 0],
        torch.cat([torch.from_numpy(by_itself(record)[load_slices(record).selected]) for record in own]),
    )


def by_itself(record: Record) -> NDArray[np.float32]:
    image = load_slices(record).image
    wide = image.astype(np.float64)
    result: NDArray[np.float32] = (image - np.float32(wide.mean())) / np.float32(wide.std())
    return result


def test_the_order_of_records_changes_nothing(records: list[Record]) -> None:
    own = [record for record in records if record.site == "A"]
    for training in (CHOSEN, training_of(slices="all")):
        mean_std = statistics(own, training)
        a, b = (standardised_slices(given, mean_std, training) for given in (own, own[::-1]))
        assert torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks)
        assert (a.empty, a.volumes) == (b.empty, b.volumes)


def test_whole_volumes_are_all_slices_with_the_places_of_those_without_gland(records: list[Record]) -> None:
    own = [record for record in records if record.site == "A"]
    training = training_of(slices="all")
    volumes = [load_slices(record) for record in sorted(own, key=lambda record: record.patient)]
    pixels = np.concatenate([volume.image.ravel().astype(np.float64) for volume in volumes])
    mean_std = statistics(own, training)
    assert mean_std["A"] == pytest.approx((pixels.mean(), pixels.std()), rel=1e-9)
    slices = standardised_slices(own, mean_std, training)
    assert slices.volumes == tuple(len(volume.image) for volume in volumes)
    assert len(slices.images) == len(slices.masks) == sum(slices.volumes)
    native = [bool(plane.any()) for volume in volumes for plane in volume.native_mask]
    assert slices.empty == tuple(place for place, gland in enumerate(native) if not gland) != ()
    assert slices_an_epoch([record.counts for record in own], training_of(slices="all", empty_share=0)) == sum(native)


def test_an_even_image_does_not_divide_by_nothing() -> None:
    assert np.isfinite(standardised(np.full((2, 2), 7.0, np.float32), (7.0, 1e-6))).all()


def test_automatic_precision_is_one_that_the_machine_has() -> None:
    device = choose_device("cpu", "auto")
    assert device.kind == "cpu" and device.precision in ("float32", "bfloat16")
    assert choose_device("cpu", "float32") == CPU
    assert choose_device("cpu", "bfloat16").precision == "bfloat16"

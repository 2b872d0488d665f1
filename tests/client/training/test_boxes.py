"""Boxes of a volume: resampled about its centre, moved as one, and every slice of the volume segmented by them."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import nn

from client.data.slice_counts import SliceCounts, samples_an_epoch
from client.evaluation.evaluate import evaluate
from client.evaluation.scoring import predictions
from client.inference.predict import draw, find_scan
from client.preprocessing.pipeline import Record, load, prepare, to_native
from client.site_config import load_site
from client.training.batch_norm import estimate_statistics
from client.training.batches import Slices, augment, batches
from client.training.boxes import standardised_boxes
from client.training.device import Device, place
from client.training.fine_tune import grid_dice
from common.config.model import ModelConfig
from common.config.study import Study
from tests.end_to_end.scored_by_hand import box_by_box, matrix, read, resampled
from tests.support.cards import card
from tests.support.hospitals import patient, small_study, write_pair, write_site

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Device("cpu", "float32")
KNOWN = (850.0, 150.0)


def model(spacing: float) -> ModelConfig:
    box = {"dimensions": 3, "depth": 16, "slice_spacing_mm": spacing}
    return ModelConfig.model_validate({"architecture": "VNet", **box})


def study_of(spacing: float) -> Study:
    return small_study(
        model={"architecture": "VNet", "encoder": "", "dimensions": 3, "depth": 16, "slice_spacing_mm": spacing},
        training={"slices": "all"},
    )


class Around(nn.Module):
    """A network whose logits depend on the voxels two away on every side, and on which box a voxel lies in."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv3d(1, 1, 5, padding=2)
        nn.init.uniform_(self.near.weight, 0.0, 0.06, generator=torch.Generator().manual_seed(2))
        nn.init.constant_(self.near.bias, -1.5)

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.near(boxes)
        return logits + boxes.mean((2, 3, 4), keepdim=True)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Three patients, of 7, 9 and 15 slices of 3 mm."""
    folder = tmp_path_factory.mktemp("hospital") / "A"
    for k, slices in enumerate((9, 15, 7)):
        image, mask = patient(k, slices=slices)
        write_pair(folder / "images", f"Case{k:02}", image, mask)
    return list(prepare(load_site(write_site(folder, "A")), study_of(2.0).preprocessing).records)


def by_matrix(values: NDArray[np.float32], spacing: float, new_n: int, new_spacing: float) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.einsum("ij,jrc->irc", matrix(len(values), spacing, new_n, new_spacing), values)
    return found


@pytest.mark.parametrize("spacing", [1.0, 2.0, 5.0])
def test_a_training_sees_the_middle_of_each_volume(records: list[Record], spacing: float) -> None:
    """Finer than the scan, and coarser; deeper than the volume, and less deep."""
    boxes = standardised_boxes(records[::-1], {"A": KNOWN}, model(spacing))
    assert boxes.images.shape == boxes.masks.shape == (3, 1, 16, 32, 32) and not boxes.empty
    for k, record in enumerate(records):  # by their names, whatever their order
        slices = load(record)
        image = by_matrix((slices.image - np.float32(KNOWN[0])) / np.float32(KNOWN[1]), 3.0, 16, spacing)
        assert boxes.images[k, 0].numpy() == pytest.approx(image, abs=1e-5)
        share = by_matrix(slices.mask.astype(np.float32), 3.0, 16, spacing)
        clear = np.abs(share - 0.5) > 1e-6
        assert np.array_equal(boxes.masks[k, 0].numpy()[clear] > 0, share[clear] > 0.5)
        assert clear.mean() > 0.9
    ends = boxes.images[2, 0, [0, -1]].numpy()  # 21 mm of slices
    beyond = 16 * spacing > 22
    assert (not ends.any()) == beyond, "beyond the volume the image is its mean"


def test_each_volume_by_itself_is_standardised_as_it_was_scanned(records: list[Record]) -> None:
    boxes = standardised_boxes(records, {"A": None}, model(1.0))
    for k, record in enumerate(records):
        image = load(record).image.astype(np.float64)
        own = ((image - image.mean()) / image.std()).astype(np.float32)
        assert boxes.images[k, 0].numpy() == pytest.approx(by_matrix(own, 3.0, 16, 1.0), abs=1e-4)


def test_light_augmentation_moves_the_slices_of_a_box_as_one_image(records: list[Record]) -> None:
    boxes = standardised_boxes(records, {"A": KNOWN}, model(2.0))

    def augmented(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return augment(images, masks, "light", torch.Generator().manual_seed(7))

    images, masks = augmented(boxes.images, boxes.masks)
    assert not torch.equal(images, boxes.images) and set(masks.unique().tolist()) == {0.0, 1.0}
    for k in range(16):
        image, mask = augmented(boxes.images[:, :, k], boxes.masks[:, :, k])
        assert torch.equal(images[:, :, k], image) and torch.equal(masks[:, :, k], mask)
    same = augment(boxes.images, boxes.masks, "none", torch.Generator())
    assert same[0] is boxes.images and same[1] is boxes.masks


def test_an_epoch_shows_one_box_of_each_patient_as_the_plan_counts(records: list[Record]) -> None:
    study = study_of(2.0)
    boxes = standardised_boxes(records, {"A": KNOWN}, study.model)
    numbered = Slices(torch.arange(3.0).view(3, 1, 1, 1, 1), torch.zeros(3, 1, 1, 1, 1), boxes.empty, boxes.volumes)
    shown = [images.flatten() for images, _ in batches(numbered, study.training, torch.Generator().manual_seed(1))]
    assert sorted(torch.cat(shown).tolist()) == [0, 1, 2]
    counts = [record.counts for record in records]
    assert samples_an_epoch(iter(counts), study) == 3
    flat = small_study(training={"slices": "all", "empty_share": 1.0})
    assert samples_an_epoch(counts, flat) == sum(record.slices for record in records) == 31
    assert samples_an_epoch([SliceCounts(4, 1, 2)], study) == 1


@pytest.mark.parametrize("spacing", [1.0, 2.0, 4.0])
def test_scoring_and_relay_predict_draw_what_boxes_by_hand_draw(records: list[Record], spacing: float) -> None:
    """On volumes that a box holds and on deeper ones; the oracle begins with the raw files."""
    using, network = model(spacing), Around()
    place(network, CPU)
    probabilities = predictions(network, CPU, {"A": KNOWN}, using)
    folder = next(path for path in records[0].path.parents if path.name == "A") / "images"
    grid = small_study().preprocessing
    shown = card(site="A", model=using, preprocessing=grid, mean=KNOWN[0], std=KNOWN[1], cleaned=False)
    for (name, raw), record, score in zip(read(folder).items(), records, evaluate(probabilities, records), strict=True):
        assert name == record.patient
        on_grid = resampled(raw.image, raw.spacing[1:], (32, 32), (2.0, 2.0)).astype(np.float32)
        standardised = (on_grid - np.float32(KNOWN[0])) / np.float32(KNOWN[1])
        share = box_by_box(network, standardised, 3.0, using)
        slices = load(record)
        found = probabilities(record, slices)
        assert found.shape == share.shape == (len(raw.mask), 32, 32) and found.dtype == np.float32
        assert found == pytest.approx(share, abs=2e-5) and found.std() > 0.05
        scored = to_native(found, slices) > 0.5
        assert 0.005 < scored.mean() < 0.98, "a mask of all or nothing would show nothing"
        both = 2 * (scored & raw.mask).sum() / (scored.sum() + raw.mask.sum())
        assert score.dice_volume == pytest.approx(both)
        drawn = draw(find_scan(folder / f"{name}.nii.gz"), shown, [network], CPU)
        assert np.array_equal(sitk.GetArrayFromImage(drawn.mask) > 0, scored)


def test_a_deep_volume_is_not_segmented_box_after_box(records: list[Record]) -> None:
    """Or the test above would not notice if boxes did not overlap."""
    slices = load(records[1])
    assert len(slices.image) * 3.0 > 2 * 16 * 1.0
    mean = predictions(Around(), CPU, {"A": KNOWN}, model(1.0))(records[1], slices)
    whole = predictions(Around(), CPU, {"A": KNOWN}, model(4.0))(records[1], slices)
    assert not np.allclose(mean, whole, atol=0.01)


def test_batch_norm_of_boxes_is_estimated_over_all_voxels() -> None:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3))
    boxes = torch.randn(4, 1, 16, 32, 32) * 3 + 1
    place(network, CPU)
    estimate_statistics(network, boxes, CPU)
    with torch.no_grad():
        found = network[0](boxes).double()
    assert network[1].running_mean.numpy() == pytest.approx(found.mean((0, 2, 3, 4)).numpy(), rel=1e-5)
    assert network[1].running_var.numpy() == pytest.approx(found.var((0, 2, 3, 4), unbiased=False).numpy(), rel=1e-5)


class Given(nn.Module):
    """A network that returns its boxes as logits."""

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        return boxes


def test_the_epoch_is_selected_by_the_mean_dice_of_boxes() -> None:
    logits = torch.full((2, 1, 16, 32, 32), -5.0)
    masks = torch.zeros_like(logits)
    logits[0, 0, :8], masks[0, 0, :4] = 5.0, 1.0
    logits[1, 0, 3], masks[1, 0, 3] = 5.0, 1.0
    assert grid_dice(Given(), Slices(logits, masks), CPU) == pytest.approx((8 / 12 + 1) / 2)

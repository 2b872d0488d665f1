"""Drawing of the gland or its zones with the weights that a study brought."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from common.errors import RelayError

if TYPE_CHECKING:
    import numpy as np
    import SimpleITK as sitk
    from numpy.typing import NDArray
    from torch import nn

    from client.delivery.model_card import Card
    from client.training.device import Device

FilePath = str | os.PathLike[str]


class Model:
    """A model that a study brought: the weights that `relay site receive --to` wrote, with their card.

    Research software, not a medical device.
    """

    card: Card
    """The model card: origin, preprocessing, scores and limits of the weights."""

    def __init__(self, card: Card, networks: Sequence[nn.Module], device: Device) -> None:
        """Hold a model that has been read; `load` reads it.

        Args:
            card: the model card.
            networks: the network of each of the card's models, in the card's order.
            device: the device and precision to predict in.
        """
        self.card = card
        self._networks = tuple(networks)
        self._device = device

    @classmethod
    def load(
        cls,
        *weights: FilePath,
        card: FilePath | None = None,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    ) -> Model:
        """Read weights and their model card, as `relay predict` does.

        Args:
            weights: the .safetensors file; of an ensemble, all files, in any order.
            card: the model card; by default the one beside the weights.
            device: where the model runs; "auto" takes a graphics card where there is one.

        Raises:
            RelayError: a file is missing or cannot be read, or weights and card do not belong together.
        """
        from client.delivery.model_card import card_beside, load_card
        from client.inference.predict import in_order, load_network
        from client.training.device import choose_device

        files = [Path(path) for path in weights]
        if not files:
            raise RelayError("No weights file is given; give the .safetensors file of `relay site receive --to`.")
        read = load_card(Path(card) if card is not None else card_beside(files[0]))
        networks = [load_network(path, read, number) for number, path in enumerate(in_order(files, read))]
        return cls(read, networks, choose_device(device, read.precision))

    @overload
    def predict(self, image: sitk.Image) -> sitk.Image: ...

    @overload
    def predict(self, image: NDArray[Any], spacing: Sequence[float]) -> NDArray[np.uint8]: ...

    def predict(
        self, image: sitk.Image | NDArray[Any], spacing: Sequence[float] | None = None
    ) -> sitk.Image | NDArray[np.uint8]:
        """Draw the gland or its zones on every slice of an image, exactly as `relay predict` does.

        The image is processed as the card says that the study's images were: bias field, grid, standardisation. Where
        the mask may be wrong (another brightness, an image larger than what the model sees, no gland found), the remark
        that the command would print is given as a `UserWarning`.

        Args:
            image: an axial T2 volume as it was read, with nothing done to it: a SimpleITK image, with axes in any
                order; or an array (slices, rows, columns) whose slices run from the feet to the head, rows from front
                to back, and columns from the patient's right to the left.
            spacing: of an array, the millimetres between the centres of voxels along each of its axes: between slices,
                rows, columns.

        Returns:
            The mask as uint8, 0 or 1, or of zones 1 for the peripheral zone and 2 for the central gland: for a
            SimpleITK image a SimpleITK image of the same grid, for an array an array of the same shape.

        Raises:
            RelayError: the image cannot be used in a study either, such as one that is not axial or is constant; or an
                array comes without spacing.
        """
        import SimpleITK as sitk

        from client.inference.predict import draw, scan_of

        given = image if isinstance(image, sitk.Image) else _image_of(image, spacing)
        with _threads_restored():
            drawn = draw(scan_of(given), self.card, self._networks, self._device)
        for remark in drawn.remarks:
            warnings.warn(remark, stacklevel=2)
        return drawn.mask if isinstance(image, sitk.Image) else sitk.GetArrayFromImage(drawn.mask)

    def __repr__(self) -> str:
        """Return the model's way and its study."""
        from client.delivery.model_card import name_of

        way = name_of(self.card.method, self.card.route, self.card.site)
        return f"<relay.Model {way} of the study {self.card.study!r}>"


def _image_of(values: Any, spacing: Sequence[float] | None) -> sitk.Image:
    """Return an array as an image about the origin: a place that no file without geometry states."""
    import numpy as np
    import SimpleITK as sitk

    array = np.asarray(values)
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise RelayError(
            f"The image is an array of {array.ndim} axes with values of type {array.dtype}; give numbers with the three"
            " axes slices, rows and columns."
        )
    if spacing is None or len(spacing) != 3 or not all(0 < float(step) < math.inf for step in spacing):
        raise RelayError(
            "An array needs its spacing: give spacing=(between slices, between rows, between columns) in millimetres."
        )
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing([float(step) for step in reversed(spacing)])
    image.SetOrigin([-step * (size - 1) / 2 for step, size in zip(image.GetSpacing(), image.GetSize(), strict=True)])
    return image


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Give the caller's numbers of threads back after the block: drawing fixes both, so that its bits are the same."""
    import SimpleITK as sitk
    import torch

    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])

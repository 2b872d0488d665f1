"""What every network has to do, as four checks that a test calls with a network's name: the base of all their tests."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from common.config.model import ModelConfig
from common.model.network import build, check_network, declared, part_names
from common.model.weights import UnfitWeights, check_fit, serialised


class Built:
    """A network with seeded weights, in training mode, and images for it."""

    def __init__(self, architecture: str, *, encoder: str = "", pixels: int = 64, **keys: object) -> None:
        content = {"architecture": architecture, **({"encoder": encoder} if encoder else {}), **keys}
        self.model = ModelConfig.model_validate({"encoder_weights": "none", **content})
        self.pixels = pixels
        torch.manual_seed(3)
        self.network: nn.Module = build(self.model, whole=True).train()
        self.size = (pixels, pixels) if self.model.dimensions == 2 else (self.model.depth, pixels, pixels)
        self.images = torch.randn(2, self.model.channels, *self.size)

    def trained(self) -> list[torch.Tensor]:
        """The outputs in training: the network's own, then the auxiliary ones."""
        outputs = self.network.train()(self.images)
        return outputs if isinstance(outputs, list) else [outputs]

    def check_shapes(self) -> None:
        """One logit a pixel, and in training as many outputs as have a weight in the loss."""
        check_network(self.model, self.pixels)
        outputs = self.trained()
        weights = declared(self.model).output_weights
        assert len(outputs) == len(weights) and all(weight > 0 for weight in weights)
        assert outputs[0].shape == (2, 1, *self.size)
        for one in outputs:
            assert one.shape[:2] == (2, 1) and self.pixels % one.shape[-1] == 0 and one.shape[-2] == one.shape[-1]
            assert bool(torch.isfinite(one).all())

    def check_gradients(self, *, unused: tuple[str, ...] = ()) -> None:
        """Every parameter learns, but those whose names begin with one of `unused`, which really do not."""
        loss = sum((one.square().mean() + one.mean() for one in self.trained()), torch.zeros(()))
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in self.network.named_parameters():
            if name.startswith(unused) if unused else False:
                assert parameter.grad is None, f"{name} is used after all"
            else:
                assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name

    def check_evaluation(self) -> None:
        """One map in evaluation, the same every time: no auxiliary output, and nothing by chance."""
        self.network.eval()
        with torch.inference_mode():
            first, second = self.network(self.images), self.network(self.images)
        assert isinstance(first, torch.Tensor) and first.shape == (2, 1, *self.size)
        assert torch.equal(first, second)

    def check_weights(self) -> None:
        """All tensors but those that belong to a site travel in a safetensors file, each once, and predict the same."""
        stays = declared(self.model).stays
        whole = self.network.state_dict()
        travelling = {name: tensor for name, tensor in whole.items() if name.partition(".")[0] not in stays}
        assert whole.keys() - travelling.keys() == part_names(self.model)
        tensors = safetensors.torch.load(serialised(travelling))
        check_fit(tensors, self.model)
        for name in sorted(part_names(self.model))[:1]:
            with pytest.raises(UnfitWeights, match="the names of the tensors"):
                check_fit(tensors | {name: whole[name]}, self.model)
        places = [tensor.data_ptr() for tensor in self.network.state_dict().values() if tensor.numel()]
        assert len(set(places)) == len(places), "a tensor would travel twice"
        self.network.eval()
        with torch.inference_mode():
            before = self.network(self.images)
            torch.manual_seed(4)
            other = build(self.model).eval()
            other.load_state_dict(tensors)
            assert torch.equal(other(self.images), before)
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.network.modules())
        assert norms == self.model.has_batch_norm

    def check_all(self, *, unused: tuple[str, ...] = ()) -> None:
        """All four."""
        self.check_shapes()
        self.check_gradients(unused=unused)
        self.check_evaluation()
        self.check_weights()

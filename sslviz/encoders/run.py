"""Running an encoder: frozen, without gradients, the same for every batch size."""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.spec import EncoderSpec, load_spec
from sslviz.encoders.store import load_weights
from sslviz.errors import InputError
from sslviz.store.workspace import Workspace


class Encoder(nn.Module):
    """A frozen encoder. `embed` takes pictures uint8[B, 3, size, size] and returns features float32[B, D].

    It stays in evaluation mode whatever is called on it, holds no gradients, and its weights are never written.
    """

    def __init__(self, spec: EncoderSpec, backbone: nn.Module, device: str = "cpu") -> None:
        super().__init__()
        self.spec = spec
        self.device = torch.device(device)
        self.backbone = backbone.to(self.device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        self.eval()
        self._mean = torch.tensor(spec.input.mean, device=self.device)[:, None, None]
        self._outputs = torch.tensor(spec.outputs, device=self.device) if spec.outputs else None
        self._scale = 1 / torch.tensor(spec.input.std, device=self.device)[:, None, None]

    def train(self, mode: bool = True) -> "Encoder":
        """Stays in evaluation mode: BatchNorm must not learn from the images it embeds."""
        return super().train(False)

    @torch.inference_mode()
    def embed(self, images: torch.Tensor, bf16: bool = False) -> torch.Tensor:
        """Features float32[B, D] of images uint8[B, 3, size, size]. Raises InputError for another shape or dtype."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return cast(torch.Tensor, self(self.prepare(images)))

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """The network's input float32[B, 3, size, size] of images uint8. Raises InputError for another shape or dtype."""
        size = self.spec.input.size
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise InputError(
                f"images are {images.dtype} {tuple(images.shape)}; encoder {self.spec.name} takes uint8 [B, 3, {size}, {size}]."
            )
        x = images.to(self.device, non_blocking=True).float().div_(255).sub_(self._mean).mul_(self._scale)
        return x.contiguous(memory_format=torch.channels_last)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Features float32[B, D] of prepared inputs, with their graph. Raises InputError where they are none."""
        h = self.backbone(inputs)
        if self._outputs is not None and h.ndim == 2:
            h = h[:, self._outputs]
        if h.ndim != 2 or h.shape[1] != self.spec.feature_dim:
            raise InputError(
                f"encoder {self.spec.name} gave features of shape {tuple(h.shape)}; expected [B, {self.spec.feature_dim}]."
            )
        return cast(torch.Tensor, h.float())


def load_encoder(workspace: Workspace, name: str, device: str = "cpu") -> Encoder:
    """A stored encoder, ready to run. Raises NotFound, or InputError when its files were changed."""
    spec = load_spec(workspace, name)
    if spec.backbone == "arrays":
        raise InputError(f'encoder "{name}" was imported as arrays ({spec.source}); it has no weights to embed with.')
    return build_encoder(spec, load_weights(workspace, spec), device)


def build_encoder(spec: EncoderSpec, weights: dict[str, torch.Tensor], device: str = "cpu") -> Encoder:
    """The encoder of these weights, ready to run."""
    backbone = BACKBONES[spec.backbone].build(spec.architecture)
    backbone.load_state_dict(weights, strict=True)
    return Encoder(spec, backbone, device)


def pick_device(wanted: str) -> str:
    """ "auto" -> cuda, mps or cpu, the first that is there. Raises InputError for a device that is not."""
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if wanted == "auto":
        return next(name for name, is_there in there.items() if is_there())
    if not there[wanted]():
        raise InputError(f'device "{wanted}" is not available on this machine. Use --device auto or cpu.')
    return wanted

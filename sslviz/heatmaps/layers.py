"""Finding the layers of any encoder that have maps, and leaving the encoder as it came."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from sslviz.arrays import Array, is_torch
from sslviz.encoders.run import Encoder
from sslviz.errors import InputError

_SAME = 1e-4
_BEFORE_ATTENTION = (".norm1", ".ln_1", ".layernorm_before")
"""How timm and DINO, torchvision, and transformers call the norm before a block's attention."""
_IMAGES_ON_CPU = 8
"""A pass: what its caches hold (ResNet-18 at 224 pixels: 1.7 times as fast as 64)."""


_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def alone(network: nn.Module) -> Iterator[None]:
    """Nobody else runs this network meanwhile: hooks hear every thread's passes."""
    with _lock:
        mine = _locks.setdefault(network, threading.RLock())
    with mine:
        yield


class Layer(NamedTuple):
    """A module with maps of h x w places; tokens stand after `prefix` others (class, registers), Swin has channels last."""

    name: str
    height: int
    width: int
    kind: Literal["channels first", "channels last", "tokens"]
    prefix: int = 0

    @property
    def words(self) -> str:
        """For a person who chooses."""
        tokens = f" tokens, {self.prefix} others left out" if self.kind == "tokens" else ""
        return f"{self.name} ({self.height} x {self.width}{tokens})"

    def as_maps(self, output: torch.Tensor) -> torch.Tensor:
        """A module's output as float[N, C, h, w]."""
        if self.kind == "channels first":
            return output
        if self.kind == "channels last":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :].transpose(1, 2)
        return tokens.reshape(len(tokens), -1, self.height, self.width)


class Subject:
    """An encoder while it is being explained: in evaluation mode, without a gradient on its weights; afterwards as it was."""

    def __init__(self, encoder: Any) -> None:
        if not isinstance(encoder, nn.Module):
            raise InputError(f"encoder is a {type(encoder).__name__}; expected an encoder of sslviz or a torch module.")
        self.encoder = encoder
        self.network: nn.Module = encoder.backbone if isinstance(encoder, Encoder) else encoder
        self._outputs = list(encoder.spec.outputs) if isinstance(encoder, Encoder) else []
        parameter = next(self.network.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        self.width = 0
        self._layers: list[Layer] = []
        self._last: Layer | None = None
        self._exact = False
        self._undo: list[Any] = []
        self._alone = ExitStack()

    def __enter__(self) -> "Subject":
        self._alone.enter_context(alone(self.network))
        modes = [(m, m.training) for m in self.network.modules()]
        wants = [(p, p.requires_grad) for p in self.network.parameters()]
        grads = [(p, p.grad) for p in self.network.parameters()]
        self._undo = [modes, wants, grads]
        self.network.eval()
        self.network.requires_grad_(False)
        return self

    def __exit__(self, *_: object) -> None:
        modes, wants, grads = self._undo
        for module, mode in modes:
            module.training = mode
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)
        for parameter, grad in grads:
            parameter.grad = grad
        self._alone.close()

    def inputs(self, images: Array) -> torch.Tensor:
        """Images as the network takes them, float[N, 3, H, W]; also finds its layers. Raises InputError for another shape."""
        given: torch.Tensor = images if is_torch(images) else torch.from_numpy(np.require(images, requirements=["C", "W"]))
        if isinstance(self.encoder, Encoder):
            found = self.encoder.prepare(given)
        else:
            if given.ndim != 4 or not given.is_floating_point():
                raise InputError(f"images are {given.dtype} {tuple(given.shape)}; expected float [N, 3, H, W].")
            if not bool(torch.isfinite(given).all()):
                raise InputError("images hold NaN or infinity.")
            parameter = next(self.network.parameters(), None)
            found = given.to(self.device, torch.float32 if parameter is None else parameter.dtype)
        if not len(found):
            raise InputError("no images: expected at least one.")
        if not self._layers:
            noise = torch.randn(2, *found.shape[1:], generator=torch.Generator().manual_seed(0))
            self._look(noise.to(found))
        return found.detach()

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """h float[N, D] with its graph."""
        h: torch.Tensor = self.encoder(inputs)
        return h

    @property
    def has_maps(self) -> bool:
        """Whether any layer with maps reaches the features."""
        return self._last is not None

    def layer(self, name: str | None) -> Layer:
        """A layer by its name; None: the last whose maps reach the features. Raises InputError."""
        if name is None:
            if self._last is None:
                raise InputError("this encoder has no layer with maps; only integrated_gradients can explain it.")
            return self._last
        for layer in self._layers:
            if layer.name == name:
                return layer
        if name in dict(self.network.named_modules()):
            raise InputError(f'layer "{name}" has no maps. Layers that have: {", ".join(n.name for n in self.offered())}.')
        raise InputError(f'no layer "{name}" in this encoder. Layers with maps: {", ".join(n.name for n in self.offered())}.')

    def offered(self) -> list[Layer]:
        """The layers worth a choice: of a convolutional network the last of each size, of a transformer attention's inputs."""
        tokens = [layer for layer in self._layers if layer.name.endswith(_BEFORE_ATTENTION) and layer.kind == "tokens"]
        by_depth = []
        for depth in (0, 1):
            stages = [n for n in self._layers if n.name.count(".") <= depth and n.kind != "tokens"]
            by_depth.append({(n.height, n.width): n for n in stages})
        most = max(by_depth, key=len)  # the first of equals: a stage rather than its last block
        return list(most.values()) if len(most) > 1 else tokens or self._layers[-12:]

    def map_size(self, name: str | None) -> tuple[int, int]:
        """Height and width of a layer's maps."""
        layer = self.layer(name)
        return layer.height, layer.width

    def is_exact(self, name: str | None) -> bool:
        """Whether the features are the means of this layer's maps."""
        return self._exact and (name is None or self.layer(name) == self._last)

    def last_maps(self, inputs: torch.Tensor) -> torch.Tensor:
        """The maps float[N, D, h, w] whose means are the features (`is_exact`)."""
        layer = self.layer(None)
        seen: dict[str, torch.Tensor] = {}
        parts = []
        with torch.no_grad(), self._hook([layer.name], lambda name, output: seen.update({name: output.detach().clone()})):
            for part in torch.split(inputs, _IMAGES_ON_CPU if inputs.device.type == "cpu" else len(inputs)):
                self.features(part)
                parts.append(layer.as_maps(seen[layer.name]).float())
        maps = torch.cat(parts)
        return maps[:, self._outputs] if self._outputs else maps

    def module(self, name: str) -> nn.Module:
        """The module of a layer."""
        return self.network.get_submodule(name)

    def _look(self, noise: torch.Tensor) -> None:
        """Run two pictures and note every module with maps; then which of them is the last to matter, and whether exactly."""
        outputs: dict[str, torch.Tensor] = {}

        def note(name: str, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                outputs.pop(name, None)
                outputs[name] = output.detach().clone()

        names = [name for name, _ in self.network.named_modules() if name]
        with torch.no_grad(), self._hook(names, note):
            h = self.features(noise)
        if h.ndim != 2:
            raise InputError(f"the encoder gives features of shape {tuple(h.shape)}; expected [N, D].")
        self.width = int(h.shape[1])
        prefix = getattr(self.network, "num_prefix_tokens", None)
        self._layers = [found for name, output in outputs.items() if (found := _as_layer(name, output, prefix, noise))]
        for layer in reversed(self._layers if h.abs().max() > 0 else []):
            means = layer.as_maps(outputs[layer.name]).float().mean((2, 3))
            if self._outputs and means.shape[1] > max(self._outputs):
                means = means[:, self._outputs]
            if means.shape == h.shape and torch.allclose(means, h.float(), rtol=_SAME, atol=_SAME * float(h.abs().max())):
                same = [n for n in self._layers if torch.equal(outputs[n.name], outputs[layer.name])]
                self._last = min(same, key=lambda n: n.name.count("."))
                self._exact = True
                return
        self._last = self._last_that_matters(noise)

    def _last_that_matters(self, noise: torch.Tensor) -> Layer | None:
        """The last offered layer whose maps the features depend on (a class token leaves the others of its block behind)."""
        for layer in reversed(self.offered() if self._layers else []):
            _, gradient = self.output_and_gradient(layer, lambda x: self.features(x).square().sum(1), noise)
            if gradient.abs().sum() > 0:
                return layer
        return None

    def output_and_gradient(
        self, layer: Layer, target: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's maps float[N, C, h, w] and the gradient of target(inputs)[i] with respect to those of image i."""
        kept: list[torch.Tensor] = []
        with torch.enable_grad(), self._hook([layer.name], lambda _, output: kept.append(output)):
            found = target(inputs.clone().requires_grad_()).sum()
            gradient = torch.autograd.grad(found, kept[-1], allow_unused=True)[0]
        output = layer.as_maps(kept[-1].detach())
        return output, torch.zeros_like(output) if gradient is None else layer.as_maps(gradient)

    @contextmanager
    def _hook(self, names: list[str], note: Any) -> Iterator[None]:
        handles = []
        try:
            for name in names:

                def hear(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                    note(name, output)

                handles.append(self.network.get_submodule(name).register_forward_hook(hear))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _as_layer(name: str, output: torch.Tensor, prefix: int | None, image: torch.Tensor) -> Layer | None:
    if output.ndim == 4:
        _, a, b, c = output.shape
        if _shaped_as(image, a, b) and not _shaped_as(image, b, c) and min(a, b) > 1:
            return Layer(name, a, b, "channels last")
        return Layer(name, b, c, "channels first") if min(b, c) > 1 else None
    if output.ndim != 3:
        return None
    tokens = int(output.shape[1])
    for others in [prefix] if prefix is not None else range(17):
        side = math.isqrt(max(0, tokens - others))
        if side > 1 and side * side == tokens - others:
            return Layer(name, side, side, "tokens", others)
    return None


def _shaped_as(image: torch.Tensor, height: int, width: int) -> bool:
    """Whether a map of height x width can be that image, up to the rounding of one place."""
    whole_height, whole_width = image.shape[2:]
    if whole_height == whole_width:
        return height == width
    return abs(height * whole_width - width * whole_height) <= max(whole_height, whole_width)

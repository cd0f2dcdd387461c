"""Where an encoder looks: raw maps of single features, and one heatmap an image for a set of its features (docs/method.md).

A method is one file here that registers itself; `explain` finishes its raw map.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from sslviz.arrays import Array, as_numpy, check_features, is_torch
from sslviz.errors import InputError
from sslviz.registry import Registry

if TYPE_CHECKING:
    import torch

    from sslviz.heatmaps.layers import Subject


class HeatmapMethod(ABC):
    """How the evidence for a weighted sum of features is spread over a picture."""

    title: str
    """For a person who chooses."""
    needs_layer: bool = True
    """Whether the maps are those of a layer (else of the picture itself)."""

    @abstractmethod
    def maps(self, subject: "Subject", inputs: "torch.Tensor", weights: "torch.Tensor", layer: str | None) -> "torch.Tensor":
        """Signed raw maps float32[N, h, w] of sum_j weights[i, j] h_ij; inputs float[N, 3, H, W], weights float[N, D]."""


HEATMAPS: Registry[HeatmapMethod] = Registry("heatmap method", __name__, beside=frozenset({"layers", "hiding"}))


def feature_maps(encoder: Any, images: Array, features: Array, layer: str | None = None) -> Array:
    """Raw maps of single features, float[N, K, h, w], of the kind of `images`.

    encoder: one of ours (images uint8[N, 3, S, S]), or any torch module that gives features float[N, D] (images as it takes
    them, float[N, 3, H, W]) · features int[K] · layer: name of a module; None: the last one that has maps.
    Where the features are the means of the last maps, those are the answer, all from one forward pass: mean(maps[i, k]) is
    h_ik. Else, and for earlier layers: Grad-CAM of h_ij (Selvaraju et al., ICCV 2017), a backward pass a feature, scaled so
    that both agree where both apply.
    Raises InputError: images of another shape, an index out of range, a layer that is not there or has no maps.
    """
    import torch

    from sslviz.heatmaps.layers import Subject

    with Subject(encoder) as subject:
        inputs = subject.inputs(images)
        kept = check_features(features, subject.width)
        if subject.is_exact(layer):
            found = subject.last_maps(inputs)[:, torch.from_numpy(kept)].cpu()
        else:
            gradcam = HEATMAPS["gradcam"]
            one = torch.eye(subject.width)[kept]
            stacked = [gradcam.maps(subject, inputs, row.expand(len(inputs), -1), layer) for row in one]
            found = torch.stack(stacked, 1) if stacked else torch.zeros(len(inputs), 0, *subject.map_size(layer))
    return found.to(images.device) if is_torch(images) else found.numpy()


def explain(encoder: Any, images: Array, features: Array, method: str = "activation", layer: str | None = None) -> Array:
    """One heatmap an image, float[N, H, W] in 0..1 at the images' size: the sum of the maps of its features.

    Negatives go to 0, the map is resized (bilinear, align_corners=False) and divided by its maximum; without positive evidence
    it is zero everywhere. encoder, images, layer: see `feature_maps` · features int[K], the same for all, or bool[N, D], its
    own for each image (L_i ∩ D) · method: "activation" (encoders whose features are means of maps), "gradcam",
    "integrated_gradients" (layer None).
    Raises InputError: see `feature_maps`; an unknown method, one that this encoder or layer cannot give.
    """
    from sslviz.heatmaps.layers import Subject

    with Subject(encoder) as subject:
        inputs = subject.inputs(images)
        raw = HEATMAPS[method].maps(subject, inputs, feature_weights(features, len(inputs), subject.width), layer)
        found = finish(raw, (int(inputs.shape[2]), int(inputs.shape[3])))
    return found.to(images.device) if is_torch(images) else found.numpy()


def finish(raw: "torch.Tensor", size: tuple[int, int]) -> "torch.Tensor":
    """Raw maps float[N, h, w] as heatmaps float[N, H, W] in 0..1; a map without positive values stays zero."""
    maps = enlarge(raw.float().clamp_min(0), size)
    peak = maps.amax((1, 2), keepdim=True)
    return maps / peak.where(peak > 0, 1)


def enlarge(maps: "torch.Tensor", size: tuple[int, int]) -> "torch.Tensor":
    """Maps float[..., h, w] resized to float[..., H, W], bilinear with align_corners=False: the products with two matrices that
    F.interpolate is, four times as fast for many small maps."""
    import torch
    import torch.nn.functional as F

    if maps.shape[-2:] == size:
        return maps
    rows, columns = (
        F.interpolate(torch.eye(n, device=maps.device)[None], size=m, mode="linear", align_corners=False)[0].T
        for n, m in zip(maps.shape[-2:], size, strict=True)
    )
    flat = maps.reshape(-1, *maps.shape[-2:])
    return (rows @ (flat @ columns.T)).reshape(*maps.shape[:-2], *size)


def feature_weights(features: Array, n: int, width: int) -> "torch.Tensor":
    """Features int[K] or bool[N, D] as weights float32[N, D] of 0 and 1. Raises InputError."""
    import torch

    given = as_numpy(features)
    if given.dtype == bool:
        if given.shape != (n, width):
            raise InputError(f"features has shape {given.shape}; expected a mask of ({n}, {width}), or feature indices.")
        return torch.from_numpy(given.astype(np.float32))
    weights = torch.zeros(n, width)
    weights[:, torch.from_numpy(check_features(given, width))] = 1
    return weights

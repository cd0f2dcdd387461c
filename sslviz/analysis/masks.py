"""How far heatmaps agree with masks (docs/method.md 5), beside what maps that know nothing reach.

H, W pixels. A heatmap is float in 0..1; a mask is bool, float in 0..1 or uint8 in 0..255. An area is where a value is at least
its threshold. An empty mask gives NaN where there is nothing to agree on; a map without evidence gives 0.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from sslviz.arrays import Array, check_maps, is_torch
from sslviz.errors import InputError

THRESHOLD = 0.5
"""Of heatmaps and of masks: ours, the paper names none."""
BLOB_SIGMA = 0.25
"""Of the centre blob, in sides of the picture."""


def mask_iou(
    heatmap: Array,
    mask: Array,
    threshold: float = THRESHOLD,
    mask_threshold: float = THRESHOLD,
    weighting: Literal["heatmap", "area"] = "heatmap",
) -> Array:
    """Intersection over union of each heatmap's area with its mask's, float64[N] of the kind of `heatmap`.

    heatmap float[N, H, W] · mask [N, H, W] · weighting: "heatmap" sums the heatmap's values in the intersection and in the whole
    union, mask-only pixels included (Kalibhat et al., AAAI 2024, section 5); "area" counts pixels.
    0 where the map is zero and the mask is not; NaN where both areas are empty.
    Raises InputError: wrong rank or shapes, NaN or infinity, a threshold outside (0, 1], an unknown weighting.
    """
    heat, core = check_maps(heatmap, mask)
    for name, value in (("threshold", threshold), ("mask_threshold", mask_threshold)):
        if not 0 < value <= 1:
            raise InputError(f"{name} is {value:g}; expected above 0 and at most 1.")
    if weighting not in ("heatmap", "area"):
        raise InputError(f'weighting is "{weighting}"; expected "heatmap" or "area".')
    found: Array = _iou(heat, heat >= threshold, core >= mask_threshold, weighting)
    if is_torch(heatmap):
        import torch

        found = torch.from_numpy(found)
    return found


def _iou(heat: np.ndarray, hot: np.ndarray, marked: np.ndarray, weighting: str = "heatmap") -> np.ndarray:
    values = heat if weighting == "heatmap" else np.ones_like(heat)
    both, either = hot & marked, hot | marked
    shared, whole = ((values * area).sum((1, 2), dtype=np.float64) for area in (both, either))
    iou: np.ndarray = np.divide(shared, whole, out=np.zeros(len(heat)), where=whole > 0)
    iou[~either.any((1, 2))] = np.nan
    return iou


def pointing_game(heatmap: Array, mask: Array, mask_threshold: float = THRESHOLD) -> np.ndarray:
    """Whether a map's highest value lies in the mask (Zhang et al., ECCV 2016), float64[N]: the share that does of equal maxima.

    0 for a zero map, NaN for an empty mask. Raises InputError: see `mask_iou`.
    """
    heat, core = check_maps(heatmap, mask)
    marked = core >= mask_threshold
    top = (heat == heat.max((1, 2), keepdims=True)) & (heat > 0)
    hits = (top & marked).sum((1, 2)) / np.maximum(top.sum((1, 2)), 1)
    return np.where(marked.any((1, 2)), hits, np.nan)


def mass_inside(heatmap: Array, mask: Array, mask_threshold: float = THRESHOLD) -> np.ndarray:
    """Share of a map's values that lies in the mask, float64[N]; 0 for a zero map, NaN for an empty mask.

    Raises InputError: see `mask_iou`.
    """
    heat, core = check_maps(heatmap, mask)
    marked = core >= mask_threshold
    mass = heat.sum((1, 2), dtype=np.float64)
    inside = np.divide((heat * marked).sum((1, 2), dtype=np.float64), mass, out=np.zeros(len(heat)), where=mass > 0)
    return np.where(marked.any((1, 2)), inside, np.nan)


IOUS: dict[str, Callable[..., np.ndarray]] = {"iou": mask_iou, "area_iou": partial(mask_iou, weighting="area")}
"""name -> measure(heatmap, mask, threshold, mask_threshold) -> float64[N]."""
SHARES: dict[str, Callable[..., np.ndarray]] = {"pointing": pointing_game, "mass": mass_inside}
"""name -> measure(heatmap, mask, mask_threshold) -> float64[N]."""
METRICS = (*IOUS, *SHARES)


def centre_blob(height: int, width: int) -> np.ndarray:
    """A Gaussian in the middle of the picture, float32[H, W] with maximum about 1: what a map that knows only that photographers
    centre their objects reaches."""
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    blob = np.exp(-(y[:, None] ** 2 + x**2) / (2 * BLOB_SIGMA**2)).astype(np.float32)
    scaled: np.ndarray = blob / blob.max()
    return scaled


def threshold_curve(heatmap: Array, mask: Array, thresholds: np.ndarray, mask_threshold: float = THRESHOLD) -> np.ndarray:
    """`mask_iou` at each heatmap threshold, float64[N, T]. Raises InputError: see `mask_iou`."""
    return np.stack([np.asarray(mask_iou(heatmap, mask, float(t), mask_threshold)) for t in thresholds], 1)

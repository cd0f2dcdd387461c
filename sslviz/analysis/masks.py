"""How far heatmaps agree with masks (docs/method.md 5), beside what maps that know nothing reach.

H, W pixels. A heatmap is float in 0..1; a mask is bool, float in 0..1 or uint8 (0 and 1, or 0..255). An area is where a value
is at least its threshold. An empty mask gives NaN where there is nothing to agree on; a map without evidence gives 0.
"""

from collections.abc import Callable
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
    threshold, mask_threshold = _check_thresholds(threshold=threshold, mask_threshold=mask_threshold)
    if weighting not in ("heatmap", "area"):
        raise InputError(f'weighting is "{weighting}"; expected "heatmap" or "area".')
    measure = _iou if weighting == "heatmap" else _area_iou
    found: Array = measure(heat, heat >= threshold, core >= mask_threshold)
    if is_torch(heatmap):
        import torch

        found = torch.from_numpy(found).to(heatmap.device)
    return found


def pointing_game(heatmap: Array, mask: Array, mask_threshold: float = THRESHOLD) -> np.ndarray:
    """Whether a map's highest value lies in the mask (Zhang et al., ECCV 2016), float64[N]: the share that does of equal maxima.

    0 for a zero map, NaN for an empty mask. Raises InputError: see `mask_iou`.
    """
    heat, core = check_maps(heatmap, mask)
    (least,) = _check_thresholds(mask_threshold=mask_threshold)
    return _pointing(heat, heat > 0, core >= least)


def mass_inside(heatmap: Array, mask: Array, mask_threshold: float = THRESHOLD) -> np.ndarray:
    """Share of a map's values that lies in the mask, float64[N]; 0 for a zero map, NaN for an empty mask.

    Raises InputError: see `mask_iou`.
    """
    heat, core = check_maps(heatmap, mask)
    (least,) = _check_thresholds(mask_threshold=mask_threshold)
    return _mass(heat, heat > 0, core >= least)


def threshold_curve(heatmap: Array, mask: Array, thresholds: np.ndarray, mask_threshold: float = THRESHOLD) -> np.ndarray:
    """`mask_iou` at each heatmap threshold, float64[N, T]. Raises InputError: see `mask_iou`."""
    heat, core = check_maps(heatmap, mask)
    (least,) = _check_thresholds(mask_threshold=mask_threshold)
    levels = [_check_thresholds(threshold=t)[0] for t in thresholds]
    return np.stack([_iou(heat, heat >= t, core >= least) for t in levels], 1)


def _check_thresholds(**given: float) -> tuple[float, ...]:
    """As Python's floats: NumPy compares its own float64 in another precision with float32 maps."""
    for name, value in given.items():
        if not isinstance(value, int | float | np.floating | np.integer) or not 0 < value <= 1:
            raise InputError(f"{name} is {value}; expected above 0 and at most 1.")
    return tuple(float(value) for value in given.values())


def _iou(heat: np.ndarray, hot: np.ndarray, marked: np.ndarray) -> np.ndarray:
    both, either = hot & marked, hot | marked
    shared, whole = ((heat * area).sum((1, 2), dtype=np.float64) for area in (both, either))
    iou: np.ndarray = np.divide(shared, whole, out=np.zeros(len(heat)), where=whole > 0)
    iou[~either.any((1, 2))] = np.nan
    return iou


def _area_iou(heat: np.ndarray, hot: np.ndarray, marked: np.ndarray) -> np.ndarray:
    return _iou(np.ones_like(heat), hot, marked)


def _pointing(heat: np.ndarray, hot: np.ndarray, marked: np.ndarray) -> np.ndarray:
    top = (heat == heat.max((1, 2), keepdims=True)) & (heat > 0)
    hits = (top & marked).sum((1, 2)) / np.maximum(top.sum((1, 2)), 1)
    return np.where(marked.any((1, 2)), hits, np.nan)


def _mass(heat: np.ndarray, hot: np.ndarray, marked: np.ndarray) -> np.ndarray:
    mass = heat.sum((1, 2), dtype=np.float64)
    inside = np.divide((heat * marked).sum((1, 2), dtype=np.float64), mass, out=np.zeros(len(heat)), where=mass > 0)
    return np.where(marked.any((1, 2)), inside, np.nan)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "iou": _iou,
    "area_iou": _area_iou,
    "pointing": _pointing,
    "mass": _mass,
}
"""name -> measure(heat float[N, H, W], where it is hot bool, where the mask is bool) -> float64[N]; inputs are checked before."""
IOUS = ("iou", "area_iou")
"""Those of them that a ceiling is known of: the mask's own as a map."""


def centre_blob(height: int, width: int) -> np.ndarray:
    """A Gaussian in the middle of the picture, float32[H, W] with maximum about 1: what a map that knows only that photographers
    centre their objects reaches."""
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    blob = np.exp(-(y[:, None] ** 2 + x**2) / (2 * BLOB_SIGMA**2)).astype(np.float32)
    scaled: np.ndarray = blob / blob.max()
    return scaled

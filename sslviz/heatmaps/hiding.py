"""Does a heatmap tell the truth? Hide where it is hot and see how far the features fall, beside the same patch elsewhere."""

from typing import Any, NamedTuple

import numpy as np
import torch

from sslviz.arrays import Array
from sslviz.heatmaps import feature_weights
from sslviz.heatmaps.layers import Subject

_ELSEWHERE = 8


class Fall(NamedTuple):
    """By what share the sum of the features falls, float64[N]: with the hottest places hidden, and with as many elsewhere."""

    hot: np.ndarray
    elsewhere: np.ndarray


def fall_when_hidden(encoder: Any, images: Array, heat: np.ndarray, features: Array, share: float = 0.2, seed: int = 0) -> Fall:
    """Paint the hottest `share` of each picture in the input's mean colour; and the very same patch moved to 8 random places.

    heat float[N, H, W]; encoder, images, features: see `explain`. A share of 0.6 says that 60 % of the features' sum is gone;
    NaN where it was not above 0. Raises InputError: see `explain`.
    """
    rng = np.random.default_rng(seed)
    with Subject(encoder) as subject, torch.no_grad():
        inputs = subject.inputs(images)
        weights = feature_weights(features, len(inputs), subject.width).to(inputs.device)

        def total(hidden: np.ndarray) -> np.ndarray:
            seen = inputs * torch.from_numpy(~hidden)[:, None].to(inputs.device)
            found: np.ndarray = (subject.features(seen) * weights).sum(1).double().cpu().numpy()
            return found

        n_hidden = max(1, round(share * heat[0].size))
        order = np.argsort(-heat.reshape(len(heat), -1), axis=1, kind="stable")
        hot = np.zeros((len(heat), heat[0].size), bool)
        np.put_along_axis(hot, order[:, :n_hidden], True, 1)
        hot = hot.reshape(heat.shape)
        whole = total(np.zeros_like(hot))
        moved = [np.roll(hot, tuple(rng.integers(1, s) for s in heat.shape[1:]), (1, 2)) for _ in range(_ELSEWHERE)]
        known = np.where(whole > 0, whole, np.nan)
        return Fall(1 - total(hot) / known, 1 - np.mean([total(m) for m in moved], 0) / known)

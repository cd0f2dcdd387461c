"""A compressed encoder: the same network, giving fewer of its features."""

import numpy as np
import torch

from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.spec import EncoderSpec
from sslviz.errors import InputError


def cut_from(spec: EncoderSpec, kept: int) -> str:
    """What an encoder that keeps so many features of another says of its origin: weights included."""
    return f"{kept} of {spec.feature_dim} features of {spec.name} ({spec.source}; weights {spec.digest[:12]})"


def cut_encoder(
    spec: EncoderSpec, weights: dict[str, torch.Tensor], features: np.ndarray, name: str
) -> tuple[EncoderSpec, dict[str, torch.Tensor], bool]:
    """The encoder that gives only `features` int64[K] of another's D, ascending; its weights; whether these became fewer.

    Where the family can, its last 1x1 stage loses the other channels; else the network stays whole and its output is selected
    from. Raises InputError: features that are out of order or out of range.
    """
    kept = np.asarray(features, dtype=np.int64)
    if not len(kept) or kept[0] < 0 or kept[-1] >= spec.feature_dim or (np.diff(kept) <= 0).any():
        raise InputError(f"features to keep: expected ascending indices within 0 and {spec.feature_dim - 1}.")
    changes = {
        "name": name,
        "feature_dim": len(kept),
        "source": cut_from(spec, len(kept)),
        "digest": "",
    }
    family = BACKBONES[spec.backbone]
    shorter = None if spec.outputs else family.cut(spec.architecture, weights, torch.from_numpy(kept))
    if shorter is None:
        outputs = kept if not spec.outputs else np.asarray(spec.outputs)[kept]
        return spec.model_copy(update={**changes, "outputs": tuple(int(j) for j in outputs)}), weights, False
    architecture, fewer = shorter
    return spec.model_copy(update={**changes, "architecture": architecture}), fewer, True

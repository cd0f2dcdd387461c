"""The features' own maps: exact, and all features of a batch from one forward pass."""

import torch

from sslviz.errors import InputError
from sslviz.heatmaps import HEATMAPS, HeatmapMethod
from sslviz.heatmaps.layers import Subject


class Activation(HeatmapMethod):
    title = "activation maps"

    def maps(self, subject: Subject, inputs: torch.Tensor, weights: torch.Tensor, layer: str | None) -> torch.Tensor:
        if not subject.is_exact(layer):
            what = "this encoder's features" if layer is None else f'the features and layer "{layer}"'
            raise InputError(
                f"activation maps are exact only where features are means of maps, which {what} are not: use gradcam."
            )
        return torch.einsum("nchw,nc->nhw", subject.last_maps(inputs).cpu(), weights)


HEATMAPS.register("activation")(Activation())

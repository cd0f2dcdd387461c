"""Integrated gradients (Sundararajan et al., ICML 2017) by Captum, from the picture of mean colour, summed over colours."""

import torch
from captum.attr import IntegratedGradients

from sslviz.errors import InputError
from sslviz.heatmaps import HEATMAPS, HeatmapMethod
from sslviz.heatmaps.layers import Subject

_STEPS = 50
_IMAGES_A_PASS = 64


class Integrated(HeatmapMethod):
    title = "integrated gradients"
    needs_layer = False

    def maps(self, subject: Subject, inputs: torch.Tensor, weights: torch.Tensor, layer: str | None) -> torch.Tensor:
        if layer is not None:
            raise InputError("integrated gradients are those of the picture's pixels: leave the layer out.")

        def target(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return (subject.features(x) * weights).sum(1)

        found: torch.Tensor = IntegratedGradients(target).attribute(
            inputs,
            baselines=torch.zeros_like(inputs),
            additional_forward_args=(weights.to(inputs.device),),
            n_steps=_STEPS,
            internal_batch_size=max(_IMAGES_A_PASS, len(inputs)),
        )
        return found.detach().sum(1).float().cpu()


HEATMAPS.register("integrated_gradients")(Integrated())

"""Grad-CAM (Selvaraju et al., ICCV 2017) at any layer with maps: by Captum, for tokens by the same formula on their grid."""

from typing import cast

import torch
from captum.attr import LayerGradCam

from sslviz.heatmaps import HEATMAPS, HeatmapMethod
from sslviz.heatmaps.layers import Subject


class GradCam(HeatmapMethod):
    title = "Grad-CAM"

    def maps(self, subject: Subject, inputs: torch.Tensor, weights: torch.Tensor, layer: str | None) -> torch.Tensor:
        found = subject.layer(layer)
        weights = weights.to(inputs.device)

        def target(x: torch.Tensor) -> torch.Tensor:
            return (subject.features(x) * weights).sum(1)

        if found.kind == "channels first":
            cam = LayerGradCam(target, subject.module(found.name))
            with torch.enable_grad():
                raw = cam.attribute(inputs.clone().requires_grad_(), relu_attributions=False)[:, 0]
            places = found.height * found.width  # Captum's weights are means over places; sums agree with the activation maps
            return cast(torch.Tensor, raw.detach().float().cpu() * places)
        output, gradient = subject.output_and_gradient(found, target, inputs)
        return (output * gradient.sum((2, 3), keepdim=True)).sum(1).float().cpu()


HEATMAPS.register("gradcam")(GradCam())

"""Any model of the timm library by its name, with the weights it publishes."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sslviz.encoders.backbones import BACKBONES, Family, Shapes


class TimmFamily(Family):
    """Built by name; files are not searched for it."""

    def build(self, architecture: Mapping[str, Any]) -> nn.Module:
        import timm

        net: nn.Module = timm.create_model(architecture["model"], pretrained=False, num_classes=0)
        return net

    def architecture(self, shapes: Shapes, writer: str) -> dict[str, Any]:
        raise NotImplementedError("timm models are given by name")

    def owns(self, name: str) -> bool:
        return True

    def describe(self, architecture: Mapping[str, Any]) -> str:
        return f"timm {architecture['model']}"


BACKBONES.register("timm")(TimmFamily())

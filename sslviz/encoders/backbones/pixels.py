"""No network at all: the picture's pixels are the features. What every encoder has to beat."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from sslviz.encoders.backbones import BACKBONES, Family, Shapes


class PixelsFamily(Family):
    """`size` x `size` x 3 features; files are not searched for it."""

    has_maps: ClassVar[bool] = False

    def build(self, architecture: Mapping[str, Any]) -> nn.Module:
        return nn.Flatten()

    def architecture(self, shapes: Shapes, writer: str) -> dict[str, Any]:
        raise NotImplementedError("pixels are in no file")

    def owns(self, name: str) -> bool:
        return False

    def describe(self, architecture: Mapping[str, Any]) -> str:
        return f"raw pixels, {architecture['size']} x {architecture['size']}"


BACKBONES.register("pixels")(PixelsFamily())

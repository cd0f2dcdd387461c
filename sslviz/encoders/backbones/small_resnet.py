"""A narrow ResNet for small pictures: what this project pre-trains itself on a CPU."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from sslviz.encoders.backbones import BACKBONES, Family, Shapes


class SmallResNet(nn.Module):
    """3x3 stem, three stages of BasicBlocks (width, 2 width, 4 width), then 1x1 convolution, BatchNorm, ReLU, average pooling.

    Images float[N, 3, H, W] -> features float[N, feature_dim], all at least 0. Stages 2 and 3 halve the resolution,
    so the last map is 8x8 for 32-pixel images with stem_stride 1 and for 64-pixel images with stem_stride 2.
    """

    def __init__(self, width: int = 32, blocks: int = 2, stem_stride: int = 1, feature_dim: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.expand = nn.Sequential(
            nn.Conv2d(4 * width, feature_dim, 1, bias=False), nn.BatchNorm2d(feature_dim), nn.ReLU(inplace=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        h = self.relu(self.bn1(self.conv1(images)))
        h = self.layer3(self.layer2(self.layer1(h)))
        features: torch.Tensor = self.expand(h).mean((2, 3))
        return features


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or channels_in != channels:
        shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
    first = BasicBlock(channels_in, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))


class SmallResNetFamily(Family):
    anchors = ("conv1.weight", "layer1.0.conv1.weight", "expand.0.weight")

    def build(self, architecture: Mapping[str, Any]) -> nn.Module:
        return SmallResNet(**architecture)

    def architecture(self, shapes: Shapes, writer: str) -> dict[str, Any]:
        width = shapes["conv1.weight"][0]
        blocks = len({name.split(".")[1] for name in shapes if name.startswith("layer1.")})
        return {"width": width, "blocks": blocks, "stem_stride": 1, "feature_dim": shapes["expand.0.weight"][0]}

    def owns(self, name: str) -> bool:
        return name.split(".")[0] in {"conv1", "bn1", "layer1", "layer2", "layer3", "expand"}

    def describe(self, architecture: Mapping[str, Any]) -> str:
        return f"small ResNet, width {architecture['width']}"

    def input_size(self, architecture: Mapping[str, Any]) -> tuple[int, int]:
        side = 32 * int(architecture["stem_stride"])
        return side, side

    def cut(
        self, architecture: Mapping[str, Any], weights: dict[str, torch.Tensor], kept: torch.Tensor
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The last 1x1 convolution and its BatchNorm, the features' own, lose the other channels."""
        fewer = {name: w[kept] if name.startswith("expand.") and w.ndim else w for name, w in weights.items()}
        return {**architecture, "feature_dim": len(kept)}, fewer


BACKBONES.register("small_resnet")(SmallResNetFamily())

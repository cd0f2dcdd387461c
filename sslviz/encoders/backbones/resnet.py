"""ResNets as torchvision names them: what nearly all published self-supervised encoders are."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from sslviz.encoders.backbones import BACKBONES, Family, Shapes

_NAMES = {
    ("basic", (2, 2, 2, 2)): "ResNet-18",
    ("basic", (3, 4, 6, 3)): "ResNet-34",
    ("bottleneck", (3, 4, 6, 3)): "ResNet-50",
    ("bottleneck", (3, 4, 23, 3)): "ResNet-101",
    ("bottleneck", (3, 8, 36, 3)): "ResNet-152",
}


class ResNetFamily(Family):
    """Stem (kernel, stride, padding, max-pool), four stages of basic or bottleneck blocks, average pooling; no fc."""

    anchors = ("conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight")

    def build(self, architecture: Mapping[str, Any]) -> nn.Module:
        block = BasicBlock if architecture["block"] == "basic" else Bottleneck
        net: nn.Module = ResNet(block, list(architecture["layers"]), width_per_group=architecture["width_per_group"])
        if architecture["stem"] == "3x3":
            net.conv1 = nn.Conv2d(3, 64, 3, 1, architecture["stem_padding"], bias=False)
            net.maxpool = nn.Identity()
        net.fc = nn.Identity()
        return net

    def architecture(self, shapes: Shapes, writer: str) -> dict[str, Any]:
        found = tuple(len({name.split(".")[1] for name in shapes if name.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4))
        block = "bottleneck" if any(name.startswith("layer1.0.conv3.") for name in shapes) else "basic"
        layers = found
        if 0 in found:  # a stage is missing: expect the network whose other stages these are
            complete = (known for b, known in _NAMES if b == block)
            layers = next((k for k in complete if all(f in (0, n) for f, n in zip(found, k, strict=True))), (2, 2, 2, 2))
        small = shapes["conv1.weight"][-1] == 3
        width = shapes["layer1.0.conv2.weight"][0] if block == "bottleneck" and "layer1.0.conv2.weight" in shapes else 64
        return {
            "block": block,
            "layers": list(layers),
            "width_per_group": width,
            "stem": "3x3" if small else "7x7",
            "stem_padding": (2 if writer == "solo-learn" else 1) if small else 3,
        }

    def owns(self, name: str) -> bool:
        return name.split(".")[0] in {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}

    def describe(self, architecture: Mapping[str, Any]) -> str:
        name = _NAMES.get((architecture["block"], tuple(architecture["layers"])), f"ResNet {architecture['layers']}")
        if architecture["width_per_group"] != 64:
            name = f"wide {name}"
        if architecture["stem"] == "3x3":
            return f"{name}, CIFAR stem (3x3, stride 1, padding {architecture['stem_padding']}, no max-pool)"
        return f"{name}, 7x7 stem"

    def input_size(self, architecture: Mapping[str, Any]) -> tuple[int, int]:
        return (32, 32) if architecture["stem"] == "3x3" else (224, 256)


BACKBONES.register("resnet")(ResNetFamily())

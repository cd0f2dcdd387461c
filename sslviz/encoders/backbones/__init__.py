"""Backbone families: how to build one, and how to recognise one from the names and shapes of its weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sslviz.registry import Registry

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]


class Family(ABC):
    """A family of backbones. `build` gives a module that maps images float[N, 3, H, W] to features float[N, D]."""

    anchors: ClassVar[tuple[str, ...]] = ()
    """Tensor names that are all present wherever a network of this family is; () when files are not searched for it."""

    default_size: ClassVar[tuple[int, int]] = (224, 256)
    """Input size and resize, unless the file or the user says otherwise."""

    has_maps: ClassVar[bool] = True
    """Whether there are layers that keep places apart, so that heatmaps can say where a feature comes from."""

    @abstractmethod
    def build(self, architecture: Mapping[str, Any]) -> "torch.nn.Module":
        """The network with random weights, without any head."""

    @abstractmethod
    def architecture(self, shapes: Shapes, writer: str) -> dict[str, Any]:
        """Read stem, depth and width from the shapes of the weights; `writer` is the library that wrote the file."""

    @abstractmethod
    def owns(self, name: str) -> bool:
        """Whether a tensor of this name belongs to the backbone (else to a head)."""

    def describe(self, architecture: Mapping[str, Any]) -> str:
        """The architecture in a few words."""
        return ", ".join(f"{key} {value}" for key, value in architecture.items())

    def input_size(self, architecture: Mapping[str, Any]) -> tuple[int, int]:
        """Input size and resize, unless the file or the user says otherwise."""
        return self.default_size

    def cut(
        self, architecture: Mapping[str, Any], weights: "dict[str, torch.Tensor]", kept: "torch.Tensor"
    ) -> "tuple[dict[str, Any], dict[str, torch.Tensor]] | None":
        """Architecture and weights of the network that gives only features `kept` int64[K]; None where no stage can be cut."""
        return None

    def rename(self, state: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """The weights under the names that `build`'s module uses."""
        return state


BACKBONES: Registry[Family] = Registry("backbone", __name__)

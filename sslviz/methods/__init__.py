"""The self-supervised methods. One file a method: head, loss, views, recipe, and which branch is kept."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sslviz.errors import InputError
from sslviz.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """Optimiser settings as published; `source` says where. Learning rate is base_lr * batch_size / 256."""

    base_lr: float
    weight_decay: float
    momentum: float
    warmup_epochs: int
    source: str


@dataclass(frozen=True)
class Views:
    """Random views of an image: crop scale, colour jitter (strengths as in torchvision) and its share, grey, flip."""

    n_views: int = 2
    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_share: float = 0.8
    grey_share: float = 0.2
    flip_share: float = 0.5


class Method(nn.Module, ABC):
    """A backbone with its heads and loss. `loss` takes the views of one batch, each float[B, 3, S, S], and returns a scalar."""

    keeps: ClassVar[str]
    """The branch that is exported, embedded and scored."""
    paper: ClassVar[str]
    views: ClassVar[Views]
    recipe: ClassVar[Recipe]
    temperature: float | None = None
    """Of a contrastive loss; None for methods without one."""

    def __init__(
        self, backbone: nn.Module, feature_dim: int, temperature: float | None = None, views: Views | None = None
    ) -> None:
        """`temperature` and `views` in place of the method's own. Raises InputError for a method without a temperature."""
        super().__init__()
        if temperature is not None:
            if self.temperature is None:
                raise InputError(f"{type(self).__name__} has no temperature; leave --temperature out.")
            self.temperature = temperature
        if views is not None:
            self.views = views  # type: ignore[misc]
        self.backbone = backbone
        self.feature_dim = feature_dim

    @abstractmethod
    def forward(self, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, the outputs float[M, P] whose spread shows a collapse)."""

    def head(self) -> dict[str, torch.Tensor]:
        """Everything that is trained but not kept."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}


METHODS: Registry[type[Method]] = Registry("method", __name__)

"""SimCLR: two views of an image attract, all other images of the batch repel."""

from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import nn

from sslviz.methods import METHODS, Method, Recipe, Views


@METHODS.register("simclr")
class SimCLR(Method):
    keeps = "backbone"
    paper = "Chen et al., ICML 2020, arXiv 2002.05709"
    views = Views(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1))  # colour strength 0.5 and no blur: appendix B.9, CIFAR-10
    recipe = Recipe(
        base_lr=0.12,
        weight_decay=5e-4,
        momentum=0.9,
        warmup_epochs=5,
        source="SGD, lr 0.06 per 128 images: lightly's CIFAR-10 benchmark (the paper: LARS); temperature 0.5: appendix B.9",
    )
    temperature = 0.5

    def __init__(
        self, backbone: nn.Module, feature_dim: int, temperature: float | None = None, views: Views | None = None
    ) -> None:
        super().__init__(backbone, feature_dim, temperature, views)
        self.projector = SimCLRProjectionHead(feature_dim, feature_dim, 128)
        self.criterion = NTXentLoss(temperature=self.temperature, gather_distributed=True)

    def forward(self, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        z_MP = self.projector(self.backbone(torch.cat(list(views))))
        first, second = z_MP.chunk(2)
        return self.criterion(first, second), z_MP

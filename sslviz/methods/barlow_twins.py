"""Barlow Twins: the cross-correlation of two views' outputs is pushed to the identity."""

from collections.abc import Sequence

import torch
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from lightly.utils.dist import gather, world_size
from torch import nn

from sslviz.encoders.catalogue import authors, lightly
from sslviz.methods import METHODS, Clock, Compared, Options, Recipe, Step, Views


class _OverAllProcesses(nn.Module):
    """lightly's standardises the outputs of each process by themselves; the authors' BatchNorm is that of the whole batch."""

    def __init__(self, off_diagonal: float) -> None:
        super().__init__()
        self.loss = BarlowTwinsLoss(off_diagonal)

    def forward(self, z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
        if world_size() > 1:
            z_a, z_b = torch.cat(gather(z_a)), torch.cat(gather(z_b))
        loss: torch.Tensor = self.loss(z_a, z_b)
        return loss


@METHODS.register("barlow_twins")
class BarlowTwins(Compared):
    """Published (ImageNet): projector three layers of 8192; lambda 0.0051 (lightly: 0.005)."""

    branch = "encoder"
    paper = "Zbontar et al., ICML 2021, arXiv 2103.03230"
    views = Views(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur=(1.0, 0.1), solarise=(0.0, 0.2))  # section 2.2: BYOL's
    recipe = Recipe(
        base_lr=0.004,
        source="ours: of 0.12, 0.02 and 0.004 the best after 10 epochs of the demo set, by probe (the paper: LARS, 0.2)",
        lars_biases=0.024,  # the authors' code: 0.0048 beside 0.2; alike, they moved by more than their norm in ten steps
    )
    options = Options(hidden_dim=512, output_dim=512)
    checkpoints = (
        lightly("barlow-twins", "barlowtwins_2023-08-18_00-11-03", 62.9),
        authors("barlow-twins", "barlowtwins/ljng/resnet50.pth", "1000 epochs; backbone only", 73.5),
    )

    def build(self, feature_dim: int, options: Options) -> None:
        self.projector = BarlowTwinsProjectionHead(feature_dim, options.hidden_dim, options.output_dim)
        self.weight, off_diagonal = options.terms or (1.0, 0.005)
        self.criterion = _OverAllProcesses(off_diagonal)

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        step = super().forward(views, clock)
        return step._replace(loss=self.weight * step.loss)

"""SimCLR: two views of an image attract, all other images of the batch repel."""

from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead

from sslviz.encoders.catalogue import lightly
from sslviz.methods import METHODS, Clock, Method, Options, Recipe, Step, Views, full_precision


@METHODS.register("simclr")
class SimCLR(Method):
    """Projector two layers, 512 and 128 wide; published: the hidden one as wide as the features."""

    branch = "encoder"
    grouping = "together"
    paper = "Chen et al., ICML 2020, arXiv 2002.05709"
    views = Views(scale=(0.08, 1.0), blur=(0.5, 0.5))  # colour strength 0.5: appendix B.9, CIFAR-10; blur: appendix A
    recipe = Recipe(
        base_lr=0.12,
        source="SGD, lr 0.06 per 128 images: lightly's CIFAR-10 benchmark (the paper: LARS); temperature 0.5: appendix B.9",
    )
    options = Options(hidden_dim=512, output_dim=128, temperature=0.5)
    checkpoints = (lightly("simclr", "simclr_2023-06-22_09-11-13", 63.2),)

    def build(self, feature_dim: int, options: Options) -> None:
        self.projector = SimCLRProjectionHead(feature_dim, options.hidden_dim, options.output_dim)
        self.criterion = NTXentLoss(temperature=options.temperature, gather_distributed=True)

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        h_MD, _ = self.represent(self.backbone, views)
        z_MP = self.through(self.projector, h_MD, views)
        with full_precision(z_MP):
            loss = self.criterion(*z_MP.float().chunk(2))
        return Step(loss, z_MP, h_MD)

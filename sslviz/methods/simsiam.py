"""SimSiam: each view predicts the other, whose gradient is stopped; neither negatives nor a second network."""

from collections.abc import Sequence

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

from sslviz.encoders.catalogue import authors
from sslviz.methods import METHODS, Clock, Method, Options, Recipe, Step, Views, full_precision


@METHODS.register("simsiam")
class SimSiam(Method):
    """Published (ImageNet): projector three layers of 2048, predictor 512 in between: a quarter of the output width, as here.

    The predictor's learning rate is not annealed in the authors' code; here it is: one schedule for all weights.
    """

    branch = "encoder"
    paper = "Chen & He, CVPR 2021, arXiv 2011.10566"
    views = Views(scale=(0.2, 1.0), blur=(0.5, 0.5))  # section 3
    recipe = Recipe(
        base_lr=0.06,
        source="lr 0.03 per 256 images, weight decay 5e-4, CIFAR-10: appendix D; twice that: lightly's CIFAR-10 benchmark",
    )
    options = Options(hidden_dim=512, output_dim=512)
    checkpoints = (
        authors("simsiam", "simsiam/models/100ep/pretrain/checkpoint_0099.pth.tar", "100 epochs, batch 512", 68.1),
        authors("simsiam-256bs", "simsiam/models/100ep-256bs/pretrain/checkpoint_0099.pth.tar", "100 epochs, batch 256", 68.3),
    )

    def build(self, feature_dim: int, options: Options) -> None:
        self.projector = SimSiamProjectionHead(feature_dim, options.hidden_dim, options.output_dim)
        self.predictor = SimSiamPredictionHead(options.output_dim, options.output_dim // 4, options.output_dim)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        h_MD, _ = self.represent(self.backbone, views)
        first, second = self.through(self.projector, h_MD, views).chunk(2)
        first_guess, second_guess = self.predictor(first), self.predictor(second)
        with full_precision(first):
            loss = 0.5 * (
                self.criterion(first_guess.float(), second.detach().float())
                + self.criterion(second_guess.float(), first.detach().float())
            )
        return Step(loss, torch.cat([first, second]), h_MD)

"""BYOL: an online network predicts what a slowly moving copy of itself says of another view; no negatives."""

import copy
from collections.abc import Sequence

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum

from sslviz.encoders.catalogue import lightly
from sslviz.methods import METHODS, Clock, Method, Options, Recipe, Step, Views, full_precision, rising_momentum


@METHODS.register("byol")
class BYOL(Method):
    """Published (ImageNet): projector and predictor 4096 and 256 wide, momentum from 0.996 to 1."""

    branch = "online encoder"
    paper = "Grill et al., NeurIPS 2020, arXiv 2006.07733"
    views = Views(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur=(1.0, 0.1), solarise=(0.0, 0.2))  # appendix B
    recipe = Recipe(
        base_lr=0.12,
        source="lr 0.06 per 128 images and momentum 0.99: lightly's CIFAR-10 benchmark (the paper: LARS, 0.996)",
    )
    options = Options(hidden_dim=256, output_dim=128, momentum=0.99)
    checkpoints = (lightly("byol", "byol_2024-02-14_16-10-09", 62.5),)

    def build(self, feature_dim: int, options: Options) -> None:
        self.projector = BYOLProjectionHead(feature_dim, options.hidden_dim, options.output_dim)
        self.predictor = BYOLPredictionHead(options.output_dim, options.hidden_dim, options.output_dim)
        self.target_backbone, self.target_projector = copy.deepcopy(self.backbone), copy.deepcopy(self.projector)
        deactivate_requires_grad(self.target_backbone)
        deactivate_requires_grad(self.target_projector)
        self.momentum = options.momentum
        self.criterion = NegativeCosineSimilarity()

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        h_MD, _ = self.represent(self.backbone, views)
        z = self.through(self.projector, h_MD, views).chunk(2)
        first, second = (self.predictor(of_view) for of_view in z)
        with torch.no_grad():
            target, _ = self.represent(self.target_backbone, views)
            first_target, second_target = self.through(self.target_projector, target, views).chunk(2)
        with full_precision(first):
            # 2 - 2 cos of both orders, as published; SimSiam halves the same sum
            loss = (
                4
                + 2 * self.criterion(first.float(), second_target.float())
                + 2 * self.criterion(second.float(), first_target.float())
            )
        return Step(loss, torch.cat(z), h_MD)

    def after_step(self, clock: Clock) -> None:
        momentum = rising_momentum(self.momentum, clock)
        update_momentum(self.backbone, self.target_backbone, momentum)
        update_momentum(self.projector, self.target_projector, momentum)

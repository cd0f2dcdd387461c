"""SwAV: each view predicts to which prototypes the other views were assigned, evenly over the batch."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead
from lightly.models.utils import normalize_weight
from torch import nn

from sslviz.encoders.catalogue import SWAV_STD, authors, lightly
from sslviz.methods import METHODS, Clock, Method, Options, Recipe, Step, Views, full_precision


@METHODS.register("swav")
class SwAV(Method):
    """Published (ImageNet): 3000 prototypes, projector 2048 and 128 wide, 2 views of 224 and 6 of 96 pixels.

    Prototypes, held still for the first epoch, are fewer than the views of a batch, so no queue is needed (section 4.2).
    """

    branch = "encoder"
    grouping = "together"
    paper = "Caron et al., NeurIPS 2020, arXiv 2006.09882"
    views = Views(
        scale=(0.14, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), blur=(0.5, 0.5), n_local=2, local_scale=(0.05, 0.14)
    )  # the authors' main_swav.py
    recipe = Recipe(
        base_lr=0.12,
        source="ours: SGD as SimCLR here (the paper: LARS, 0.6 per 256 images); temperature 0.1: appendix A; epsilon 0.03: what "
        "the authors advise where 0.05 leaves the loss at that of even assignments, as it does here",
    )
    options = Options(hidden_dim=512, output_dim=128, temperature=0.1, prototypes=128, epsilon=0.03)
    checkpoints = (
        lightly("swav", "swav_2023-05-25_08-29-14", 67.2),
        authors("swav", "deepcluster/swav_800ep_pretrain.pth.tar", "800 epochs, multi-crop", 75.3, SWAV_STD),
        authors(
            "swav-2x224",
            "deepcluster/swav_400ep_2x224_pretrain.pth.tar",
            "400 epochs, two views of 224; of SwAV's files the one that the Q-Score paper's 69.95 fits",
            70.1,
            SWAV_STD,
        ),
    )

    def build(self, feature_dim: int, options: Options) -> None:
        self.projector = SwaVProjectionHead(feature_dim, options.hidden_dim, options.output_dim)
        self.prototypes = nn.Linear(options.output_dim, options.prototypes, bias=False)
        normalize_weight(self.prototypes.weight)
        self.criterion = SwaVLoss(options.temperature, sinkhorn_epsilon=options.epsilon, sinkhorn_gather_distributed=True)

    @property
    def idle_loss(self) -> float:
        return math.log(len(self.prototypes.weight))

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        h_MD, local = self.represent(self.backbone, views)
        z_MP = self.through(self.projector, h_MD if local is None else torch.cat([h_MD, local]), views)
        with full_precision(z_MP):
            scores = list(self.prototypes(F.normalize(z_MP.float(), dim=1)).chunk(len(views)))
            loss = self.criterion(scores[: self.n_views], scores[self.n_views :]).squeeze()
        return Step(loss, z_MP, h_MD)

    def after_backward(self, clock: Clock) -> None:
        if clock.first_epoch:
            self.prototypes.weight.grad = None

    def after_step(self, clock: Clock) -> None:
        normalize_weight(self.prototypes.weight)

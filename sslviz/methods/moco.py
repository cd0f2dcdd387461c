"""MoCo v2: the query of one view finds its key, from a slowly moving encoder, among a queue of older keys."""

import copy
from collections.abc import Sequence

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum
from torch import distributed

from sslviz.encoders.catalogue import authors, lightly
from sslviz.methods import METHODS, Clock, Method, Options, Recipe, Step, Views, full_precision, one_by_one


@METHODS.register("moco")
class MoCo(Method):
    """Published (ImageNet): queue 65,536, momentum 0.999, temperature 0.2, two layers 2048 and 128 wide.

    The queue holds about a quarter of the small data sets this is made for; keys of an image's own older views in it would
    repel it. Both views are queries, before either's keys are queued, as in the authors' CIFAR-10 notebook.
    """

    branch = "query encoder"
    paper = "Chen et al., 2020, arXiv 2003.04297"
    views = Views(scale=(0.2, 1.0), blur=(0.5, 0.5))  # section 3; the authors' code jitters with 0.4, 0.4, 0.4, 0.1
    recipe = Recipe(
        base_lr=0.12,
        weight_decay=5e-4,
        momentum=0.9,
        warmup_epochs=5,
        source="lr 0.06 per 128 images, momentum 0.99, temperature 0.1: lightly's CIFAR-10 benchmark",
    )
    options = Options(hidden_dim=256, output_dim=128, temperature=0.1, momentum=0.99, queue_size=1024)
    checkpoints = (
        lightly("moco", "mocov2_2024-02-18_10-29-14", 61.5),
        authors("moco-200ep", "moco/moco_checkpoints/moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar", "v2, 200 epochs", 67.7),
        authors("moco-800ep", "moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar", "v2, 800 epochs", None),
    )

    def build(self, feature_dim: int, options: Options) -> None:
        self.projector = MoCoProjectionHead(feature_dim, options.hidden_dim, options.output_dim)
        self.key_backbone, self.key_projector = copy.deepcopy(self.backbone), copy.deepcopy(self.projector)
        deactivate_requires_grad(self.key_backbone)
        deactivate_requires_grad(self.key_projector)
        self.momentum = options.momentum
        size = (options.queue_size, options.output_dim)
        self.criterion = NTXentLoss(temperature=options.temperature, memory_bank_size=size, gather_distributed=True)
        bank = self.criterion.memory_bank  # lightly leaves these out of state_dict
        bank.register_buffer("bank", bank.bank, persistent=True)
        bank.register_buffer("bank_ptr", bank.bank_ptr, persistent=True)

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        h_MD = one_by_one(self.backbone, views)
        first, second = (self.projector(h) for h in h_MD.chunk(2))
        first_key, second_key = (self._key(view) for view in views)
        queries, keys = torch.cat([first, second]), torch.cat([second_key, first_key])
        with full_precision(queries):
            loss = self.criterion(queries.float(), keys.float())
        return Step(loss, queries, h_MD)

    @torch.no_grad()
    def _key(self, view: torch.Tensor) -> torch.Tensor:
        many = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        if many:  # keys meet other images in BatchNorm than their queries do (He et al., CVPR 2020, section 3.3)
            view, order = batch_shuffle(view, distributed=True)
        key: torch.Tensor = self.key_projector(self.key_backbone(view))
        return batch_unshuffle(key, order, distributed=True) if many else key

    def after_step(self, clock: Clock) -> None:
        update_momentum(self.backbone, self.key_backbone, self.momentum)
        update_momentum(self.projector, self.key_projector, self.momentum)

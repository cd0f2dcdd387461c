"""MoCo v2: the query of one view finds its key, from a slowly moving encoder, among a queue of older keys."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import batch_shuffle, batch_unshuffle, concat_all_gather, deactivate_requires_grad, update_momentum
from torch import distributed

from sslviz.encoders.catalogue import authors, lightly
from sslviz.methods import METHODS, Clock, Method, Options, Recipe, Step, Views, full_precision


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
        self.momentum, self.one_way = options.momentum, options.one_way
        self.synchronised = options.version == 3  # v2: BatchNorms of one's own, and keys shuffled over the processes
        if options.version == 2:
            self.criterion = _queue(options)
        if options.queues == 2:
            self.second_criterion = _queue(options)
        if options.version == 3:
            self.predictor = MoCoProjectionHead(options.output_dim, options.hidden_dim, options.output_dim, batch_norm=True)
        self.version, self.temperature = options.version, options.temperature

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        seen, keyed = (views[:1], views[1:]) if self.one_way else (views, views)
        h_MD, _ = self.represent(self.backbone, seen)
        queries = self.through(self.projector, h_MD, seen)
        keys = torch.cat([self._key(view) for view in keyed])
        if self.version == 3:
            queries = self.through(self.predictor, queries, seen)
        with full_precision(queries):
            loss = self._contrast(queries.float(), keys.float())
        return Step(loss, queries, h_MD)

    def _contrast(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        if self.one_way:
            return self._of(self.criterion, queries, keys)
        (first, second), (first_key, second_key) = queries.chunk(2), keys.chunk(2)
        if self.version == 3:
            return self._against_the_batch(first, second_key) + self._against_the_batch(second, first_key)
        if hasattr(self, "second_criterion"):
            there, back = self._of(self.criterion, first, second_key), self._of(self.second_criterion, second, first_key)
            return (there + back) / 2
        return self._of(self.criterion, queries, torch.cat([second_key, first_key]))

    @staticmethod
    def _of(criterion: NTXentLoss, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = criterion(queries, keys)
        return loss

    def _against_the_batch(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """MoCo v3 (Chen et al., ICCV 2021, algorithm 1): all keys of the batch, over all processes, are negatives."""
        keys = concat_all_gather(keys) if self._many else keys
        scores = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / self.temperature
        first = len(queries) * (distributed.get_rank() if self._many else 0)
        return 2 * self.temperature * F.cross_entropy(scores, first + torch.arange(len(queries), device=scores.device))

    @property
    def _many(self) -> bool:
        return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1

    @torch.no_grad()
    def _key(self, view: torch.Tensor) -> torch.Tensor:
        shuffled = self._many and self.version == 2
        if shuffled:  # keys meet other images in BatchNorm than their queries do (He et al., CVPR 2020, section 3.3)
            view, order = batch_shuffle(view, distributed=True)
        key: torch.Tensor = self.key_projector(self.key_backbone(view))
        return batch_unshuffle(key, order, distributed=True) if shuffled else key

    def after_step(self, clock: Clock) -> None:
        update_momentum(self.backbone, self.key_backbone, self.momentum)
        update_momentum(self.projector, self.key_projector, self.momentum)


def _queue(options: Options) -> NTXentLoss:
    size = (options.queue_size, options.output_dim)
    criterion = NTXentLoss(temperature=options.temperature, memory_bank_size=size, gather_distributed=True)
    bank = criterion.memory_bank  # lightly leaves these out of state_dict
    bank.register_buffer("bank", bank.bank, persistent=True)
    bank.register_buffer("bank_ptr", bank.bank_ptr, persistent=True)
    return criterion

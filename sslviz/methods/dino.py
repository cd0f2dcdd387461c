"""DINO: a student predicts the centred, sharpened output of its own moving average, from smaller parts of the picture."""

import copy
import math
from collections.abc import Sequence

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum

from sslviz.encoders.catalogue import LAST_LIGHTLY, authors, lightly
from sslviz.methods import METHODS, Clock, Method, Options, Recipe, Step, Views, full_precision, rising_momentum


@METHODS.register("dino")
class DINO(Method):
    """Published (ResNet-50): head three layers of 2048, 256 in the bottleneck, 60,000 out, 2 views of 224 and 8 of 96 pixels,
    momentum from 0.996 to 1, teacher temperature from 0.04 to 0.07 over 50 epochs.

    Here the bottleneck is a quarter of the hidden width, the teacher's temperature rises over the first tenth of the run.
    """

    keeps = "teacher_backbone"
    branch = "teacher"
    grouping = "together"
    paper = "Caron et al., ICCV 2021, arXiv 2104.14294"
    views = Views(
        scale=(0.14, 1.0),
        jitter=(0.4, 0.4, 0.2, 0.1),
        blur=(1.0, 0.1, 0.5),
        solarise=(0.0, 0.2, 0.0),
        n_local=2,
        local_scale=(0.05, 0.14),
    )  # the authors' README (ResNet-50) and main_dino.py
    recipe = Recipe(
        base_lr=0.12,
        source="lr 0.06 per 128 images and momentum 0.99: lightly's CIFAR-10 benchmark (the paper: 0.03 per 256, 0.996)",
    )
    options = Options(hidden_dim=256, output_dim=512, temperature=0.07, momentum=0.99)
    checkpoints = (
        lightly("dino", "dino_2023-06-06_13-59-48", 68.2, LAST_LIGHTLY.replace("500400", "1000900")),
        authors("dino", "dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth", "800 epochs, multi-crop; backbone only", 75.3),
    )

    def build(self, feature_dim: int, options: Options) -> None:
        def head() -> DINOProjectionHead:
            width = options.hidden_dim
            return DINOProjectionHead(feature_dim, width, width // 4, options.output_dim, batch_norm=True, freeze_last_layer=1)

        self.projector, self.teacher_projector = head(), head()
        self.teacher_projector.load_state_dict(self.projector.state_dict())
        self.teacher_backbone = copy.deepcopy(self.backbone)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_projector)
        self.momentum, self.temperature = options.momentum, options.temperature
        self.criterion = DINOLoss(options.output_dim)
        self.output_dim = options.output_dim

    @property
    def idle_loss(self) -> float:
        return math.log(self.output_dim)

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        h_MD, local = self.represent(self.backbone, views)
        student = self.through(self.projector, h_MD if local is None else torch.cat([h_MD, local]), views)
        global_views = views[: self.n_views]
        with torch.no_grad():
            taught, _ = self.represent(self.teacher_backbone, global_views)
            teacher = self.through(self.teacher_projector, taught, global_views)
        low, high = min(0.04, self.temperature), self.temperature
        temperature = high if clock.further else min(high, low + (high - low) * clock.done / 0.1)
        with full_precision(student):
            loss = self.criterion(
                list(teacher.float().chunk(self.n_views)), list(student.float().chunk(len(views))), teacher_temp=temperature
            )
        return Step(loss, teacher, h_MD)

    def after_backward(self, clock: Clock) -> None:
        self.projector.cancel_last_layer_gradients(0 if clock.first_epoch else 1)

    def after_step(self, clock: Clock) -> None:
        momentum = rising_momentum(self.momentum, clock)
        update_momentum(self.backbone, self.teacher_backbone, momentum)
        update_momentum(self.projector, self.teacher_projector, momentum)

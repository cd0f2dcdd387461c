"""The self-supervised methods. One file a method: head, loss, views, recipe, and which branch is kept."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from sslviz.encoders.catalogue import Checkpoint
from sslviz.errors import InputError
from sslviz.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """Settings of SGD, and of LARS where fine-tuning takes it. Learning rate is base_lr * batch_size / 256; `source` says where
    it is from. Momentum 0.9 and weight decay 5e-4: lightly's CIFAR-10 benchmark, for all methods; warm-up: ours."""

    base_lr: float
    source: str
    weight_decay: float = 5e-4
    momentum: float = 0.9
    warmup_epochs: int = 5
    lars_biases: float = 1.0
    """Under LARS, which does not adapt biases and BatchNorm: their rate, as a share of the weights'."""


@dataclass(frozen=True)
class Views:
    """Random views of an image: crop (share of the area, from to), colour jitter (strengths of brightness, contrast, saturation
    and hue as in torchvision), grey and flip, each of the last three with the probability that an image gets it.

    `n_local` further views show a part of the picture between `local_scale` of its area, at half the side. `blur` and
    `solarise` are probabilities too: in the first view, in later ones, and in the further ones where those differ.
    """

    n_views: int = 2
    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_share: float = 0.8
    grey_share: float = 0.2
    flip_share: float = 0.5
    blur: tuple[float, ...] = (0.0, 0.0)
    solarise: tuple[float, ...] = (0.0, 0.0)
    n_local: int = 0
    local_scale: tuple[float, float] = (0.05, 0.14)


Tensors = dict[str, torch.Tensor]
SECOND = ("key_", "target_", "teacher_")
"""How the names of second networks begin."""
Grouping = Literal["", "view", "together"]

ASKED = ("hidden_dim", "output_dim", "temperature", "momentum", "prototypes", "epsilon", "queue_size")


@dataclass(frozen=True)
class Options:
    """What the heads and the loss are made with; 0 where a method has no such thing.

    What follows after queue_size is how other people's code, whose training goes on here, differs from ours (docs/formats.md).
    """

    hidden_dim: int
    output_dim: int
    temperature: float = 0
    momentum: float = 0
    """Of the moving average that makes the second network."""
    prototypes: int = 0
    epsilon: float = 0
    """SwAV: how soft the assignments to prototypes are."""
    queue_size: int = 0
    queues: int = 1
    """MoCo: 2 where each view's keys have a queue of their own."""
    one_way: bool = False
    """MoCo: only the first view is a query."""
    version: int = 2
    """MoCo's."""
    terms: tuple[float, ...] = ()
    """VICReg: weights of invariance, variance and covariance; Barlow Twins: weight of the loss, and of what is off the
    diagonal."""
    grouping: Grouping = ""
    """Views that meet BatchNorm together: each by itself, or those of one size."""

    def changed(self, method: str, **wanted: Any) -> "Options":
        """These options with those of `wanted` that are not None. Raises InputError for one that the method lacks."""
        given = {name: value for name, value in wanted.items() if value is not None}
        for name in given:
            if not getattr(self, name):
                there = ", ".join(asked.replace("_", "-") for asked in ASKED if getattr(self, asked))
                flag = name.replace("_", "-")
                raise InputError(f"{method} has no {flag}; leave --{flag} out. It has {there}.")
        return replace(self, **given)


class Made(BaseModel):
    """What a method's heads are made with, and how it was trained: the views, at which size in pixels.

    keeps: the network that the encoder is, where it is not the one the method keeps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    options: Options
    views: Views
    size: int
    keeps: str = ""

    def kept(self, method: "Method") -> nn.Module:
        """The backbone that is exported, embedded and scored."""
        network: nn.Module = getattr(method, self.keeps or method.keeps)
        return network


class Clock(NamedTuple):
    """Where a run stands: steps taken, of how many, and steps an epoch; `further`: its heads were trained before, so nothing is
    held still or warmed up. (A tuple: Fabric takes frozen dataclasses apart.)"""

    step: int
    total: int
    steps_per_epoch: int
    further: bool = False

    @property
    def first_epoch(self) -> bool:
        return self.step < self.steps_per_epoch and not self.further

    @property
    def done(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.step / max(1, self.total - 1)


class Step(NamedTuple):
    """What a method makes of a batch."""

    loss: torch.Tensor
    outputs: torch.Tensor
    """float[M, P], of the heads: their spread shows a collapse."""
    features: torch.Tensor
    """float[n_views * B, D], of the global views, by the backbone that receives gradients; the loss depends on this tensor."""


class Method(nn.Module, ABC):
    """A backbone with its heads and loss. Views are float[B, 3, S, S] each, the global ones first."""

    keeps: ClassVar[str] = "backbone"
    """The attribute that is exported, embedded and scored."""
    branch: ClassVar[str]
    """What the paper calls that network."""
    grouping: ClassVar[Grouping] = "view"
    """Views that meet BatchNorm together."""
    synchronised = True
    """Whether the BatchNorms of several GPUs act as one."""
    paper: ClassVar[str]
    views: ClassVar[Views]
    recipe: ClassVar[Recipe]
    options: ClassVar[Options]
    """Widths for a small backbone; the docstring says the published ones."""
    checkpoints: ClassVar[tuple[Checkpoint, ...]]
    """Files that people offer."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: Options, n_views: int) -> None:
        """`n_views`: how many of the views are global."""
        super().__init__()
        self.backbone = backbone
        self.n_views = n_views
        self.by_view = (options.grouping or self.grouping) == "view"
        self.build(feature_dim, options)

    @abstractmethod
    def build(self, feature_dim: int, options: Options) -> None:
        """Make heads, second network and loss."""

    @property
    def idle_loss(self) -> float | None:
        """The loss of one and the same answer for every image, of methods that can come to rest there; else None."""
        return None

    @abstractmethod
    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        """Loss, outputs and features of a batch."""

    def represent(self, network: nn.Module, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features of the global views below one another, and of the local ones where there are any."""
        found = []
        for group in (views[: self.n_views], views[self.n_views :]):
            if group:
                seen = [network(view) for view in group] if self.by_view else [network(torch.cat(list(group)))]
                found.append(torch.cat(seen))
        return found[0], found[1] if len(found) > 1 else None

    def through(self, head: nn.Module, h: torch.Tensor, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """What a head makes of the features of these views."""
        return torch.cat([head(part) for part in h.chunk(len(views))]) if self.by_view else torch.as_tensor(head(h))

    def after_backward(self, clock: Clock) -> None:
        """Between gradients and step: what is held still early in the run loses its gradient here."""

    def after_step(self, clock: Clock) -> None:
        """After the optimiser's step: moving averages, normalised prototypes."""


class Compared(Method):
    """A method whose loss compares the projected outputs of two views, each of which meets BatchNorm by itself."""

    projector: nn.Module
    criterion: nn.Module

    def forward(self, views: Sequence[torch.Tensor], clock: Clock) -> Step:
        h_MD, _ = self.represent(self.backbone, views)
        first, second = self.through(self.projector, h_MD, views).chunk(2)
        with full_precision(first):
            loss = self.criterion(first.float(), second.float())
        return Step(loss, torch.cat([first, second]), h_MD)


def rising_momentum(start: float, clock: Clock) -> float:
    """Of a moving average, from `start` to 1 along half a cosine (Grill et al., NeurIPS 2020, section 3.3)."""
    return 1 - (1 - start) * (math.cos(math.pi * clock.done) + 1) / 2


def full_precision(outputs: torch.Tensor) -> torch.autocast:
    """Losses are computed in float32, whatever precision the networks run in: small differences of large sums."""
    return torch.autocast(outputs.device.type, enabled=False)


METHODS: Registry[type[Method]] = Registry("method", __name__, beside=frozenset({"formats", "heads"}))

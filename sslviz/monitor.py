"""Q-Score and rank of a representation while somebody else's training loop runs: a Lightning callback."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from sslviz.analysis.features import LOWER, UPPER, select_features
from sslviz.analysis.rank import rank_me
from sslviz.analysis.rows import score_rows
from sslviz.arrays import check_eps, check_percentiles
from sslviz.errors import InputError


class QScoreMonitor(Callback):  # type: ignore[misc]
    """Logs, after every so many epochs, what a fixed set of images says of the encoder in training; no labels are used.

        Trainer(callbacks=[QScoreMonitor(DataLoader(images, 256), "backbone")])

    q_score: mean Q-Score · q_score_empty: share of the images in which no discriminative feature fires · rank_me: RankMe ·
    q_score_eps: eps in use. D, eps and scores come from these same images, so values of different epochs have different D.
    Where a feature is NaN or infinite, all are NaN and a warning says so; the training goes on.

    images: a DataLoader, or other batches float[B, C, H, W] that can be gone through again and again; of tuples and lists the
    first part counts · encoder: name of the LightningModule's attribute, or a function (module, images) -> features float[B, D]
    or float[B, D, h, w], which are averaged · every: epochs between two looks · eps, lower, upper: as in `select_features`.
    Random numbers of the training are left as they are. With several processes each looks at its own copy.
    Raises InputError: every < 1, eps < 0, percentiles out of order, images that are used up by one look; when training begins: no
    such attribute; at a look: no image, features of another rank.
    """

    def __init__(
        self,
        images: Iterable[Any],
        encoder: str | Callable[[Any, torch.Tensor], torch.Tensor] = "backbone",
        *,
        every: int = 1,
        eps: float | Literal["auto"] = "auto",
        lower: float = LOWER,
        upper: float = UPPER,
    ) -> None:
        if every < 1:
            raise InputError(f"every is {every}; expected a number of epochs of at least 1.")
        check_percentiles(lower, upper)
        if eps != "auto":
            check_eps(eps)
        if isinstance(images, Iterator):
            raise InputError("images is used up by going through it once; give a DataLoader or a list of batches.")
        self.images = images
        self.encoder = encoder
        self.every = every
        self.eps: float | Literal["auto"] = eps
        self.lower = lower
        self.upper = upper

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(self.encoder, str) and not hasattr(pl_module, self.encoder):
            raise InputError(
                f'{type(pl_module).__name__} has no attribute "{self.encoder}"; name the encoder, or give a function.'
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every == 0:
            pl_module.log_dict(self._look(pl_module))

    def _look(self, module: nn.Module) -> dict[str, float]:
        H = self._features(module)
        if not np.isfinite(H).all():
            rank_zero_warn("QScoreMonitor: the representation has NaN or infinity.")
            return dict.fromkeys(("q_score", "q_score_empty", "q_score_eps", "rank_me"), float("nan"))
        selection = select_features(H, self.eps, self.lower, self.upper)
        scores = score_rows(H, selection.features, selection.eps)
        return {
            "q_score": float(scores.q.mean()),
            "q_score_empty": float((scores.n_chosen == 0).mean()),
            "q_score_eps": selection.eps,
            "rank_me": rank_me(H),
        }

    def _features(self, module: Any) -> np.ndarray:
        """float32[N, D] in evaluation mode; afterwards every part is in the mode it was in."""
        training = [part for part in module.modules() if part.training]
        module.eval()
        try:
            with torch.no_grad(), isolate_rng():  # a DataLoader draws a seed
                batches = [self._encoded(module, batch) for batch in self.images]
        finally:
            for part in training:
                part.training = True
        if not batches:
            raise InputError("images of QScoreMonitor is empty; expected at least one batch.")
        return np.concatenate(batches)

    def _encoded(self, module: Any, batch: Any) -> np.ndarray:
        while isinstance(batch, tuple | list) and batch:
            batch = batch[0]
        if not isinstance(batch, torch.Tensor):
            raise InputError(
                f"images gave a {type(batch).__name__}; expected batches that are, or begin with, float[B, C, H, W]."
            )
        images = batch.to(module.device, module.dtype)
        features = self.encoder(module, images) if callable(self.encoder) else getattr(module, self.encoder)(images)
        if features.ndim == 4:
            features = features.mean((2, 3))
        if features.ndim != 2:
            raise InputError(f"the encoder gave features of shape {tuple(features.shape)}; expected [B, D] or [B, D, h, w].")
        array: np.ndarray = features.float().cpu().numpy()
        return array

"""The one training loop, top to bottom: batch, views, loss, step; and a checkpoint from which it goes on exactly.

Order of the data and every random view follow from (seed, epoch) and (seed, step), so a resumed run sees what the
uninterrupted one would have seen. One process, or the same code on several under torchrun or SLURM (Lightning Fabric).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning
import pandas as pd
import torch
import torch.nn.functional as F
from lightly.utils.lars import LARS

from sslviz.analysis.rank import rank_me
from sslviz.errors import Cancelled, InputError, RunFailed
from sslviz.methods import Clock, Method, Views
from sslviz.progress import Progress
from sslviz.store.files import whole_file, write_table
from sslviz.training.regulariser import Objective, Regulariser, Selection
from sslviz.training.sources import Planned, Source
from sslviz.training.views import draw_crops, local_size, recolour

_TRIAL_STEPS = 10
_RESTS = 3  # epochs

Normalise = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of red, green and blue."""


@dataclass(frozen=True)
class Schedule:
    """Length and pace of a run; learning rates are per step, after scaling with the batch.

    lars: SGD whose step of each weight matrix is in proportion to the weight's norm (You et al., 2017), by 0.001 · further:
    the heads were trained before · heads_only: the backbones stay as they are.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup_epochs: int
    seed: int
    optimizer: Literal["sgd", "lars"] = "sgd"
    further: bool = False
    heads_only: bool = False
    weight_decay: float | None = None
    """None: the method's."""


def learning_rate(step: int, steps_per_epoch: int, schedule: Schedule) -> float:
    """Linear warm-up to the peak, then half a cosine towards 0, a step short of it (Loshchilov & Hutter, ICLR 2017)."""
    warmup = schedule.warmup_epochs * steps_per_epoch
    total = schedule.epochs * steps_per_epoch
    if step < warmup:
        return schedule.lr * (step + 1) / warmup
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def train(
    method: Method,
    views: Views,
    images: Source,
    size: int,
    normalise: Normalise,
    schedule: Schedule,
    folder: Path,
    fabric: lightning.Fabric,
    progress: Progress,
    every_epoch: Callable[[list[dict[str, float]]], Mapping[str, float]] | None = None,
    regulariser: Regulariser | None = None,
) -> pd.DataFrame:
    """Train `method` on the source's images; returns the metrics, one row an epoch, also in folder/metrics.parquet.

    `every_epoch`, given the metrics so far, may measure, which adds to the last row, and choose other discriminative features.
    Goes on from folder/checkpoint.pt where there is one. Raises InputError when a batch is larger than the data set,
    RunFailed when the loss is not finite (the last checkpoint stays), Cancelled after saving
    where it stands.
    """
    n, batch = len(images), schedule.batch_size
    if batch % fabric.world_size or batch // fabric.world_size < 2:
        raise InputError(f"batch size {batch}: expected at least 2 for each of the {fabric.world_size} processes, alike for all.")
    if n < batch:
        raise InputError(f"data set smaller than one batch: {n} images, batch size {batch}. Choose --batch-size {n} or less.")
    steps_per_epoch = n // batch

    method = method.to(memory_format=torch.channels_last)
    recipe = method.recipe
    backbones = [part for name, part in method.named_children() if name.endswith("backbone")]
    if schedule.heads_only:
        method.backbone.requires_grad_(False)
    trained = [p for p in method.parameters() if p.requires_grad]
    decay = [p for p in trained if p.ndim > 1]
    no_decay = [p for p in trained if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decay}, {"params": no_decay, "weight_decay": 0.0}]
    shares = [1.0, recipe.lars_biases if schedule.optimizer == "lars" else 1.0]
    kind: Any = LARS if schedule.optimizer == "lars" else torch.optim.SGD
    weight_decay = recipe.weight_decay if schedule.weight_decay is None else schedule.weight_decay
    optimizer = kind(groups, lr=schedule.lr, momentum=recipe.momentum, weight_decay=weight_decay)
    objective: Objective = Objective(method, regulariser)
    if fabric.world_size > 1 and fabric.device.type == "cuda" and method.synchronised:  # torch's refuses CPU tensors
        objective = torch.nn.SyncBatchNorm.convert_sync_batchnorm(objective)  # type: ignore[no-untyped-call]
    model, optimizer = fabric.setup(objective, optimizer)

    checkpoint, table = folder / "checkpoint.pt", folder / "metrics.parquet"
    step, rows = 0, list[dict[str, float]]()
    sums: dict[str, float] = {}
    collapsed, measured = False, True
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        step, sums, rows, measured = state["step"], state["sums"], state["rows"], state["measured"]
        if regulariser is not None:
            regulariser.selection = Selection(state["features"].numpy(), state["eps"])

    def save() -> None:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in method.state_dict().values()):
            lr = learning_rate(step - 1, steps_per_epoch, schedule)
            raise RunFailed(
                f"a weight is NaN or infinite after step {step} (epoch {math.ceil(step / steps_per_epoch)}); {kept()}. "
                f"Try a lower learning rate (now {lr:.3g}) or --precision 32-true."
            )
        whole = _of_all(fabric, sums, 1)
        if fabric.is_global_zero:
            content = {
                "method": method.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "sums": whole,
                "rows": rows,
                "measured": measured,
            }
            if regulariser is not None:
                content |= {"features": torch.from_numpy(regulariser.selection.features), "eps": regulariser.eps}
            with whole_file(checkpoint) as beside:
                torch.save(content, beside)
        fabric.barrier()

    def measure() -> None:
        """Finish an epoch: what `every_epoch` finds joins its row."""
        nonlocal measured
        stopped: Cancelled | None = None
        if fabric.is_global_zero and every_epoch is not None:
            try:
                rows[-1] |= every_epoch(rows)
            except Cancelled as error:
                stopped = error
        if fabric.broadcast(stopped is not None):  # else the others wait for a selection that never comes
            raise stopped or Cancelled("cancelled in another process.")
        if regulariser is not None:
            regulariser.selection = Selection(*fabric.broadcast(tuple(regulariser.selection)))
        measured = True
        save()
        if fabric.is_global_zero:
            write_table(table, pd.DataFrame(rows))

    def kept() -> str:
        return "the last checkpoint is kept" if checkpoint.exists() else "no epoch was finished, nothing is kept"

    total = schedule.epochs * steps_per_epoch
    progress.stage("training", total)
    progress.note(epoch=len(rows), **dict.fromkeys(("loss", "spread", "rank", "views_per_second")))
    progress.advance(step)
    method.train()
    if schedule.heads_only:
        for backbone in backbones:
            backbone.eval()
    if not measured:
        measure()
    epoch_began, epoch_step = time.monotonic(), step
    began, first = epoch_began, step

    batches = batches_of(views, images, size, normalise, schedule, fabric, range(step, total))
    while step < total:
        epoch, inside = divmod(step, steps_per_epoch)
        if inside == 0:
            sums = {}
        shown = next(batches)
        clock = Clock(step, total, steps_per_epoch, schedule.further)

        lr = learning_rate(step, steps_per_epoch, schedule)
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = lr * share
        torch.manual_seed(schedule.seed * 1_000_003 + step)
        loss, outputs, watched = model(shown, clock)
        if not torch.isfinite(loss):
            raise RunFailed(
                f"loss is {loss.item()} at step {step} (epoch {epoch + 1}); {kept()}. "
                f"Try a lower learning rate (now {lr:.3g}) or --precision 32-true."
            )
        fabric.backward(loss)
        pulls = objective.gradient_norms()
        method.after_backward(clock)
        optimizer.step()
        method.after_step(clock)
        optimizer.zero_grad(set_to_none=True)
        seen = {"loss": loss.detach(), "spread": spread(outputs.detach().float()), **watched, **pulls}
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in seen.items()}
        step += 1
        if step % steps_per_epoch == 0:
            row = {"epoch": epoch + 1, "step": step, "lr": lr, **_of_all(fabric, sums, steps_per_epoch)}
            row["rank"] = rank_me(outputs.detach().float().cpu().numpy())
            row["feature_spread"] = float(spread(objective.features.float()))
            rows.append(row)
            if every_epoch is not None:  # which may be stopped
                measured = False
                save()
            measure()
            speed = (step - epoch_step) * batch * (views.n_views + views.n_local) / (time.monotonic() - epoch_began)
            epoch_began, epoch_step = time.monotonic(), step
            progress.note(epoch=epoch + 1, loss=row["loss"], spread=row["spread"], rank=row["rank"], views_per_second=speed)
            words = collapse(rows, method.idle_loss)
            if words and not collapsed:
                progress.warn(f"epoch {epoch + 1}: {words}")
            collapsed = bool(words)
        if step == first + _TRIAL_STEPS and regulariser is None:  # of a fine-tuning it was said before
            seconds = (time.monotonic() - began) / _TRIAL_STEPS * (total - step)
            if seconds > 60:
                progress.warn(f"about {seconds / 60:.0f} min for {total - step:,} steps on {fabric.device.type}")
        if stopped := _stopped(progress, fabric):
            save()
            raise stopped
    method.backbone.requires_grad_(True)
    return pd.DataFrame(rows)


def _of_all(fabric: lightning.Fabric, sums: dict[str, float], steps: int) -> dict[str, float]:
    """Means over the steps of an epoch and over the processes' shares of each batch."""
    means = torch.tensor([value / steps for value in sums.values()], dtype=torch.float64)
    if fabric.world_size > 1:
        means = torch.as_tensor(fabric.all_reduce(means.to(fabric.device), reduce_op="mean"))
    return dict(zip(sums, means.tolist(), strict=True))


def _stopped(progress: Progress, fabric: lightning.Fabric) -> Cancelled | None:
    """Count a step; what a cancel says, to all processes at the same step."""
    stopped: Cancelled | None = None
    try:
        progress.advance()
    except Cancelled as error:
        stopped = error
    if fabric.world_size > 1:
        heard = fabric.all_reduce(torch.tensor(float(stopped is not None), device=fabric.device), reduce_op="sum")
        if float(torch.as_tensor(heard)) and stopped is None:
            stopped = Cancelled("cancelled in another process.")
    return stopped


def batches_of(
    views: Views,
    images: Source,
    size: int,
    normalise: Normalise,
    schedule: Schedule,
    fabric: lightning.Fabric,
    steps: Iterable[int],
) -> Iterator[list[torch.Tensor]]:
    """The views of each step, float[B, 3, S, S] each, as the networks take them: this process's share of the batch."""
    batch, rank = schedule.batch_size, fabric.global_rank
    local, steps_per_epoch = batch // fabric.world_size, len(images) // batch

    def plan() -> Iterator[Planned]:
        drawn, order = -1, torch.empty(0)
        for step in steps:
            epoch, inside = divmod(step, steps_per_epoch)
            if epoch != drawn:
                drawn, order = epoch, torch.randperm(len(images), generator=_generator(schedule.seed, epoch, 0))
            rows = order[inside * batch : (inside + 1) * batch][rank * local :][:local].tolist()
            yield Planned(rows, draw_crops(local, views, size, _generator(schedule.seed, step, 1 + 2 * rank)))

    mean, std = (torch.tensor(v, device=fabric.device)[:, None, None] for v in normalise)
    for step, cut in zip(steps, images.batches(plan(), fabric.device), strict=True):
        coloured = recolour(cut, views, _generator(schedule.seed, step, 2 + 2 * rank))
        yield [((view - mean) / std).to(memory_format=torch.channels_last) for view in coloured]


def pull_ratio(method: Method, regulariser: Regulariser, batches: Iterable[list[torch.Tensor]]) -> float:
    """How many times harder the method's own loss pulls at the features than the regulariser's first term at lambda1 = 1.

    Frobenius norms of the gradients, mean over the batches (ours); infinity where that term pulls at nothing. What the method
    keeps of batches (BatchNorm's means, a queue) moves on.
    """
    objective = Objective(method, Regulariser(regulariser.selection, replace(regulariser.weights, lambda1=1.0))).train()
    own = first = 0.0
    for shown in batches:
        loss, *_ = objective(shown, Clock(0, 1, 1, further=True))
        loss.backward()
        norms = objective.gradient_norms()
        own, first = own + norms["ssl_gradient"], first + norms["q_gradient"]
        method.zero_grad(set_to_none=True)
    return own / first if first else math.inf


def collapse(rows: Sequence[Mapping[Any, float]], idle_loss: float | None) -> str:
    """What is wrong with a method's outputs after these epochs, in words; "" where nothing is.

    idle_loss: the method's, see `Method.idle_loss`; a loss that rests there for three epochs is no accident of the start.
    """
    spread, rank = rows[-1]["spread"], rows[-1]["rank"]
    if rows[-1].get("feature_spread", 1) < 0.01:  # heads that normalise a batch make noise of equal features
        return "outputs have collapsed: the features are the same for every image. Are the images different ones?"
    if spread < 0.05:
        return f"outputs have collapsed to one point: their spread is {spread:.3f} (about 1 when healthy)."
    if rank < 2:
        return f"outputs have collapsed to a line: their effective rank (RankMe) is {rank:.1f}."
    losses = [row.get("ssl_loss", row["loss"]) for row in rows[-_RESTS:]]
    if idle_loss is not None and len(losses) == _RESTS and all(abs(v - idle_loss) < 0.001 * idle_loss for v in losses):
        return (
            f"outputs have collapsed to one answer: the loss rests at {idle_loss:.3f}, that of the same answer for every image. "
            "Try a lower --lr, with SwAV also a smaller --epsilon."
        )
    return ""


def spread(outputs: torch.Tensor) -> torch.Tensor:
    """Spread of outputs[M, P] on the unit sphere: mean over dimensions of their standard deviation, times sqrt(P).

    About 1 when directions are used evenly, 0 when all outputs are equal (Chen & He, CVPR 2021, section 4.1).
    """
    unit = F.normalize(outputs, dim=1)
    even: torch.Tensor = unit.std(0).mean() * outputs.shape[1] ** 0.5
    return even


def choose_precision(method: Method, views: Views, size: int, batch: int, device: str) -> str:
    """ "bf16-mixed" where a trial step on this machine is at least 1.2 times faster with it, else "32-true"."""
    if device != "cpu":
        return "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
    sizes = [size] * views.n_views + [local_size(size)] * views.n_local
    shown = [torch.randn(min(batch, 64), 3, s, s).contiguous(memory_format=torch.channels_last) for s in sizes]
    method = method.to(memory_format=torch.channels_last)
    state = {k: v.clone() for k, v in method.state_dict().items()}

    def seconds(bf16: bool) -> float:
        best = math.inf
        for _ in range(3):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = method(shown, Clock(0, 1, 1)).loss
            loss.backward()
            best = min(best, time.perf_counter() - start)
        return best

    faster = seconds(False) / seconds(True)
    method.load_state_dict(state)
    method.zero_grad(set_to_none=True)
    return "bf16-mixed" if faster >= 1.2 else "32-true"


def _generator(seed: int, count: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + count) * 1_009 + stream)

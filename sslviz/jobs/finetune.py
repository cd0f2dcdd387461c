"""Mend an encoder: train it on with the Q-Score regulariser, beside controls, and say what that did on the very same images."""

import math
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from sslviz.errors import InputError, RunFailed, Stale, shown
from sslviz.jobs import Eps, Settings, command_of, job, readers
from sslviz.progress import Progress, while_checking
from sslviz.store.workspace import Workspace, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    import pandas as pd
    import torch

    from sslviz.encoders.spec import EncoderSpec
    from sslviz.encoders.store import Head
    from sslviz.jobs.inputs import Embedded
    from sslviz.jobs.mended import Judged
    from sslviz.methods import Made, Method
    from sslviz.training.regulariser import Regulariser, Weights
    from sslviz.training.sources import Source

Arm = Literal["control", "both", "lambda1", "lambda2", "lasso", "strong"]
ARMS: dict[Arm, str] = {
    "control": "the same further training without either term",
    "both": "both terms: the Q-Score regulariser",
    "lambda1": "the Q term only",
    "lambda2": "the column term only",
    "lasso": "the column term over all columns (the paper's own alternative)",
    "strong": "both, lambda1 raised until the Q term's gradient is 1 % of the self-supervised loss's (not in the paper)",
}
PRESETS: dict[str, dict[str, Any]] = {
    "published": {"epochs": 50, "lr": 1e-5, "images": 0},
    "small": {"epochs": 10, "lr": 0.2, "images": 1024},
}
PRESETS_SAID = (
    "published: 50 epochs at 1e-5, at which LARS moves weights by less than a ten-thousandth of their norm in a thousand steps; "
    "small, for a CPU (not in the paper): 10 epochs of 1,024 images at 0.2"
)
NOT_KEPT = frozenset({"dataset", "encoder", "workers", "device", "processes"})
"""Settings that a result does not name: its folder does, or they change no figure."""
BASE = "base.json"
"""In a run's folder: what is watched of the base."""
_STRONG, _STRONG_BATCHES = 0.01, 4
_WATCHED, _WATCHED_TRAIN = 512, 2000
_TRAINABLE = ("resnet", "small_resnet")


class FinetuneSettings(Settings):
    dataset: str = Field(description="data set in the workspace whose train images are trained on")
    encoder: str = Field(description="encoder in the workspace to go on from")
    arms: list[Arm] = Field(
        ["control", "both"],
        description="variants to train from the same start (repeat the option for several): "
        + "; ".join(f"{k}: {v}" for k, v in ARMS.items()),
    )
    seeds: list[int] = Field([0], description="random seed of data order and views; repeat the option for several")
    preset: Literal["published", "small"] = Field("published", description=PRESETS_SAID)
    epochs: int | None = Field(None, ge=1, le=10_000, description="further passes over the train images; default the preset's")
    images: int | None = Field(
        None, ge=0, description="train on at most this many train images (a fixed random subset); 0: all; default the preset's"
    )
    lr: float | None = Field(None, ge=0, allow_inf_nan=False, description="peak learning rate; default the preset's")
    optimizer: Literal["lars", "sgd"] = Field("lars", description="lars, as published: steps in proportion to the weights")
    warmup_epochs: int | None = Field(None, ge=0, description="epochs of linear warm-up; default a tenth")
    batch_size: int = Field(256, ge=2, le=65_536, description="images per step, over all processes")
    lambda1: float = Field(1e-4, ge=0, allow_inf_nan=False, description="weight of the Q term")
    lambda2: float = Field(
        1e-4, ge=0, allow_inf_nan=False, description="weight of the column term; its effect grows with the batch"
    )
    eps: Eps = Field("auto", description="standard deviations above its sample's mean at which a feature fires, or auto")
    refresh_every: int = Field(0, ge=0, description="choose D again every so many epochs (not in the paper); 0: never")
    empty: Literal["zero", "highest"] = Field(
        "zero",
        description="Q where no feature of D fires: zero, without a gradient, or the highest feature of D (not in the paper)",
    )
    normalise: bool = Field(True, description="the terms see rows of L2 norm 1 (not said in the paper)")
    judge_every: int = Field(5, ge=0, description="a probe's accuracy on a sample every so many epochs; 0 never")
    method: str = Field("", description="self-supervised method of an encoder that comes without its head; default its own")
    head_epochs: int = Field(
        5,
        ge=2,
        description="epochs that train such a fresh head on the frozen encoder (SwAV's and DINO's begin to move in the second)",
    )
    name: str = Field("", description="lead of the new encoders' names NAME-ARM-sSEED; default the encoder's")
    input: Literal["auto", "memory", "files"] = Field("auto", description="hold pictures in memory, or cut views from the files")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train; auto takes a GPU if there is one")
    precision: Literal["32-true", "bf16-mixed"] = Field(
        "32-true", description="bf16 is faster on GPUs, but rounds the Q term away at small lambda1"
    )
    workers: int | None = Field(
        None, ge=1, le=128, description="threads, or with files processes, that read images; default as many as cores, 2 to 16"
    )
    processes: int = Field(1, ge=1, le=1024, description="processes that share each batch, one per GPU")

    def encoder_name(self, arm: str, seed: int) -> str:
        """Of the encoder that an arm makes."""
        return f"{self.name or self.encoder}-{arm}-s{seed}"

    def machine(self) -> dict[str, Any]:
        """Where and how the encoders are judged."""
        return {"device": self.device, "workers": self.workers}

    def most(self) -> int:
        """At most so many images are trained on; 0 all of them."""
        return int(PRESETS[self.preset]["images"] if self.images is None else self.images)

    def pace(self) -> tuple[int, float, int]:
        """(epochs, peak learning rate, epochs of warm-up)."""
        epochs = self.epochs or PRESETS[self.preset]["epochs"]
        lr = PRESETS[self.preset]["lr"] if self.lr is None else self.lr
        return epochs, lr, min(epochs // 10 if self.warmup_epochs is None else self.warmup_epochs, epochs - 1)


@job("finetune", FinetuneSettings, example="sslviz finetune --dataset demo --encoder simclr-demo --preset small")
def finetune(settings: FinetuneSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Fine-tune an encoder with the Q-Score regulariser, next to controls; compare before and after on the same images."""
    from sslviz.jobs.mended import judge
    from sslviz.jobs.runner import rank
    from sslviz.training.regulariser import Selection

    if not settings.arms or not settings.seeds or not 0 <= min(settings.seeds) <= max(settings.seeds) < 2**31:
        raise InputError("name at least one arm, and one seed of 0 or more (less than 2,147,483,648).")
    origin, n = check(settings, workspace)
    if rank() == 0:  # before the processes are joined: losses gather
        progress.stage("measuring a step")
        progress.note(plan=estimate(settings, origin, n).words)
    trainer = _Trainer(settings, workspace, origin, progress)
    if trainer.speaks:
        trainer.base = judge(workspace, settings.dataset, settings.encoder, settings.eps, None, progress, **settings.machine())
        trainer.fixed = trainer.base.fixed
    trainer.fixed = Selection(*trainer.fabric.broadcast(tuple(trainer.fixed)))
    arms = [(arm, seed) for arm in dict.fromkeys(settings.arms) for seed in dict.fromkeys(settings.seeds)]
    plans = [trainer.plan(arm, seed) for arm, seed in arms]  # what cannot be is said before the first arm
    watched = trainer.watch_base() if trainer.speaks else {}
    trained = [trainer.train(plan, _Led(progress, plan.arm, plan.seed, k, len(arms))) for k, plan in enumerate(plans)]
    return _compared(settings, workspace, trainer, trained, watched, progress) if trainer.speaks else {}


def _compared(
    settings: FinetuneSettings,
    workspace: Workspace,
    trainer: "_Trainer",
    trained: "list[_Trained]",
    watched: dict[str, float],
    progress: Progress,
) -> dict[str, Any]:
    """Judge every arm, and store what it gained and lost. watched: what is watched of the base."""
    import pandas as pd

    from sslviz.analysis import mending
    from sslviz.data import dataset as datasets
    from sslviz.jobs.inputs import open_embedded
    from sslviz.jobs.mended import judge
    from sslviz.store.files import only_writer
    from sslviz.store.results import save_result

    base, fixed = trainer.base, trainer.fixed
    assert base is not None
    if datasets.refresh(workspace, settings.dataset)[0].fingerprint != trainer.dataset.fingerprint:
        raise Stale(
            f'images of "{settings.dataset}" came or went while encoders were trained: before and after are not the same images. '
            f"The encoders stay ({', '.join(one.encoder for one in trained)}): sslviz compare --dataset {settings.dataset}"
        )
    notes = [*trainer.origin.notes, *base.notes]
    if settings.precision != "32-true":
        notes.append("trained in bf16, whose 8 bits round the Q term away at small lambda1: its arm may equal its control")
    if not len(fixed.features):
        notes.append("no feature is discriminative: D is empty and the Q term does nothing")
    if "control" not in settings.arms:
        notes.append("no control was trained as long: what an arm gained over the base may be due to training on alone")
    judged: list[tuple[str, int, Judged]] = [("base", -1, base)]
    for k, one in enumerate(trained):
        led = _Led(progress, one.arm, one.seed, k, len(trained))
        after = judge(workspace, settings.dataset, one.encoder, settings.eps, base, led, **settings.machine())
        judged.append((one.arm, one.seed, after))
        notes += [note for note in [*one.notes, *after.notes] if note not in notes]
    progress.stage("comparing")
    everywhere = sorted(set.intersection(*(set(one.images.index) for _, _, one in judged)))
    if lost := len(base.images) - len(everywhere):
        notes.append(f"{lost:,} {base.split} images could not be judged by every encoder and are left out")
        judged = [(arm, seed, replace(one, images=one.images.loc[everywhere])) for arm, seed, one in judged]
        base = judged[0][2]
    rows: list[dict[str, Any]] = [{"arm": "base", "seed": -1, "encoder": settings.encoder, **base.figures()}]
    arms = {"base": [base]}
    for one, (arm, _, after) in zip(trained, judged[1:], strict=True):
        arms.setdefault(arm, []).append(after)
        rows.append({**one.facts(), **after.figures(), **base.changed(after)})
    against = [arm for arm in ("base", "control") if arm in arms]

    def compared() -> pd.DataFrame:
        images = {arm: [one.images for one in seeds] for arm, seeds in arms.items()}
        seen = set.intersection(*(set(one.looks.index) for seeds in arms.values() for one in seeds))  # a mask may be unreadable
        looks = {arm: [one.looks[one.looks.index.isin(seen)] for one in seeds] for arm, seeds in arms.items()}
        found = [mending.differences(images, against), mending.differences(looks, against)]
        return pd.concat([found[0], found[1][found[1]["figure"] != "top1"]], ignore_index=True)

    differences = while_checking(compared, progress)
    tables = {
        "arms": pd.DataFrame(rows),
        "differences": differences,
        "images": _stacked([(arm, seed, one.images.reset_index()) for arm, seed, one in judged]),
        "panels": _stacked([(arm, seed, one.panel) for arm, seed, one in judged]),
        "curves": _stacked([(one.arm, one.seed, from_base(one.curve, watched)) for one in trained]),
    }
    epochs, lr, warmup = settings.pace()
    summary = {
        "arms": [{k: _known(v) for k, v in row.items()} for row in rows],
        "titles": trainer.dataset.titles,
        "judged_on": base.split,
        "n": len(base.images),
        "method": trainer.origin.made.method,
        "images": len(trainer.ids),
        "epochs": epochs,
        "lr": lr,
        "warmup_epochs": warmup,
        "eps": fixed.eps,
        "n_discriminative": len(fixed.features),
        "verdict": mending.verdict(differences),
        "notes": notes,
    }
    for note in notes:
        progress.warn(note)
    inputs = {**open_embedded(workspace, settings.dataset, settings.encoder).inputs, **base.made_from}
    folder = workspace.results(settings.dataset, settings.encoder, "finetune")
    with only_writer(folder, f"the fine-tuning of {settings.encoder} on {settings.dataset}"):
        plain = settings.model_dump(mode="json", exclude=set(NOT_KEPT))
        save_result(folder, plain, inputs, tables, summary)
    return {"dataset": settings.dataset, "encoder": settings.encoder, **summary}


def from_base(curve: "pd.DataFrame", watched: dict[str, Any]) -> "pd.DataFrame":
    """The rows of an arm's curve, led by what was watched of the base, as epoch 0."""
    import pandas as pd

    return pd.concat([pd.DataFrame([{"epoch": 0, "step": 0, **watched}], dtype=float), curve], ignore_index=True)


def _stacked(parts: "list[tuple[str, int, pd.DataFrame]]") -> "pd.DataFrame":
    """The tables of arms and seeds below one another."""
    import pandas as pd

    return pd.concat([table.assign(arm=arm, seed=seed) for arm, seed, table in parts], ignore_index=True)


@dataclass(frozen=True)
class Estimate:
    """What a fine-tuning needs here: steps over all arms and seeds, their seconds, and GB of memory beside what is free."""

    head: str
    steps: int
    seconds: float
    memory: float
    free: float

    @property
    def words(self) -> str:
        hours = f"{self.seconds / 3600:.1f} h" if self.seconds >= 5400 else f"{max(1, self.seconds / 60):.0f} min"
        return (
            f"{self.steps:,} steps of training, about {hours} here, {self.memory:.1f} GB of memory ({self.free:.1f} GB are free)"
        )


def estimate(settings: FinetuneSettings, origin: "Origin", n: int) -> Estimate:
    """Measured on a few images, for a process of those that share the batch; nothing is touched. n: images trained on.

    Raises InputError for what this memory cannot hold.
    """
    import torch

    from sslviz.encoders.run import pick_device
    from sslviz.jobs.inputs import available_memory
    from sslviz.jobs.training import processes
    from sslviz.training.estimate import step_cost

    device, made = torch.device(pick_device(settings.device)), origin.made
    world, here = processes(settings.processes)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    cost = step_cost(origin.method(), made.views, made.size, settings.batch_size // world, device)
    bytes_here = cost.bytes * (1 if device.type == "cuda" else here)
    steps = n // settings.batch_size * settings.pace()[0] * len(set(settings.arms)) * len(set(settings.seeds))
    if origin.head is None:
        steps += n // settings.batch_size * settings.head_epochs
    found = Estimate(
        head="; ".join(origin.notes) or f"goes on with its own {made.method} head",
        steps=steps,
        seconds=cost.seconds * steps,
        memory=bytes_here / 1e9,
        free=free / 1e9,
    )
    if found.memory > found.free:
        raise InputError(
            f"a step of {settings.batch_size} images needs about {found.memory:.1f} GB of memory, {found.free:.1f} GB are free. "
            "Choose a smaller --batch-size."
        )
    return found


def check_trainable(spec: "EncoderSpec") -> None:
    """Raises InputError for an encoder that no training goes on from: raw pixels, a timm model, some outputs of another one."""
    if spec.backbone not in _TRAINABLE:
        raise InputError(
            f'encoder "{spec.name}" ({spec.backbone}, {spec.source or "of unknown origin"}) cannot be trained; ResNets whose '
            "parts are named as torchvision's can."
        )
    if spec.outputs:
        raise InputError(f'encoder "{spec.name}" was cut to some of its outputs; fine-tune the encoder it was cut from.')


def check(settings: FinetuneSettings, workspace: Workspace) -> "tuple[Origin, int]":
    """(the encoder to go on from, how many images are trained on).

    Raises InputError for what cannot be trained; where the images fill no batch, or the processes cannot share one; for names
    that other encoders have.
    """
    from sslviz.data import dataset as datasets
    from sslviz.jobs.training import processes

    origin = Origin.read(workspace, settings)
    for arm in settings.arms:
        for seed in settings.seeds:
            name = check_name("encoder", settings.encoder_name(arm, seed))
            if name in workspace.encoders() and "made_by" not in _card(workspace, name):
                raise _taken(name)
    dataset, _ = datasets.refresh(workspace, settings.dataset)
    there = int(dataset.facts["counts"].get("train", 0))
    n = min(there, settings.most() or there)
    if dataset.root is None or n < settings.batch_size:
        used = f", of which {n:,} are used" if n < there else ""
        raise InputError(
            f'data set "{dataset.name}" has {there:,} train images{used}; expected at least one batch of {settings.batch_size} '
            "pictures. Choose a smaller --batch-size, more --images or another data set."
        )
    world = processes(settings.processes)[0]
    if settings.batch_size % world or settings.batch_size // world < 2:
        raise InputError(
            f"batch size {settings.batch_size}: expected at least 2 for each of the {world} processes, alike for all."
        )
    return origin, n


def _card(workspace: Workspace, name: str) -> dict[str, Any]:
    """What is kept of an encoder's making; {} where nothing is."""
    from sslviz.store.files import read_json

    card = workspace.encoder(name) / "card.json"
    content = read_json(card) if card.exists() else {}
    return content if isinstance(content, dict) else {}  # cards come along with files of others


def _taken(name: str) -> InputError:
    return InputError(
        f'encoder "{name}" is already there, made in another way. '
        f"Choose another --name or remove it: sslviz encoders remove {name}"
    )


@dataclass(frozen=True)
class Origin:
    """The encoder that training goes on from, with its head (None: it came without one)."""

    asked: str
    spec: "EncoderSpec"
    weights: "dict[str, torch.Tensor]"
    made: "Made"
    head: "Head | None"
    notes: list[str]

    @classmethod
    def read(cls, workspace: Workspace, settings: FinetuneSettings) -> "Origin":
        """Raises InputError for an encoder that cannot be trained on: arrays, a timm model, an unknown method without a head."""
        from sslviz.encoders.spec import load_spec
        from sslviz.encoders.store import load_weights, read_head
        from sslviz.methods import METHODS, Made
        from sslviz.methods.heads import put_together

        workspace.existing_encoder(settings.encoder)
        spec = load_spec(workspace, settings.encoder)
        check_trainable(spec)
        weights = load_weights(workspace, spec)
        head = read_head(workspace.encoder(spec.name) / "head.safetensors")
        if head is not None:
            _, made, notes = put_together(spec, weights, head, settings.method)
            return cls(settings.method, spec, weights, made, head, notes)
        name = settings.method or spec.method
        if name not in METHODS.names():
            raise InputError(
                f'encoder "{spec.name}" came without its head and its method is {name}. '
                f"Say which loss to go on with: --method {'|'.join(METHODS.names())}"
            )
        method = METHODS[name]
        made = Made(method=name, options=method.options, views=method.views, size=spec.input.size)
        note = (
            f"{spec.name} came without its head: a fresh one is trained on the frozen encoder for {settings.head_epochs} epochs"
        )
        return cls(settings.method, spec, weights, made, None, [note])

    def method(self) -> "Method":
        """The method as it was when the encoder was stored."""
        from sslviz.methods.heads import begin_anew, put_together

        if self.head is None:
            return begin_anew(self.spec, self.weights, self.made)
        return put_together(self.spec, self.weights, self.head, self.asked)[0]


class _Plan(NamedTuple):
    arm: Arm
    seed: int
    encoder: str
    weights: "Weights"
    made_of: dict[str, str]
    """Fingerprints of everything that the encoder follows from, by what it is called."""
    notes: list[str]
    there: dict[str, Any] | None
    """The encoder's card, where it is there already."""


@dataclass(frozen=True)
class _Trained:
    arm: str
    seed: int
    encoder: str
    weights: "Weights"
    curve: "pd.DataFrame"
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        own = self.weights
        return {"arm": self.arm, "seed": self.seed, "encoder": self.encoder, "lambda1": own.lambda1, "lambda2": own.lambda2}


class _Trainer:
    """Trains one arm after another from the same start, on the same images in the same order."""

    def __init__(self, settings: FinetuneSettings, workspace: Workspace, origin: Origin, progress: Progress) -> None:
        """`fixed` and, for the process that speaks for all, `base` are known later: before the first arm."""
        import numpy as np

        from sslviz.data import dataset as datasets
        from sslviz.jobs.training import fabric_for
        from sslviz.training.regulariser import Selection

        if progress.folder is None:
            raise ValueError("finetune needs a run folder for its checkpoints")
        self.settings, self.workspace, self.origin = settings, workspace, origin
        self.folder, self.progress = progress.folder, progress
        self.base: Judged | None = None
        self.fixed = Selection(np.empty(0, np.int64), 0.0)
        self.dataset, _ = datasets.refresh(workspace, settings.dataset)
        self.fabric = fabric_for(settings.device, settings.precision)
        self.speaks = self.fabric.is_global_zero
        progress.note(device=self.fabric.device.type, precision=settings.precision, processes=self.fabric.world_size)

    def watched(self, embed: "Callable[[list[str]], Iterable[tuple[list[str], np.ndarray]]]", due: bool) -> dict[str, float]:
        """Of a fixed sample: mean Q, also of what the base's probe got right and wrong apart; where `due`, a probe's accuracy.

        embed: of pictures by sample_id, block by block, the ids of those that can be read and embeddings float[b, D].
        """
        import numpy as np

        from sslviz.analysis.probe import linear_probe
        from sslviz.analysis.rows import score_rows

        assert self.base is not None

        def together(ids: list[str]) -> tuple[list[str], np.ndarray]:
            blocks = list(embed(ids))
            if not blocks:
                raise RunFailed(f"none of the {len(ids):,} watched pictures can be read any more.")
            read, parts = zip(*blocks, strict=True)
            return [sample_id for block in read for sample_id in block], np.concatenate(parts)

        sample = self.base.sample(_WATCHED)
        ids, H = together(sample.index.tolist())
        sample = sample.loc[ids]
        q = score_rows(H, self.fixed.features, self.fixed.eps).q
        found = {"watched_q": float(q.mean())}
        if "correct" in sample:
            right = sample["correct"].to_numpy(dtype=bool)
            for outcome, part in (("correct", right), ("wrong", ~right)):
                found[f"watched_q_{outcome}"] = float(q[part].mean()) if part.any() else float("nan")
            found["watched_top1"] = float("nan")
            if due:
                train = self.embedded.samples
                train = train[(train["split"] == "train") & (train["label"] >= 0) & ~train["sample_id"].isin(sample.index)]
                train = train.sample(min(_WATCHED_TRAIN, len(train)), random_state=0)
            if due and train["label"].nunique() > 1:
                ids, H_train = together(train["sample_id"].tolist())
                y = train.set_index("sample_id").loc[ids, "label"].to_numpy()
                probe = linear_probe(H_train, y, H, sample["label"].to_numpy(), l2=self.base.l2)
                found["watched_top1"] = float("nan") if probe.top1 is None else probe.top1
        return found

    def watch_base(self) -> dict[str, float]:
        """What is watched of the base, where all curves begin; kept in the run's folder."""
        from sslviz.store.files import write_json

        row_of, store = self.embedded.samples.set_index("sample_id")["row"], self.embedded.store
        found = self.watched(lambda ids: [(ids, store.read(row_of[ids].to_numpy()))], bool(self.settings.judge_every))
        found["moved"] = 0.0
        write_json(self.folder / BASE, {name: _known(value) for name, value in found.items()})
        return found

    def plan(self, arm: Arm, seed: int) -> "_Plan":
        """What an arm is trained with. Raises InputError where another encoder has its name, RunFailed where nothing can pull."""
        name = self.settings.encoder_name(arm, seed)
        weights, notes = self._weights(arm)
        made_of = self._made_of(weights, seed)
        there: dict[str, Any] | None = self.fabric.broadcast(self._there(name, made_of) if self.speaks else None)
        return _Plan(arm, seed, name, weights, made_of, notes, there)

    def train(self, plan: "_Plan", progress: "_Led") -> _Trained:
        """One arm; where its encoder is there already, made in the very same way, that one is taken."""
        import pandas as pd

        from sslviz.encoders.store import save_encoder
        from sslviz.jobs.training import left_out_by_all
        from sslviz.methods.heads import take_apart
        from sslviz.store.fingerprints import fingerprint
        from sslviz.training.loop import Schedule, collapse, train
        from sslviz.training.regulariser import Regulariser

        arm, seed, name, weights, made_of = plan[:5]
        if plan.there is not None:
            return _Trained(arm, seed, name, weights, pd.DataFrame(plan.there["curve"], dtype=float), plan.there["notes"])
        epochs, lr, warmup = self.settings.pace()
        settings, made = self.settings, self.origin.made
        method = self._start()
        regulariser = Regulariser(self.fixed, weights)
        watch = _Watch(self, method, regulariser, progress)
        schedule = Schedule(epochs, settings.batch_size, lr, warmup, seed, settings.optimizer, further=True)
        folder = self._folder(f"{arm}-s{seed}", made_of)
        curve = train(
            method,
            made.views,
            self.images,
            made.size,
            self.normalise,
            schedule,
            folder,
            self.fabric,
            progress,
            watch.every_epoch,
            regulariser,
        )
        notes = list(plan.notes)
        if words := collapse(curve.to_dict("records"), method.idle_loss):
            notes.append(f"{arm}, seed {seed}: {words}")
        if left_out := left_out_by_all(self.images, self.fabric):
            notes.append(f"{len(left_out)} train images could not be read and are left out: {shown(left_out)}")
        if not self.speaks:
            return _Trained(arm, seed, name, weights, curve, notes)
        spec = self.origin.spec.model_copy(
            update={
                "name": name,
                "source": f"sslviz finetune of {settings.encoder} on {settings.dataset}, {arm}, seed {seed}, {epochs} epochs",
                "notes": (command_of("finetune", settings),),
            }
        )
        content: dict[str, Any] = {
            "command": command_of("finetune", settings),
            "epochs": epochs,
            "curve": {column: [_known(float(f"{v:.5g}")) for v in curve[column]] for column in curve},
            "made_by": fingerprint(made_of),
            "notes": notes,
        }
        self._there(name, made_of)  # another run may have made one of this name meanwhile
        save_encoder(self.workspace, spec, made.kept(method).state_dict(), take_apart(method, made), content)
        (folder / "checkpoint.pt").unlink()
        return _Trained(arm, seed, name, weights, pd.DataFrame(content["curve"], dtype=float), notes)

    def _folder(self, name: str, made_of: dict[str, str]) -> Path:
        """A folder for what follows from `made_of`. Raises InputError where a checkpoint of anything else lies there."""
        from sslviz.store.files import read_json, write_json

        folder = self.folder / name
        record = folder / "made_by.json"
        was = read_json(record) if record.exists() else {}
        if self.speaks and was != made_of:
            if (folder / "checkpoint.pt").exists():
                changed = " and ".join(what for what, value in made_of.items() if was.get(what) != value)
                raise InputError(
                    f"{changed} changed since this run began, and what it has trained ({name}) belongs to what was. Put it back, "
                    f"or delete the run and start again: sslviz runs delete {self.folder.name}"
                )
            shutil.rmtree(folder, ignore_errors=True)
            write_json(record, made_of)
        self.fabric.barrier()
        return folder

    def _there(self, name: str, made_of: dict[str, str]) -> dict[str, Any] | None:
        """The card of an encoder that was made in the very same way; None where none is there."""
        from sslviz.store.fingerprints import fingerprint

        if name not in self.workspace.encoders():
            return None
        card = _card(self.workspace, name)
        if card.get("made_by") != fingerprint(made_of):
            raise _taken(name)
        return card

    @property
    def normalise(self) -> Any:
        return self.origin.spec.input.mean, self.origin.spec.input.std

    @cached_property
    def embedded(self) -> "Embedded":
        """The samples that have an embedding by the base, and where it is."""
        from sslviz.jobs.inputs import open_embedded

        return open_embedded(self.workspace, self.settings.dataset, self.settings.encoder)

    @cached_property
    def ids(self) -> list[str]:
        """Of the images that are trained on."""
        from sslviz.jobs.training import train_ids

        return train_ids(self.dataset, self.settings.most())

    @cached_property
    def from_files(self) -> bool:
        from sslviz.jobs.training import cut_from_files

        return cut_from_files(self.dataset, len(self.ids), self.origin.made.size, self.settings.input, self.folder)

    @cached_property
    def images(self) -> "Source":
        from sslviz.jobs.training import train_images

        size, workers = self.origin.made.size, readers(self.settings.workers)
        return train_images(self.dataset, self.ids, size, self.from_files, workers, 0, self.progress)[0]

    @cached_property
    def strong(self) -> float:
        """lambda1 at which the Q term pulls with 1 % of the own loss's force, over the first batches of seed 0."""
        from sslviz.store.files import read_json, write_json
        from sslviz.training.loop import Schedule, batches_of, pull_ratio
        from sslviz.training.regulariser import Regulariser

        self.progress.stage("measuring how hard the Q term pulls")
        record = self._folder("strong", self._made_of(self._plain, 0)) / "lambda1.json"
        if record.exists():
            return float(read_json(record))
        own, method = self.settings, self._start().to(self.fabric.device)
        schedule = Schedule(1, own.batch_size, 0, 0, 0)
        steps = range(max(1, min(_STRONG_BATCHES, len(self.images) // own.batch_size)))
        made = self.origin.made
        batches = batches_of(made.views, self.images, made.size, self.normalise, schedule, self.fabric, steps)
        ratio = pull_ratio(method, Regulariser(self.fixed, self._plain).to(self.fabric.device), batches)
        lambda1 = float(f"{_STRONG * float(self.fabric.broadcast(ratio)):.3g}")
        if math.isinf(lambda1):
            raise RunFailed("the Q term pulls at nothing here (all sets are empty): leave the arm strong out.")
        if self.speaks:
            write_json(record, lambda1)
        return lambda1

    @property
    def _plain(self) -> "Weights":
        from sslviz.training.regulariser import Weights

        own = self.settings
        return Weights(own.lambda1, own.lambda2, normalise=own.normalise, empty=own.empty)

    def _weights(self, arm: Arm) -> "tuple[Weights, list[str]]":
        changes: dict[Arm, dict[str, Any]] = {
            "control": {"lambda1": 0.0, "lambda2": 0.0},
            "both": {},
            "lambda1": {"lambda2": 0.0},
            "lambda2": {"lambda1": 0.0},
            "lasso": {"lambda1": 0.0, "lasso": True},
            "strong": {"lambda1": self.strong} if arm == "strong" else {},
        }
        weights = replace(self._plain, **changes[arm])
        notes = (
            [f"strong: lambda1 is {weights.lambda1:.3g}, the Q term at 1 % of the own loss's force"] if arm == "strong" else []
        )
        return weights, notes

    def _made_of(self, weights: "Weights", seed: int) -> dict[str, str]:
        """Fingerprints of everything that the encoder of an arm follows from, by what it is called."""
        from dataclasses import asdict

        from sslviz.store.fingerprints import fingerprint

        own = self.settings.model_dump(mode="json", include={"optimizer", "batch_size", "refresh_every", "precision"})
        own["from_files"] = self.from_files
        if len(self.ids) < int((self.dataset.samples["split"] == "train").sum()):
            own["images"] = len(self.ids)
        selection = [self.fixed.features.tolist(), self.fixed.eps]
        head = self.origin.head.digest() if self.origin.head else self.settings.head_epochs
        if self.settings.refresh_every:
            own["eps"] = self.settings.eps
        return {
            "the encoder": fingerprint([self.origin.spec.fingerprint(), self.origin.made.model_dump(mode="json"), head]),
            "the data set": self.dataset.fingerprint,
            "its discriminative features": fingerprint(selection),
            "the weights of the terms": fingerprint(asdict(weights)),
            "the epochs or the learning rate": fingerprint(self.settings.pace()),
            "the seed": str(seed),
            "the number of processes": str(self.fabric.world_size),
            "a setting": fingerprint(own),
        }

    def _start(self) -> "Method":
        """The method that every arm begins with; where the encoder came without a head, with one that was trained on it."""
        method = self.origin.method()
        if self.origin.head is None:
            method.load_state_dict(self._fresh)
        return method

    @cached_property
    def _fresh(self) -> "dict[str, torch.Tensor]":
        import torch

        from sslviz.training.loop import Schedule, train

        own, made = self.settings, self.origin.made
        torch.manual_seed(0)
        method = self.origin.method()
        lr = method.recipe.base_lr * own.batch_size / 256
        schedule = Schedule(own.head_epochs, own.batch_size, lr, min(1, own.head_epochs - 1), 0, heads_only=True)
        folder = self._folder("head", self._made_of(self._plain, 0))
        progress = _Led(self.progress, "fresh head", 0, 0, 1)
        train(method, made.views, self.images, made.size, self.normalise, schedule, folder, self.fabric, progress)
        return method.state_dict()


class _Watch:
    """At the end of an epoch: what is watched of the encoder as it is then, and D where it is to be chosen anew."""

    def __init__(self, trainer: _Trainer, method: "Method", regulariser: "Regulariser", progress: Progress) -> None:
        self.trainer, self.method, self.regulariser, self.progress = trainer, method, regulariser, progress

    def every_epoch(self, rows: list[dict[str, float]]) -> dict[str, float]:
        settings = self.trainer.settings
        epoch, epochs = len(rows), settings.pace()[0]
        if settings.refresh_every and epoch % settings.refresh_every == 0 and epoch < epochs:
            self._refresh()
        due = bool(settings.judge_every) and (epoch % settings.judge_every == 0 or epoch == epochs)
        return {**self.trainer.watched(self._embedded, due), "moved": self._moved()}

    def _moved(self) -> float:
        """How far the encoder's weights are from where they began, as a share of their norm."""
        start = self.trainer.origin.weights
        far = norm = 0.0
        for name, weight in self.trainer.origin.made.kept(self.method).named_parameters():
            before = start[name].to(weight.device)
            far += float((weight.detach() - before).square().sum())
            norm += float(before.square().sum())
        return math.sqrt(far / norm)

    def _refresh(self) -> None:
        from sslviz.analysis.features import EPS_GRID, ActivationCounts
        from sslviz.training.regulariser import Selection

        assert self.trainer.base is not None
        samples, ruler = self.trainer.embedded.samples, self.trainer.base.rulers["score"]
        eps = self.trainer.settings.eps
        counts = ActivationCounts(self.trainer.origin.spec.feature_dim, EPS_GRID if eps == "auto" else [eps])
        for _, block in self._embedded(samples.loc[samples["split"] == "train", "sample_id"].tolist()):
            counts.update(block)
        chosen = counts.select(eps, ruler["lower"], ruler["upper"])
        self.regulariser.selection = Selection(chosen.features, chosen.eps)

    def _embedded(self, sample_ids: list[str]) -> "Iterable[tuple[list[str], np.ndarray]]":
        """Embeddings float32[b, D] of pictures by the kept branch as it is now, batch by batch, and whose they are; pictures that
        cannot be read are left out. The training is not touched."""
        from copy import deepcopy

        import torch

        from sslviz.data.loading import ahead, read_picture
        from sslviz.encoders.run import Encoder

        root = self.trainer.dataset.root
        assert root is not None
        spec, batch = self.trainer.origin.spec, 64
        encoder = Encoder(spec, deepcopy(self.trainer.origin.made.kept(self.method)), str(self.regulariser.features.device))
        workers = readers(self.trainer.settings.workers)
        pictures = ahead(
            lambda s: read_picture(root / s, spec.input.resize, spec.input.size, thumb=False), sample_ids, workers, 2 * batch
        )
        ids: list[str] = []
        waiting: list[torch.Tensor] = []
        for sample_id, loaded in zip(sample_ids, pictures, strict=True):
            self.progress.check()
            if loaded.pixels is None:
                self.progress.warn(f"{sample_id} {loaded.error}: it is not watched any more")
            else:
                ids.append(sample_id)
                waiting.append(loaded.pixels)
            if waiting and (len(waiting) == batch or sample_id == sample_ids[-1]):
                yield ids, encoder.embed(torch.stack(waiting)).cpu().numpy()
                ids, waiting = [], []


def _known(value: Any) -> Any:
    """None instead of NaN, which JSON lacks."""
    return None if isinstance(value, float) and math.isnan(value) else value


class _Led(Progress):
    """Another's progress, its stages led by what is being worked at."""

    def __init__(self, progress: Progress, arm: str, seed: int, place: int, of: int) -> None:
        self.progress, self.folder = progress, progress.folder
        self.lead = f"{arm}, seed {seed} ({place + 1} of {of})"
        self.advance, self.note, self.check = progress.advance, progress.note, progress.check  # type: ignore[method-assign]

    def warn(self, sentence: str) -> None:
        self.progress.warn(f"{self.lead}: {sentence}")

    def stage(self, name: str, total: int = 0) -> None:
        self.progress.stage(f"{self.lead}: {name}", total)

"""Mend an encoder: train it on with the Q-Score regulariser, beside controls, and say what that did on the very same images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sslviz.errors import InputError, Stale
from sslviz.jobs import Device, Eps, Processes, Settings, TrainingBatch, TrainingWorkers, job
from sslviz.progress import Prefixed, Progress, while_checking
from sslviz.store.workspace import Workspace, check_name

if TYPE_CHECKING:
    import pandas as pd

    from sslviz.encoders.spec import EncoderSpec
    from sslviz.jobs.arms import Plan, Trained, Trainer
    from sslviz.jobs.mended import Judged
    from sslviz.jobs.origin import Origin

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
NOT_KEPT = frozenset({"dataset", "encoder", "workers", "device"})
"""Settings that a result does not name: its folder does, or they change no figure."""
BASE = "base.json"
"""In a run's folder: what is watched of the base."""
_TRAINABLE = ("resnet", "small_resnet")


def of_arm(arm: str, seed: int) -> str:
    """An arm and seed in the name of its encoder, and of its folder in the run's."""
    return f"{arm}-s{seed}"


class FinetuneSettings(Settings):
    dataset: str = Field(description="data set in the workspace whose train images are trained on")
    encoder: str = Field(description="encoder in the workspace to go on from")
    arms: list[Arm] = Field(
        ["control", "both"],
        description="variants to train from the same start (repeat the option for several): "
        + "; ".join(f"{k}: {v}" for k, v in ARMS.items()),
    )
    seeds: list[int] = Field([0], description="random seed of data order and views; repeat the option for several")
    preset: Literal["published", "small"] = Field("published", description=PRESETS_SAID + "; the app's form begins with small")
    epochs: int | None = Field(None, ge=1, le=10_000, description="further passes over the train images; default the preset's")
    images: int | None = Field(
        None, ge=0, description="train on at most this many train images (a fixed random subset); 0: all; default the preset's"
    )
    lr: float | None = Field(None, ge=0, allow_inf_nan=False, description="peak learning rate; default the preset's")
    optimizer: Literal["lars", "sgd"] = Field("lars", description="lars, as published: steps in proportion to the weights")
    warmup_epochs: int | None = Field(None, ge=0, description="epochs of linear warm-up; default a tenth")
    batch_size: TrainingBatch = 256
    lambda1: float = Field(1e-4, ge=0, allow_inf_nan=False, description="weight of the Q term, which raises low Q-Scores")
    lambda2: float = Field(
        1e-4,
        ge=0,
        allow_inf_nan=False,
        description="weight of the column term, which shrinks features that are strong throughout a batch",
    )
    eps: Eps = "auto"
    refresh_every: int = Field(
        0, ge=0, description="choose D, the discriminative features, again every so many epochs (not in the paper)"
    )
    empty: Literal["zero", "highest"] = Field(
        "zero",
        description="Q where nothing of D fires: zero, without a gradient, or the highest feature of D (not in the paper)",
    )
    normalise: bool = Field(True, description="the terms see rows of L2 norm 1 (not said in the paper)")
    judge_every: int = Field(5, ge=0, description="a probe's accuracy on a sample every so many epochs; 0 never")
    method: str = Field("", description="method, where the file does not say it or the encoder comes without its head")
    head_epochs: int = Field(
        5,
        ge=2,
        description="epochs that train such a fresh head on the frozen encoder (SwAV's and DINO's begin to move in the second)",
    )
    name: str = Field("", description="lead of the new encoders' names NAME-ARM-sSEED; default the encoder's")
    input: Literal["auto", "memory", "files"] = Field("auto", description="hold pictures in memory, or cut views from the files")
    device: Device = "auto"
    precision: Literal["32-true", "bf16-mixed"] = Field(
        "32-true", description="bf16 is faster on GPUs, but rounds the Q term away at small lambda1"
    )
    workers: TrainingWorkers = None
    processes: Processes = 1

    def encoder_name(self, arm: str, seed: int) -> str:
        """Of the encoder that an arm makes."""
        return f"{self.name or self.encoder}-{of_arm(arm, seed)}"

    def encoder_names(self) -> list[str]:
        """Of all that are made."""
        return [self.encoder_name(arm, seed) for arm in self.arms for seed in self.seeds]

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
        return epochs, lr, epochs // 10 if self.warmup_epochs is None else self.warmup_epochs


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

    Raises InputError for arms, seeds and epochs that make no training; for what cannot be trained; where the images fill no
    batch, or the processes cannot share one; for names that other encoders have.
    """
    from sslviz.data import dataset as datasets
    from sslviz.encoders.store import card_of
    from sslviz.jobs.origin import Origin, name_taken
    from sslviz.jobs.training import processes

    if not settings.arms or not settings.seeds or not 0 <= min(settings.seeds) <= max(settings.seeds) < 2**31:
        raise InputError("name at least one arm, and one seed of 0 or more (less than 2,147,483,648).")
    if (settings.warmup_epochs or 0) >= (epochs := settings.pace()[0]):
        raise InputError(f"warmup-epochs: expected fewer than the {epochs} epochs (got {settings.warmup_epochs}).")
    origin = Origin.read(workspace, settings)
    for name in settings.encoder_names():
        check_name("encoder", name)
        if name in workspace.encoders() and "made_by" not in card_of(workspace, name):
            raise name_taken(name)
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


@job(
    "finetune",
    FinetuneSettings,
    example="sslviz finetune --dataset demo --encoder simclr-demo --preset small",
    trains=True,
    check=check,
)
def finetune(settings: FinetuneSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Fine-tune an encoder with the Q-Score regulariser, next to controls; compare before and after on the same images."""
    from sslviz.jobs.arms import Trainer
    from sslviz.jobs.mended import judge
    from sslviz.jobs.runner import rank
    from sslviz.training.regulariser import Selection

    origin, n = check(settings, workspace)
    if rank() == 0:  # before the processes are joined: losses gather
        progress.stage("measuring a step")
        progress.note(plan=estimate(settings, origin, n).words)
        for note in origin.notes:
            progress.warn(note)
    trainer = Trainer(settings, workspace, origin, progress)
    if trainer.fabric.is_global_zero:
        trainer.base = judge(workspace, settings.dataset, settings.encoder, settings.eps, None, progress, **settings.machine())
        trainer.fixed = trainer.base.fixed
    trainer.fixed = Selection(*trainer.fabric.broadcast(tuple(trainer.fixed)))
    arms = [(arm, seed) for arm in dict.fromkeys(settings.arms) for seed in dict.fromkeys(settings.seeds)]
    plans = [trainer.plan(arm, seed) for arm, seed in arms]  # what cannot be is said before the first arm
    watched = trainer.watch_base() if trainer.fabric.is_global_zero else {}
    trained = [trainer.train(plan, prefixed) for plan, prefixed in zip(plans, _prefixed(progress, plans), strict=True)]
    return _compared(settings, workspace, trainer, trained, watched, progress) if trainer.fabric.is_global_zero else {}


def _compared(
    settings: FinetuneSettings,
    workspace: Workspace,
    trainer: "Trainer",
    trained: "list[Trained]",
    watched: dict[str, float],
    progress: Progress,
) -> dict[str, Any]:
    """Judge every arm, and store what it gained and lost. watched: what is watched of the base."""
    import pandas as pd

    from sslviz.analysis.mending import verdict
    from sslviz.data import dataset as datasets
    from sslviz.jobs.arms import known
    from sslviz.jobs.inputs import open_embedded
    from sslviz.store.files import only_writer
    from sslviz.store.results import save_result

    if datasets.refresh(workspace, settings.dataset)[0].fingerprint != trainer.dataset.fingerprint:
        raise Stale(
            f'images of "{settings.dataset}" came or went while encoders were trained: before and after are not the same images. '
            f"The encoders stay ({', '.join(one.encoder for one in trained)}): sslviz compare --dataset {settings.dataset}"
        )
    judged, notes = _judged(settings, workspace, trainer, trained, progress)
    progress.stage("comparing")
    base = judged[0][2]
    rows: list[dict[str, Any]] = [{"arm": "base", "seed": -1, "encoder": settings.encoder, **base.figures()}]
    rows += [
        {**one.facts(), **after.figures(), **base.changed(after)} for one, (_, _, after) in zip(trained, judged[1:], strict=True)
    ]
    differences = while_checking(lambda: _differences(judged), progress)
    tables = {
        "arms": pd.DataFrame(rows),
        "differences": differences,
        "images": _stacked([(arm, seed, one.images.reset_index()) for arm, seed, one in judged]),
        "panels": _stacked([(arm, seed, one.panel) for arm, seed, one in judged]),
        "curves": _stacked([(one.arm, one.seed, from_base(one.curve, watched)) for one in trained]),
    }
    epochs, lr, warmup = settings.pace()
    summary = {
        "arms": [{k: known(v) for k, v in row.items()} for row in rows],
        "titles": trainer.dataset.titles,
        "judged_on": base.split,
        "n": len(base.images),
        "method": trainer.origin.made.method,
        "images": len(trainer.ids),
        "epochs": epochs,
        "lr": lr,
        "warmup_epochs": warmup,
        "eps": trainer.fixed.eps,
        "n_discriminative": len(trainer.fixed.features),
        "verdict": verdict(differences),
        "notes": notes,
    }
    for note in notes:
        progress.warn(note)
    inputs = {**open_embedded(workspace, settings.dataset, settings.encoder).inputs, **base.made_from}
    folder = workspace.results(settings.dataset, settings.encoder, "finetune")
    with only_writer(folder, f"the fine-tuning of {settings.encoder} on {settings.dataset}", wait=True):
        plain = settings.model_dump(mode="json", exclude=set(NOT_KEPT))
        save_result(folder, plain, inputs, tables, summary)
    return {"dataset": settings.dataset, "encoder": settings.encoder, **summary}


def _judged(
    settings: FinetuneSettings, workspace: Workspace, trainer: "Trainer", trained: "list[Trained]", progress: Progress
) -> "tuple[list[tuple[str, int, Judged]], list[str]]":
    """The base and every arm's encoder by arm and seed, on the images that all of them could be judged on; what is to be said."""
    from sslviz.jobs.mended import judge

    base = trainer.base
    assert base is not None
    notes = [*trainer.origin.notes, *base.notes]
    if settings.precision != "32-true":
        notes.append("trained in bf16, whose 8 bits round the Q term away at small lambda1: its arm may equal its control")
    if not len(trainer.fixed.features):
        notes.append("no feature is discriminative: D is empty and the Q term does nothing")
    if "control" not in settings.arms:
        notes.append("no control was trained as long: what an arm gained over the base may be due to training on alone")
    progress.note(**dict.fromkeys(("epoch", "loss", "spread", "rank")))  # of the arm that was trained last
    judged: list[tuple[str, int, Judged]] = [("base", -1, base)]
    for one, prefixed in zip(trained, _prefixed(progress, trained), strict=True):
        after = judge(workspace, settings.dataset, one.encoder, settings.eps, base, prefixed, **settings.machine())
        judged.append((one.arm, one.seed, after))
        notes += [note for note in [*one.notes, *after.notes] if note not in notes]
    if others := list(dict.fromkeys(f"{arm} {one.eps:g}" for arm, _, one in judged if one.eps != base.eps)):
        notes.append(
            f"eps is chosen for each encoder: {base.eps:g} for the base, {', '.join(others)}. What counts with an arm's own D "
            "(its Q, AUROC, AUPRC, heatmaps) differs by that too"
        )
    if base.l2 and (others := list(dict.fromkeys(f"{arm} {one.l2:g}" for arm, _, one in judged if one.l2 != base.l2))):
        notes.append(
            f"the probe's L2 is chosen for each encoder: {base.l2:g} for the base, {', '.join(others)}. "
            "On 60 % of the features all have the base's"
        )
    everywhere = set.intersection(*(set(one.images.index) for _, _, one in judged))
    if not everywhere:
        raise InputError(f"no {base.split} image could be judged by every encoder. Is the data set's folder still there?")
    if lost := len(set.union(*(set(one.images.index) for _, _, one in judged)) - everywhere):
        notes.append(f"{lost:,} {base.split} images could not be judged by every encoder and are left out")
    return [(arm, seed, replace(one, images=one.images.loc[sorted(everywhere)])) for arm, seed, one in judged], notes


def _differences(judged: "list[tuple[str, int, Judged]]") -> "pd.DataFrame":
    """Each arm less the base, and less the control if there is one; of heatmaps on the images that all have."""
    import pandas as pd

    from sslviz.analysis.mending import differences

    seen = set.intersection(*(set(one.looks.index) for _, _, one in judged))
    images: dict[str, list[pd.DataFrame]] = {}
    looks: dict[str, list[pd.DataFrame]] = {}
    for arm, _, one in judged:
        images.setdefault(arm, []).append(one.images)
        looks.setdefault(arm, []).append(one.looks[one.looks.index.isin(seen)])
    against = [arm for arm in ("base", "control") if arm in images]
    of_looks = differences(looks, against)
    return pd.concat([differences(images, against), of_looks[of_looks["figure"] != "top1"]], ignore_index=True)


def _prefixed(progress: Progress, arms: "Sequence[Plan | Trained]") -> list[Prefixed]:
    """The progress of each arm, after its name and place."""
    return [Prefixed(progress, f"{one.arm}, seed {one.seed} ({k} of {len(arms)})") for k, one in enumerate(arms, start=1)]


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
    """What a fine-tuning needs here: steps over all arms and seeds, their seconds, and GB of memory beside what is free.

    Not in the seconds: to cut views from files, to watch a sample every epoch, and to judge each encoder afterwards.
    """

    head: str
    encoders: int
    steps: int
    seconds: float
    memory: float
    free: float

    @property
    def words(self) -> str:
        hours = f"{self.seconds / 3600:.1f} h" if self.seconds >= 5400 else f"{max(1, self.seconds / 60):.0f} min"
        return (
            f"{self.steps:,} steps of training, about {hours} here without reading files and watching, {self.memory:.1f} GB of "
            f"memory ({self.free:.1f} GB are free); then {self.encoders:,} encoder{'s' * (self.encoders > 1)} to judge"
        )


def estimate(settings: FinetuneSettings, origin: "Origin", n: int) -> Estimate:
    """Measured on a few images, for a process of those that share the batch; nothing is touched. n: images trained on.

    Raises InputError for what this memory cannot hold.
    """
    import torch

    from sslviz.encoders.run import pick_device
    from sslviz.jobs.inputs import available_memory
    from sslviz.jobs.training import held_in_memory, processes
    from sslviz.training.estimate import step_cost

    device, made = torch.device(pick_device(settings.device)), origin.made
    world, here = processes(settings.processes)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    cost = step_cost(origin.method(), made.views, made.size, settings.batch_size // world, device, settings.precision)
    shared = device.type != "cuda"  # one memory for all processes and their pictures
    held = held_in_memory(n, made.size, settings.input) if shared else 0
    encoders = len(set(settings.arms)) * len(set(settings.seeds))
    steps = n // settings.batch_size * settings.pace()[0] * encoders
    if origin.head is None:
        steps += n // settings.batch_size * settings.head_epochs
    found = Estimate(
        head="; ".join(origin.notes) or f"goes on with its own {made.method} head",
        encoders=encoders,
        steps=steps,
        seconds=cost.seconds * steps,
        memory=(cost.bytes + held) * (here if shared else 1) / 1e9,
        free=free / 1e9,
    )
    if found.memory > found.free:
        pictures, files = (" and the pictures need", "--input files, or ") if held else (" needs", "")
        raise InputError(
            f"a step of {settings.batch_size} images{pictures} about {found.memory:.1f} GB of memory, {found.free:.1f} GB are "
            f"free. Choose {files}a smaller --batch-size."
        )
    return found

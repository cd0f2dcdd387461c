"""Pre-train an encoder of our own on a data set's images, without labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from sslviz.errors import InputError
from sslviz.jobs import AnyDataset, Device, Processes, Seed, Settings, TrainingBatch, TrainingWorkers, command_of, job, readers
from sslviz.jobs.training import LARGE
from sslviz.progress import Progress
from sslviz.store.files import only_writer, read_json, write_json
from sslviz.store.fingerprints import fingerprint
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from sslviz.data.dataset import Dataset
    from sslviz.methods import Made, Views


class PretrainSettings(Settings):
    dataset: AnyDataset
    method: str = Field("simclr", description="simclr, moco (v2), byol, dino, simsiam, swav, vicreg or barlow_twins")
    name: str = Field("", description="name of the encoder that is made; default METHOD-DATASET")
    epochs: int = Field(100, ge=1, le=10_000, description="passes over the train images")
    batch_size: TrainingBatch = 256
    lr: float | None = Field(None, gt=0, description="peak learning rate; default the method's, scaled with the batch")
    warmup_epochs: int | None = Field(None, ge=0, description="epochs of linear warm-up; default the method's")
    weight_decay: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="of weight matrices and kernels, every step; default the method's"
    )
    crop_min: float | None = Field(
        None, gt=0, le=1, description="smallest share of a picture that a view shows; default the method's"
    )
    jitter: float = Field(1.0, ge=0, le=5, description="strength of the views' colour jitter, times the method's")
    local_views: int | None = Field(None, ge=0, le=16, description="small views beside the two whole ones; default the method's")
    blur: bool | None = Field(None, description="blur and solarise views as published; default only from 96 pixels on")
    hidden_dim: int | None = Field(None, ge=8, le=65_536, description="hidden width of the heads; default the method's")
    output_dim: int | None = Field(None, ge=8, le=65_536, description="output width of the heads; default the method's")
    temperature: float | None = Field(
        None, gt=0, description="temperature of the loss, for methods that have one; default the method's"
    )
    momentum: float | None = Field(
        None, gt=0, lt=1, description="momentum of the second network's average, for methods that have one; default the method's"
    )
    prototypes: int | None = Field(None, ge=2, description="number of SwAV's prototypes; default the method's")
    epsilon: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="SwAV: how soft the assignments to prototypes are; default the method's"
    )
    queue_size: int | None = Field(None, ge=1, description="keys that MoCo remembers; default the method's")
    size: int = Field(32, ge=16, le=256, description="side of the views, in pixels")
    input: Literal["auto", "memory", "files"] = Field(
        "auto", description="hold pictures at this size, or cut views from the files; auto: files from 96 pixels on"
    )
    width: int = Field(32, ge=8, le=256, description="channels of the first stage of the small ResNet")
    stem_stride: int = Field(1, ge=1, le=2, description="2 halves the resolution at once: four times faster, coarser maps")
    feature_dim: int = Field(512, ge=8, le=8192, description="features of the representation")
    snapshot_every: int = Field(0, ge=0, description="also keep the encoder every so many epochs, as NAME-eEPOCH; 0 never")
    seed: Seed = Field(0, description="random seed of weights, order and views")
    device: Device = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field("auto", description="auto measures which is faster here")
    workers: TrainingWorkers = None
    processes: Processes = 1


@job(
    "pretrain",
    PretrainSettings,
    example="sslviz pretrain --dataset photos --method simclr --epochs 100",
    trains=True,
)
def pretrain(settings: PretrainSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Pre-train an encoder on a data set's train images, without labels."""
    import torch

    from sslviz.data import dataset as datasets
    from sslviz.encoders.backbones import BACKBONES
    from sslviz.encoders.spec import EncoderSpec, InputSpec
    from sslviz.encoders.store import save_encoder
    from sslviz.jobs.training import (
        cut_from_files,
        fabric_for,
        left_out_by_all,
        measured_precision,
        sample_of,
        train_ids,
        train_images,
    )
    from sslviz.methods import METHODS
    from sslviz.methods.heads import take_apart
    from sslviz.store.workspace import check_name
    from sslviz.training.loop import Schedule, collapse, train

    folder = progress.folder
    if folder is None:
        raise ValueError("pretrain needs a run folder for its checkpoint")
    name = check_name("encoder", settings.name or f"{settings.method}-{settings.dataset}")
    every = settings.snapshot_every or settings.epochs
    snapshots = {epoch: f"{name}-e{epoch:03d}" for epoch in range(every, settings.epochs, every)}
    for wanted in (name, *snapshots.values()):
        check_name("encoder", wanted)
        if not (folder / "checkpoint.pt").exists() or not _is_own(workspace, wanted, settings):
            workspace.check_new_encoder(wanted)
    if (settings.warmup_epochs or 0) >= settings.epochs:
        raise InputError(f"warmup-epochs: expected fewer than the {settings.epochs} epochs (got {settings.warmup_epochs}).")
    made = made_with(settings)
    method_class = METHODS[settings.method]
    dataset, _ = datasets.refresh(workspace, settings.dataset)
    ids = train_ids(dataset)
    _check_images(dataset, ids, folder)
    from_files = cut_from_files(dataset, len(ids), settings.size, settings.input, folder)
    workers = readers(settings.workers)
    source = train_images(dataset, ids, settings.size, from_files, workers, folder, progress)
    if len(source) < settings.batch_size:
        raise InputError(
            f'data set "{dataset.name}" has {len(source):,} train images; expected at least one batch of '
            f"{settings.batch_size}. Choose a smaller --batch-size or another data set."
        )

    torch.manual_seed(settings.seed)
    architecture = {
        "width": settings.width,
        "blocks": 2,
        "stem_stride": settings.stem_stride,
        "feature_dim": settings.feature_dim,
    }
    backbone = BACKBONES["small_resnet"].build(architecture)
    method = method_class(backbone, settings.feature_dim, made.options, made.views.n_views)
    precision: str = settings.precision
    if precision == "auto":
        precision = measured_precision(method, made.views, settings.size, settings.batch_size, settings.device, folder)
    fabric = fabric_for(settings.device, precision)
    device = fabric.device.type
    progress.note(device=device, precision=precision, images=len(source))

    recipe = method_class.recipe
    lr = settings.lr or recipe.base_lr * settings.batch_size / 256
    warmup = settings.warmup_epochs
    if warmup is None:
        warmup = recipe.warmup_epochs if recipe.warmup_epochs < settings.epochs else settings.epochs // 10
    sample = sample_of(source, dataset, ids, settings.size, workers, settings.seed, progress)
    alike = ""
    if bool((sample == sample[:1]).all()):
        alike = f"all {len(source):,} train images are the same picture: there is nothing to tell apart, so training collapses."
        progress.warn(alike)
    pixels = sample.float().div(255)
    normalise = _triple(pixels.mean((0, 2, 3))), _triple(pixels.std((0, 2, 3)).clamp_min(1e-3))
    input_spec = InputSpec(size=settings.size, resize=settings.size, mean=normalise[0], std=normalise[1])

    def export(as_name: str, rows: Sequence[Mapping[Any, float]]) -> None:
        epoch = len(rows)
        card = {
            "command": command_of("pretrain", settings),
            "epochs": epoch,
            "curve": {c: [float(f"{row[c]:.5g}") for row in rows] for c in ("loss", "spread", "rank")},
        }
        spec = EncoderSpec(
            name=as_name,
            backbone="small_resnet",
            architecture=architecture,
            feature_dim=settings.feature_dim,
            input=input_spec,
            method=settings.method,
            network=method_class.branch,
            source=f"sslviz pretrain on {dataset.name} ({len(source):,} images), epoch {epoch} of {settings.epochs}",
            notes=(command_of("pretrain", settings),),
        )
        with only_writer(workspace.encoder(as_name), f"encoder {as_name}", wait=True):
            if not _is_own(workspace, as_name, settings):  # another may have been added meanwhile
                workspace.check_new_encoder(as_name)
            save_encoder(workspace, spec, made.kept(method).state_dict(), take_apart(method, made), card)

    def every_epoch(rows: list[dict[str, float]]) -> dict[str, float]:
        if len(rows) in snapshots:
            export(snapshots[len(rows)], rows)
        return {}

    schedule = Schedule(settings.epochs, settings.batch_size, lr, warmup, settings.seed, weight_decay=settings.weight_decay)
    place = source, settings.size, normalise, schedule, folder, fabric, progress
    metrics = train(method, made.views, *place, every_epoch if snapshots else None)
    left_out = left_out_by_all(source, fabric)
    if not fabric.is_global_zero:
        return {}
    export(name, metrics.to_dict("records"))
    last = metrics.iloc[-1]
    return {
        "encoder": name,
        "epochs": settings.epochs,
        "loss": float(last["loss"]),
        "spread": float(last["spread"]),
        "rank": float(last["rank"]),
        "collapse": collapse(metrics.to_dict("records"), method.idle_loss) or alike,
        "precision": precision,
        "device": device,
        "left_out": left_out,
    }


def _is_own(workspace: Workspace, name: str, settings: PretrainSettings) -> bool:
    """Whether the encoder of this name is one that a run of these very settings left."""
    from sslviz.encoders.spec import load_spec

    return name in workspace.encoders() and load_spec(workspace, name).notes == (command_of("pretrain", settings),)


def _check_images(dataset: "Dataset", ids: list[str], folder: "Path") -> None:
    """Raises InputError where a run goes on with other images than it began with: its order and schedule are theirs."""
    sizes = dataset.samples.set_index("sample_id").loc[ids, "size"]
    images, record = fingerprint([ids, sizes.tolist()]), folder / "images.json"
    if (folder / "checkpoint.pt").exists() and record.exists() and read_json(record) != images:
        raise InputError(
            f'the train images of data set "{dataset.name}" changed since this run began. Put them back, or delete the run and '
            f"start again: sslviz runs delete {folder.name}"
        )
    write_json(record, images)


def made_with(settings: PretrainSettings) -> "Made":
    """What these settings make the method's heads and views of."""
    from sslviz.methods import ASKED, METHODS, Made

    method = METHODS[settings.method]
    options = method.options.changed(settings.method, **{name: getattr(settings, name) for name in ASKED})
    return Made(method=settings.method, options=options, views=_views(method.views, settings), size=settings.size)


def _views(own: "Views", settings: PretrainSettings) -> "Views":
    """The method's views with what the settings change; local views go on from where the global ones end, as published."""
    if settings.local_views and not own.n_local:
        raise InputError(f"{settings.method} compares whole views; leave --local-views out.")
    low = settings.crop_min or own.scale[0]
    ratio = low / own.scale[0]
    blur = settings.size >= LARGE if settings.blur is None else settings.blur
    return replace(
        own,
        scale=(low, own.scale[1]),
        local_scale=(own.local_scale[0] * ratio, own.local_scale[1] * ratio),
        n_local=own.n_local if settings.local_views is None else settings.local_views,
        jitter=cast(Any, tuple(settings.jitter * strength for strength in own.jitter)),
        blur=own.blur if blur else (0.0, 0.0),
        solarise=own.solarise if blur else (0.0, 0.0),
    )


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (round(float(v), 4) for v in values)
    return a, b, c

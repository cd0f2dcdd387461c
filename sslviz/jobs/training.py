"""What the jobs that train have in common: where pictures come from, on which device and in which precision."""

import os
import time
from typing import TYPE_CHECKING, Any

from sslviz.errors import InputError, shown
from sslviz.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    import lightning
    import torch

    from sslviz.data.dataset import Dataset
    from sslviz.methods import Method, Views
    from sslviz.training.sources import Source

LARGE = 96  # pixels: views this large are blurred (SimCLR leaves blur out on CIFAR-10, appendix B.9) and cut from the files
_SAMPLE = 2000


def train_ids(dataset: "Dataset", most: int = 0) -> list[str]:
    """Of the images that are trained on: all of the train split or, where `most` is above 0, a fixed draw of at most so many."""
    from sslviz.jobs.inputs import sampled

    ids = dataset.samples.loc[dataset.samples["split"] == "train", "sample_id"].to_numpy()
    found: list[str] = (sampled(ids, most, 0) if most else ids).tolist()
    return found


def train_images(
    dataset: "Dataset", ids: list[str], size: int, from_files: bool, workers: int, folder: "Path", progress: Progress
) -> "Source":
    """The source of these images at this size: their files, or all of them in memory.

    In memory, the order of all depends on which could be read: folder/left_out.json keeps it, so that a training that has begun
    goes on with the very same ones. Raises InputError where one of them cannot be read any more.
    """
    from sslviz.data.loading import load_pixels
    from sslviz.store.files import read_json, write_json
    from sslviz.training.sources import Files, InMemory

    assert dataset.root is not None
    if from_files:
        return Files(dataset.root, ids, workers, progress.warn)
    record = folder / "left_out.json"
    begun = record.exists() and any(any(folder.rglob(name)) for name in ("checkpoint.pt", "metrics.parquet"))
    left_out: dict[str, str] = read_json(record) if begun else {}
    pixels, bad = load_pixels(dataset.root, [i for i in ids if i not in left_out], size, workers, progress)
    if begun and bad:
        raise InputError(
            f"{shown(list(bad))} could be read when this run began. Put back what is missing, or delete the run and start "
            f"again: sslviz runs delete {folder.name}"
        )
    if not begun:
        left_out = bad
        write_json(record, left_out)
    lines = [f"{sample_id}: {reason}" for sample_id, reason in left_out.items()]
    if lines:
        progress.warn(f"{len(lines)} files left out: " + "; ".join(lines[:3]) + ("; …" if len(lines) > 3 else ""))
    return InMemory(pixels, lines)


def sample_of(
    source: "Source", dataset: "Dataset", ids: list[str], size: int, workers: int, seed: int, progress: Progress
) -> "torch.Tensor":
    """Pixels uint8[n, 3, size, size] of at most 5,000 of the source's images; where it reads files, of at most 2,000."""
    import numpy as np
    import torch

    from sslviz.data.loading import load_pixels
    from sslviz.jobs.inputs import sampled
    from sslviz.training.sources import InMemory

    if isinstance(source, InMemory):
        return source.pixels[torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:5000]]
    assert dataset.root is not None
    return load_pixels(dataset.root, sampled(np.array(ids), _SAMPLE, seed).tolist(), size, workers, progress)[0]


def left_out_by_all(source: "Source", fabric: "lightning.Fabric") -> list[str]:
    """The files that could not be read, whichever process of the run met them."""
    from torch import distributed

    if fabric.world_size == 1:
        return sorted(source.left_out)
    met: list[list[str]] = [[] for _ in range(fabric.world_size)]
    distributed.all_gather_object(met, source.left_out)
    return sorted({line for lines in met for line in lines})


def cut_from_files(dataset: "Dataset", n: int, size: int, kind: str, folder: "Path") -> bool:
    """Whether a run cuts the views of n images from the files (kind "files", or "auto" for large ones or where memory is
    short), or from pictures in memory. The first process decides; folder/input.json keeps it, so that a resumed run goes on
    alike.

    Raises InputError for a data set without pictures, or one that memory cannot hold.
    """
    from sslviz.jobs.runner import rank
    from sslviz.store.files import read_json, write_json

    record = folder / "input.json"
    if rank() == 0 and not record.exists():
        write_json(record, {"from_files": _from_files(dataset, n, size, kind)})
    while not record.exists():
        time.sleep(0.1)
    return bool(read_json(record)["from_files"])


def _from_files(dataset: "Dataset", n: int, size: int, kind: str) -> bool:
    if dataset.root is None:
        raise InputError(f'data set "{dataset.name}" has arrays only; training needs images.')
    return not held_in_memory(n, size, kind)


def held_in_memory(n: int, size: int, kind: str) -> int:
    """Bytes of n pictures that a process of a run holds in memory; 0 where it cuts their views from the files, see
    `cut_from_files`. Raises InputError where they were asked into memory and do not fit."""
    from sslviz.jobs.inputs import available_memory

    bytes_needed = n * 3 * size**2
    fits = bytes_needed < 0.5 * available_memory()
    if kind == "memory" and not fits:
        raise InputError(
            f"{n:,} images of {size} px need {bytes_needed / 1e9:.1f} GB of memory, more than half of "
            f"what is free. Choose --input files, or a smaller --size."
        )
    return 0 if kind == "files" or (kind == "auto" and (size >= LARGE or not fits)) else bytes_needed


def measured_precision(method: "Method", views: "Views", size: int, batch_size: int, device: str, folder: "Path") -> str:
    """The faster precision on this device, measured once: folder/precision.json keeps it, so that a resumed run goes on in it.

    Several processes on CPUs run in float32.
    """
    from sslviz.encoders.run import pick_device
    from sslviz.store.files import read_json, write_json
    from sslviz.training.loop import choose_precision

    device = pick_device(device)
    if processes()[0] > 1 and device == "cpu":
        return "32-true"
    record = folder / "precision.json"
    if not record.exists():
        write_json(record, {"precision": choose_precision(method, views, size, batch_size, device)})
    return str(read_json(record)["precision"])


def fabric_for(device: str, precision: Any) -> "lightning.Fabric":
    """Fabric on a device ("auto" takes a GPU if there is one); under torchrun or SLURM all processes of the run are joined."""
    from datetime import timedelta

    import lightning
    from lightning.fabric.strategies import DDPStrategy

    from sslviz.encoders.run import pick_device

    accelerator, (world, here) = pick_device(device), processes()
    if world == 1:
        return lightning.Fabric(accelerator=accelerator, devices=1, precision=precision)
    strategy = DDPStrategy(timeout=timedelta(days=7))  # the first process may be judging while the others wait
    nodes = world // here
    fabric = lightning.Fabric(accelerator=accelerator, devices=here, num_nodes=nodes, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


def processes(asked: int = 1) -> tuple[int, int]:
    """(processes of this run, how many of them on this machine), as torchrun or SLURM started them; before that, as asked for."""
    own = os.environ
    world = int(own.get("WORLD_SIZE") or own.get("SLURM_NTASKS") or asked)
    return world, int(own.get("LOCAL_WORLD_SIZE") or own.get("SLURM_NTASKS_PER_NODE") or world)

"""Pre-training against a plain PyTorch loop, file reading against bare decoding, and views against lightly's per-image ones.

python -m benchmarks.training
"""

import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torchvision.transforms import v2

from benchmarks.embed_speed import pictures
from benchmarks.machine import describe
from sslviz.encoders.backbones.small_resnet import SmallResNet
from sslviz.methods import METHODS, Views
from sslviz.progress import Progress
from sslviz.training.loop import Schedule, train
from sslviz.training.sources import Files, InMemory, Planned
from sslviz.training.views import crop, draw_crops, recolour

SIZE, BATCH, N = 64, 128, 1024
VIEWS = Views(scale=(0.08, 1.0), blur=(0.5, 0.5))
NORMALISE = ((0.5,) * 3, (0.25,) * 3)


def backbone() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(width=24, stem_stride=2)


def our_loop(images: torch.Tensor, epochs: int) -> None:
    cls = METHODS["simclr"]
    method = cls(backbone(), 512, cls.options, 2)
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="32-true")
    with tempfile.TemporaryDirectory() as folder:
        schedule = Schedule(epochs, BATCH, 0.1, 0, 0)
        train(method, VIEWS, InMemory(images), SIZE, NORMALISE, schedule, Path(folder), fabric, Progress())


def plain_loop(images: torch.Tensor, epochs: int) -> None:
    """What one would write by hand: no checkpoint, no watch over collapse, no schedule."""
    net, head = backbone().to(memory_format=torch.channels_last), SimCLRProjectionHead(512, 512, 128)
    criterion = NTXentLoss(0.5)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            batch = images[rows].float() / 255
            shown = recolour([crop(batch, c) for c in draw_crops(BATCH, VIEWS, SIZE, generator)], VIEWS, generator)
            x = ((torch.cat(shown) - 0.5) / 0.25).to(memory_format=torch.channels_last)
            loss = criterion(*head(net(x)).chunk(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def faster(title: str, ours: Callable[[], None], theirs: Callable[[], None], views: int, rounds: int = 3) -> None:
    """Both in turn, best of the rounds; views a second and their ratio."""
    ours(), theirs()
    seconds = [[], []]
    for _ in range(rounds):
        for k, work in enumerate((ours, theirs)):
            start = time.perf_counter()
            work()
            seconds[k].append(time.perf_counter() - start)
    a, b = (views / min(s) for s in seconds)
    print(f"{title}: {a:.0f} views/s against {b:.0f}, ratio {a / b:.2f}", flush=True)


def loops() -> None:
    images = torch.randint(0, 255, (N, 3, 96, 96), dtype=torch.uint8)
    faster("the loop against a plain one", lambda: our_loop(images, 2), lambda: plain_loop(images, 2), 2 * 2 * N)


def against_lightly(size: int, stored: int) -> None:
    """Views of `size` pixels out of pictures of `stored` pixels, alone and with the network's step."""
    pixels = torch.nn.functional.interpolate(torch.rand(BATCH, 3, 12, 12), (stored, stored), mode="bicubic").clamp(0, 1)
    photos = [Image.fromarray((p * 255).byte().permute(1, 2, 0).numpy()) for p in pixels]
    transform = SimCLRTransform(input_size=size, cj_strength=0.5, gaussian_blur=0.5, min_scale=0.08)
    generator = torch.Generator().manual_seed(0)
    net, head, criterion = backbone().to(memory_format=torch.channels_last), SimCLRProjectionHead(512, 512, 128), NTXentLoss(0.5)

    def our_views() -> list[torch.Tensor]:
        return recolour([crop(pixels, c) for c in draw_crops(BATCH, VIEWS, size, generator)], VIEWS, generator)

    def lightly_views() -> list[torch.Tensor]:
        return [torch.stack(list(view)) for view in zip(*(transform(photo) for photo in photos), strict=True)]

    def step(views: Callable[[], list[torch.Tensor]]) -> None:
        x = torch.cat(views()).to(memory_format=torch.channels_last)
        criterion(*head(net(x)).chunk(2)).backward()

    faster(f"{size} px, views alone against lightly's", our_views, lightly_views, 2 * BATCH)
    faster(f"{size} px, a step with them", lambda: step(our_views), lambda: step(lightly_views), 2 * BATCH)


def files(n: int = 2000) -> None:
    """One worker process; the peer is decode + RandomResizedCrop alone, twice from one decoded picture, in this process."""
    views = Views()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pictures(root, n, 500, 375)
        ids = sorted(str(p.relative_to(root)) for p in root.rglob("*.jpg"))
        cut = v2.RandomResizedCrop(224, scale=views.scale)

        def ours() -> None:
            generator = torch.Generator().manual_seed(0)
            order = torch.randperm(n, generator=generator).split(64)
            plan = (Planned(rows.tolist(), draw_crops(len(rows), views, 224, generator)) for rows in order)
            for _ in Files(root, ids, 1, print).batches(plan, torch.device("cpu")):
                pass

        def bare() -> None:
            for sample_id in random.sample(ids, n):
                photo = Image.open(root / sample_id).convert("RGB")
                cut(photo), cut(photo)

        faster("files, one worker, against decode + RandomResizedCrop alone", ours, bare, 2 * n, rounds=2)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        for _ in range(3):
            ours()
        after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        print(f"largest worker: {before:.0f} MB after three passes, {after:.0f} MB after six")


if __name__ == "__main__":
    print(describe())
    torch.set_num_threads(1)
    print("one thread")
    loops()
    against_lightly(64, 96)
    against_lightly(32, 32)
    files()

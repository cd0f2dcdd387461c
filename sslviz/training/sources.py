"""Where views come from: pictures held in memory, or files that are read, and cut, as they are needed. One loop takes both."""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from sslviz.data.images import FORMATS, BadImage, decode
from sslviz.errors import UNREAD, RunFailed
from sslviz.training.views import Crops, crop, part

_SAID = 3  # files that cannot be read are said one by one, the rest at once


class Planned(NamedTuple):
    """One step: which images, and which parts of them."""

    rows: list[int]
    crops: list[Crops]


class Source(Protocol):
    """Images by row."""

    left_out: list[str]
    """"SAMPLE_ID: reason" of the files that could not be read, so far."""

    def __len__(self) -> int: ...

    def batches(self, plan: Iterable[Planned], device: torch.device) -> Iterator[list[torch.Tensor]]:
        """For each planned step its views, float[B, 3, side, side] in 0..1 on the device."""
        ...


class InMemory:
    """Pixels uint8[N, 3, H, W]; cut on the device."""

    def __init__(self, pixels: torch.Tensor, left_out: Sequence[str] = ()) -> None:
        self.pixels = pixels
        self.left_out = list(left_out)

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, plan: Iterable[Planned], device: torch.device) -> Iterator[list[torch.Tensor]]:
        for rows, crops in plan:
            images = self.pixels[rows].to(device).float().div_(255)
            yield [crop(images, each) for each in crops]


class Files:
    """Pictures below a folder, read by worker processes. A file that cannot be read is told once to `say`, and its place in
    each batch is taken by another image of that batch."""

    def __init__(self, root: Path, sample_ids: list[str], workers: int, say: Callable[[str], None]) -> None:
        self.root = root
        self.sample_ids = sample_ids
        self.workers = workers
        self.say = say
        self.left_out: list[str] = []
        self._told: set[int] = set()

    def __len__(self) -> int:
        return len(self.sample_ids)

    def batches(self, plan: Iterable[Planned], device: torch.device) -> Iterator[list[torch.Tensor]]:
        loader: DataLoader[Any] = DataLoader(
            _Cuts(self.root, self.sample_ids),
            batch_sampler=_Steps(plan),
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
        )
        for views, bad in loader:
            for row, reason in bad:
                if row not in self._told:
                    self._told.add(row)
                    self.left_out.append(f"{self.sample_ids[row]}: {reason}")
                    if len(self.left_out) <= _SAID:
                        self.say(f"{self.left_out[-1]}; another image takes its place")
                    elif len(self.left_out) == _SAID + 1:
                        self.say("more files cannot be read: the result lists them all")
            if not views:
                raise RunFailed(
                    f"none of {len(bad)} images of a batch can be read, {self.sample_ids[bad[0][0]]} among them. "
                    "Is the data set's folder still there? Then resume the run."
                )
            yield [view.to(device, non_blocking=True).float().div_(255) for view in views]


class _Steps:
    """A batch sampler whose batches are the planned steps: a row, and one image's share of each view's crops."""

    def __init__(self, plan: Iterable[Planned]) -> None:
        self.plan = plan

    def __iter__(self) -> Iterator[list[tuple[int, list[tuple[float, ...]]]]]:
        for rows, crops in self.plan:
            numbers = [list(zip(*(v.tolist() for v in each[:5]), [each.side] * len(rows), strict=True)) for each in crops]
            yield list(zip(rows, (list(of_image) for of_image in zip(*numbers, strict=True)), strict=True))


class _Cuts(Dataset[Any]):
    def __init__(self, root: Path, sample_ids: list[str]) -> None:
        self.root = root
        self.sample_ids = sample_ids

    def __getitem__(self, asked: tuple[int, list[tuple[float, ...]]]) -> tuple[int, list[torch.Tensor] | str]:
        row, crops = asked
        try:
            return row, cut_file((self.root / self.sample_ids[row]).read_bytes(), crops)
        except OSError as error:
            return row, f"{UNREAD} ({error.strerror})"
        except BadImage as error:
            return row, str(error)


def _collate(items: list[tuple[int, list[torch.Tensor] | str]]) -> tuple[list[torch.Tensor], list[tuple[int, str]]]:
    bad = [(row, made) for row, made in items if isinstance(made, str)]
    good = [made for _, made in items if not isinstance(made, str)]
    if not good:
        return [], bad
    whole = [good[k % len(good)] if isinstance(made, str) else made for k, (_, made) in enumerate(items)]
    return [torch.stack(list(view)) for view in zip(*whole, strict=True)], bad


def cut_file(content: bytes, crops: list[tuple[float, ...]]) -> list[torch.Tensor]:
    """Parts of one picture file, each uint8[3, side, side]; a crop is (area, ratio, x, y, flip, side), as in `Crops`.

    A JPEG is decoded once, at the smallest of its scales (1, 1/2, 1/4, 1/8) at which no part has to be enlarged. At full scale
    parts begin and end on whole pixels, as torchvision's do. Raises BadImage.
    """
    smaller = _decoded_smaller(content, crops)
    if smaller is not None:
        return [_cut_between_pixels(smaller, *each) for each in crops]
    pixels = decode(content).pixels
    return [_cut(pixels, *each) for each in crops]


def _decoded_smaller(content: bytes, crops: list[tuple[float, ...]]) -> Image.Image | None:
    """The upright picture at half its resolution or less; None where it is no JPEG, is damaged, or must be larger."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
        scale = _scale_needed(width, height, crops)
        if image.format != "JPEG" or image.mode not in {"RGB", "L"} or scale > 0.5:
            return None
        image.draft("RGB", (math.ceil(scale * width), math.ceil(scale * height)))
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception:
        return None  # decode says what is wrong with it


def _scale_needed(width: int, height: int, crops: list[tuple[float, ...]]) -> float:
    """The share of the full resolution at which every part still has the pixels it is resized to."""
    needed = 0.0
    for area, ratio, _, _, _, side in crops:
        across, down = part(area, ratio, height, width)
        turned = part(area, ratio, width, height)  # a picture lying on its side is turned after decoding
        needed = max(needed, side / (min(across, turned[1], 1) * width), side / (min(down, turned[0], 1) * height))
    return min(1.0, needed)


def _cut(pixels: torch.Tensor, area: float, ratio: float, x: float, y: float, flip: float, side: float) -> torch.Tensor:
    _, high, wide = pixels.shape
    across, down = part(area, ratio, high, wide)
    width, height = min(wide, max(1, round(across * wide))), min(high, max(1, round(down * high)))
    left, top = round((wide - width) * (x + 1) / 2), round((high - height) * (y + 1) / 2)
    small: torch.Tensor = F.resized_crop(pixels, top, left, height, width, [int(side), int(side)], antialias=True)
    return small.flip(2) if flip else small


def _cut_between_pixels(
    picture: Image.Image, area: float, ratio: float, x: float, y: float, flip: float, side: float
) -> torch.Tensor:
    width, height = (min(v, 1.0) for v in part(area, ratio, picture.height, picture.width))
    left, top = (1 - width) * (x + 1) / 2, (1 - height) * (y + 1) / 2
    box = (left * picture.width, top * picture.height, (left + width) * picture.width, (top + height) * picture.height)
    small = picture.resize((int(side), int(side)), Image.Resampling.BILINEAR, box=box)
    if flip:
        small = ImageOps.mirror(small)
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(int(side), int(side), 3).permute(2, 0, 1)

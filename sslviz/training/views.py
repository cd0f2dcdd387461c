"""Random views: which part of a picture, and in which colours; drawn and applied for a whole batch on its device.

Two steps, because pictures in files are cut while they are read (sources.py) and only then meet the device.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F

from sslviz.methods import Views

Value = TypeVar("Value", float, torch.Tensor)

_GREY = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


class Crops(NamedTuple):
    """Where one view of each image of a batch is cut, each float[B]: share of the area, ratio of width to height, place of
    the part along the room that is left (-1 to 1), flipped (1) or not (0); and the side it is resized to."""

    area: torch.Tensor
    ratio: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    flip: torch.Tensor
    side: int


def draw_crops(n: int, views: Views, size: int, generator: torch.Generator) -> list[Crops]:
    """The parts of n images that `views` shows: the global views first, then the local ones."""
    wanted = [(size, views.scale)] * views.n_views + [(local_size(size), views.local_scale)] * views.n_local
    drawn = []
    for side, scale in wanted:
        area = _uniform(n, *scale, generator)
        ratio = torch.exp(_uniform(n, math.log(3 / 4), math.log(4 / 3), generator))
        x, y = _uniform(n, -1, 1, generator), _uniform(n, -1, 1, generator)
        drawn.append(Crops(area, ratio, x, y, (_uniform(n, 0, 1, generator) < views.flip_share).float(), side))
    return drawn


def local_size(size: int) -> int:
    """Side of a local view: half that of a global one (SwAV and DINO: 96 of 224)."""
    return size // 2


def part(area: Value, ratio: Value, height: int, width: int) -> tuple[Value, Value]:
    """Width and height of a part, as shares of the picture's: `ratio` counts pixels; what does not fit is cut at 1."""
    return (area * ratio * height / width) ** 0.5, (area / ratio * width / height) ** 0.5


def crop(images: torch.Tensor, crops: Crops) -> torch.Tensor:
    """Parts of images float[B, 3, H, W], flipped and resized to float[B, 3, side, side] in one bilinear resampling."""
    n, _, high, wide = images.shape
    area, ratio, x, y, flip = (v.to(images.device) for v in crops[:5])
    width, height = (v.clamp(max=1) for v in part(area, ratio, high, wide))
    x, y = x * (1 - width), y * (1 - height)
    side = 1 - 2 * flip
    zero = torch.zeros_like(x)
    theta = torch.stack([torch.stack([width * side, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = F.affine_grid(theta, [n, 3, crops.side, crops.side], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def recolour(shown: Sequence[torch.Tensor], views: Views, generator: torch.Generator) -> list[torch.Tensor]:
    """Jitter, grey, blur and solarise each view float[B, 3, S, S] in 0..1, every image with parameters of its own.

    Jitter follows torchvision's definitions except that hue is turned in YIQ space (a rotation by the same angle) and
    brightness, contrast, saturation, hue come in this order. Blur is a Gaussian of sigma 0.1 to 2 pixels (SimCLR, appendix
    A) at a side of 224, in proportion at others (ours).
    """
    places = [min(place, 1) if place < views.n_views else len(views.blur) - 1 for place in range(len(shown))]
    return [_recolour(view, views, place, generator) for place, view in zip(places, shown, strict=True)]


def _recolour(out: torch.Tensor, views: Views, place: int, generator: torch.Generator) -> torch.Tensor:
    steps: tuple[tuple[float, Callable[[torch.Tensor], torch.Tensor]], ...] = (
        (views.jitter_share, lambda chosen: _jitter(chosen, views, generator)),
        (views.grey_share, lambda chosen: _grey(chosen).expand_as(chosen)),
        (views.blur[place], lambda chosen: _blur(chosen, generator)),
        (views.solarise[place], lambda chosen: torch.where(chosen >= 0.5, 1 - chosen, chosen)),
    )
    out = out.clone()
    for share, change in steps:
        rows = (_uniform(len(out), 0, 1, generator) < share).nonzero()[:, 0].to(out.device)
        if len(rows):
            out[rows] = change(out[rows])
    return out


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _jitter(images: torch.Tensor, views: Views, generator: torch.Generator) -> torch.Tensor:
    brightness, contrast, saturation, hue = views.jitter
    n = len(images)

    def factor(strength: float) -> torch.Tensor:
        return _uniform(n, max(0.0, 1 - strength), 1 + strength, generator).to(images.device)[:, None, None, None]

    out = images.mul(factor(brightness)).clamp_(0, 1)
    mean = _grey(out).mean((1, 2, 3), keepdim=True)
    strength = factor(contrast)
    out = out.mul_(strength).add_(mean * (1 - strength)).clamp_(0, 1)
    # saturation and hue are linear maps of the three channels: one 3x3 matrix a sample
    to_yiq = _TO_YIQ.to(images)
    angle = _uniform(n, -hue, hue, generator).to(images.device) * 2 * math.pi
    colour = factor(saturation).flatten()
    turn = torch.zeros(n, 3, 3, device=images.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = colour * angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -colour * angle.sin(), colour * angle.sin()
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.bmm(matrix, out.flatten(2)).view_as(out).clamp_(0, 1)


def _blur(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    n, channels, height, width = images.shape
    largest = 2.0 * width / 224
    reach = max(1, math.ceil(3 * largest))
    sigma = _uniform(n, 0.05 * largest, largest, generator).to(images.device)
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    out = F.pad(images, (reach,) * 4, mode="reflect").reshape(1, n * channels, height + 2 * reach, width + 2 * reach)
    out = F.conv2d(out, kernel[:, :, :, None], groups=n * channels)
    out = F.conv2d(out, kernel[:, :, None, :], groups=n * channels)
    return out.view_as(images)


def _grey(images: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(_GREY, device=images.device, dtype=images.dtype)
    return torch.einsum("nchw,c->nhw", images, weights)[:, None]

"""Random views of a whole batch on its device, every sample with parameters of its own."""

import math

import torch
import torch.nn.functional as F

from sslviz.methods import Views

_GREY = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def random_views(images: torch.Tensor, views: Views, size: int, generator: torch.Generator) -> list[torch.Tensor]:
    """`views.n_views` random views of images float[B, 3, H, W] in 0..1, each float[B, 3, size, size].

    Crop and flip are one bilinear resampling; jitter follows torchvision's definitions except that hue is turned in
    YIQ space (a rotation by the same angle) and brightness, contrast, saturation, hue come in this order.
    """
    return [_view(images, views, size, generator) for _ in range(views.n_views)]


def _view(images: torch.Tensor, views: Views, size: int, generator: torch.Generator) -> torch.Tensor:
    out = _crop_and_flip(images, views, size, generator)
    jittered = _jitter(out, views, generator)
    n = len(images)
    out = torch.where(_chance(n, views.jitter_share, generator, out), jittered, out)
    grey = _grey(out).expand_as(out)
    return torch.where(_chance(n, views.grey_share, generator, out), grey, out)


def _uniform(n: int, low: float, high: float, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    values = torch.rand(n, generator=generator) * (high - low) + low
    return values.to(like.device)


def _chance(n: int, share: float, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    return (_uniform(n, 0, 1, generator, like) < share)[:, None, None, None]


def _crop_and_flip(images: torch.Tensor, views: Views, size: int, generator: torch.Generator) -> torch.Tensor:
    n = len(images)
    area = _uniform(n, *views.scale, generator, images)
    ratio = torch.exp(_uniform(n, math.log(3 / 4), math.log(4 / 3), generator, images))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x = _uniform(n, -1, 1, generator, images) * (1 - width)
    y = _uniform(n, -1, 1, generator, images) * (1 - height)
    side = torch.where(_uniform(n, 0, 1, generator, images) < views.flip_share, -1.0, 1.0)
    zero = torch.zeros_like(x)
    theta = torch.stack([torch.stack([width * side, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _jitter(images: torch.Tensor, views: Views, generator: torch.Generator) -> torch.Tensor:
    brightness, contrast, saturation, hue = views.jitter
    n = len(images)

    def factor(strength: float) -> torch.Tensor:
        return _uniform(n, 1 - strength, 1 + strength, generator, images)[:, None, None, None]

    out = (images * factor(brightness)).clamp(0, 1)
    mean = _grey(out).mean((1, 2, 3), keepdim=True)
    out = (mean + (out - mean) * factor(contrast)).clamp(0, 1)
    # saturation and hue are linear maps of the three channels: one 3x3 matrix a sample
    to_yiq = _TO_YIQ.to(images)
    angle = _uniform(n, -hue, hue, generator, images) * 2 * math.pi
    colour = _uniform(n, 1 - saturation, 1 + saturation, generator, images)
    turn = torch.zeros(n, 3, 3, device=images.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = colour * angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -colour * angle.sin(), colour * angle.sin()
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.bmm(matrix, out.flatten(2)).view_as(out).clamp(0, 1)


def _grey(images: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(_GREY, device=images.device, dtype=images.dtype)
    return torch.einsum("nchw,c->nhw", images, weights)[:, None]

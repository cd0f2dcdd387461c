"""Random views of a whole batch on its device, every sample with parameters of its own."""

import math

import torch
import torch.nn.functional as F

from sslviz.methods import Views

_GREY = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def random_views(images: torch.Tensor, views: Views, size: int, generator: torch.Generator) -> list[torch.Tensor]:
    """`views.n_views` random views of images float[B, 3, H, W] in 0..1, each float[B, 3, size, size], then the local ones.

    Crop and flip are one bilinear resampling; jitter follows torchvision's definitions except that hue is turned in
    YIQ space (a rotation by the same angle) and brightness, contrast, saturation, hue come in this order. Blur is a Gaussian
    of sigma 0.1 to 2 pixels at a side of 224, in proportion at others (SimCLR, appendix A).
    """
    wanted = [(size, views.scale)] * views.n_views + [(local_size(size), views.local_scale)] * views.n_local
    return [_view(images, views, min(k, 1), side, scale, generator) for k, (side, scale) in enumerate(wanted)]


def local_size(size: int) -> int:
    """Side of a local view: half that of a global one (SwAV and DINO: 96 of 224)."""
    return size // 2


def _view(
    images: torch.Tensor, views: Views, place: int, size: int, scale: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    out = _crop_and_flip(images, views, scale, size, generator)
    jittered = _jitter(out, views, generator)
    n = len(images)
    out = torch.where(_chance(n, views.jitter_share, generator, out), jittered, out)
    grey = _grey(out).expand_as(out)
    out = torch.where(_chance(n, views.grey_share, generator, out), grey, out)
    if views.blur[place]:
        out = torch.where(_chance(n, views.blur[place], generator, out), _blur(out, generator), out)
    if views.solarise[place]:
        inverted = torch.where(out >= 0.5, 1 - out, out)
        out = torch.where(_chance(n, views.solarise[place], generator, out), inverted, out)
    return out


def _uniform(n: int, low: float, high: float, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    values = torch.rand(n, generator=generator) * (high - low) + low
    return values.to(like.device)


def _chance(n: int, share: float, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    return (_uniform(n, 0, 1, generator, like) < share)[:, None, None, None]


def _crop_and_flip(
    images: torch.Tensor, views: Views, scale: tuple[float, float], size: int, generator: torch.Generator
) -> torch.Tensor:
    n = len(images)
    area = _uniform(n, *scale, generator, images)
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


def _blur(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    n, channels, height, width = images.shape
    largest = 2.0 * width / 224
    reach = max(1, math.ceil(3 * largest))
    sigma = _uniform(n, 0.05 * largest, largest, generator, images)
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

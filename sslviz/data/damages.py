"""Ways to damage a picture that a good score must notice, applied to what the encoder sees. A new one is one function here."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from sslviz.registry import Registry

Damage = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""(pictures float[B, 3, S, S] in 0..255, random numbers) -> the same pictures, damaged."""

DAMAGES: Registry[Damage] = Registry("damage")


def damage(pictures: torch.Tensor, name: str, seed: int = 0) -> torch.Tensor:
    """Damaged copies of pictures uint8[B, 3, S, S]."""
    made = DAMAGES[name](pictures.float(), torch.Generator().manual_seed(seed))
    return made.round().clamp(0, 255).to(torch.uint8)


def _mean_colour(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.mean((2, 3), keepdim=True)


@DAMAGES.register("covered")
def covered(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A square of the picture's mean colour over the middle: half the side, a quarter of the area."""
    side = pictures.shape[-1]
    low, high = side // 4, side - side // 4
    out = pictures.clone()
    out[:, :, low:high, low:high] = _mean_colour(pictures)
    return out


@DAMAGES.register("shrunk")
def shrunk(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The whole picture at half its size, in the middle of its mean colour."""
    side = pictures.shape[-1]
    half = F.interpolate(pictures, size=(side // 2, side // 2), mode="bilinear", antialias=True)
    out = _mean_colour(pictures).expand_as(pictures).clone()
    low = (side - side // 2) // 2
    out[:, :, low : low + side // 2, low : low + side // 2] = half
    return out


@DAMAGES.register("darkened")
def darkened(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A quarter of the brightness."""
    return pictures / 4


@DAMAGES.register("noised")
def noised(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Normal noise on every value, standard deviation 15 % of the range."""
    return pictures + torch.randn(pictures.shape, generator=generator) * (0.15 * 255)


@DAMAGES.register("blurred")
def blurred(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gaussian blur, standard deviation 4 % of the side."""
    from torchvision.transforms.v2 import functional as V

    sigma = 0.04 * pictures.shape[-1]
    made: torch.Tensor = V.gaussian_blur(pictures, [2 * round(2 * sigma) + 1] * 2, [sigma, sigma])
    return made

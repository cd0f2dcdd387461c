"""What surfaces are made of and how they are lit: noise, colours, grounds, textures, sun and sky, the tone curve.

Colours are linear RGB, float32; a picture becomes sRGB-like only in `develop`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


def rgb(*values: float) -> Array:
    return np.array(values, np.float32)


BONE, EYE, GLOW = rgb(0.85, 0.8, 0.7), rgb(0.03, 0.03, 0.03), rgb(1.6, 1.5, 1.1)
GLASS, RUBBER, HEADLIGHT, MAST = rgb(0.08, 0.1, 0.13), rgb(0.04, 0.04, 0.045), rgb(1, 0.95, 0.8), rgb(0.35, 0.22, 0.12)
_LUMINANCE = rgb(0.3, 0.59, 0.11)
_TABLE = 256


@functools.cache
def _noise_table(octaves: tuple[int, ...]) -> Array:
    """One tileable table of summed value noise, mean 0.5, standard deviation 0.22."""
    rng = np.random.default_rng([7, *octaves])
    table, amplitude = np.zeros((_TABLE, _TABLE)), 1.0
    for cells in octaves:
        grid = rng.random((cells, cells))
        at = np.arange(_TABLE) / (_TABLE // cells)
        low = at.astype(int)
        part = at - low
        part = part * part * (3 - 2 * part)
        high = (low + 1) % cells
        rows = grid[low] * (1 - part)[:, None] + grid[high] * part[:, None]
        table += amplitude * (rows[:, low] * (1 - part) + rows[:, high] * part)
        amplitude *= 0.55
    return np.asarray(((table - table.mean()) / table.std() * 0.22 + 0.5).clip(0, 1), np.float32)


def _tap(octaves: tuple[int, ...], u: Array, v: Array) -> Array:
    table = _noise_table(octaves)
    u, v = u * _TABLE, v * _TABLE
    i, j = np.floor(u), np.floor(v)
    fu, fv = (u - i).astype(np.float32), (v - j).astype(np.float32)
    i0, j0 = i.astype(np.int32) & (_TABLE - 1), j.astype(np.int32) & (_TABLE - 1)
    i1, j1 = (i0 + 1) & (_TABLE - 1), (j0 + 1) & (_TABLE - 1)
    low = table[i0, j0] * (1 - fu) + table[i1, j0] * fu
    high = table[i0, j1] * (1 - fu) + table[i1, j1] * fu
    mixed: Array = low * (1 - fv) + high * fv
    return mixed


def clouds(u: Array, v: Array) -> Array:
    """Noise of all sizes, 0..1."""
    return _tap((8, 16, 32, 64, 128), u, v)


def grain(u: Array, v: Array) -> Array:
    """Fine noise only, 0..1."""
    return _tap((64, 128, 256), u, v)


def patches(u: Array, v: Array) -> Array:
    """Large soft patches only, 0..1."""
    return _tap((4, 8), u, v)


def mix(a: Array, b: Array, t: Array) -> Array:
    return a * (1 - t[..., None]) + b * t[..., None]


def colour(rng: np.random.Generator, kind: str = "any") -> Array:
    """A random colour: "any", "pale" (shades, sails), "fur" or "paint"."""
    hue, saturation, value = rng.random(), rng.uniform(0.15, 0.85), rng.uniform(0.25, 0.9)
    if kind == "pale":
        saturation, value = rng.uniform(0.05, 0.4), rng.uniform(0.7, 0.95)
    elif kind == "fur":
        hue, saturation, value = rng.normal(0.08, 0.05) % 1, rng.uniform(0.1, 0.7), rng.uniform(0.25, 0.85)
    elif kind == "paint":
        saturation, value = rng.uniform(0.4, 0.95), rng.uniform(0.3, 0.85)
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    channels = value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return np.asarray(channels**2, np.float32)


Ground = Callable[[Array, Array, Array, Array], Array]
"""(x, z on the ground, coarse noise, fine noise) -> linear RGB float32[N, 3]."""


def _wood(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    plank = np.floor(x * 1.6)
    along = clouds(x * 0.0275 + plank * 0.37, z * 0.33)
    boards = mix(rgb(0.36, 0.2, 0.1), rgb(0.58, 0.37, 0.2), along) * (0.8 + 0.35 * grain(plank * 0.31, plank * 0.17))[:, None]
    return boards * np.where(np.abs(x * 1.6 - plank) < 0.03, 0.45, 1)[:, None]


def _tiles(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    odd = (np.floor(x * 1.3) + np.floor(z * 1.3)) % 2
    squares = mix(rgb(0.75, 0.73, 0.7), rgb(0.3, 0.33, 0.38), odd) * (0.85 + 0.3 * coarse)[:, None]
    joint = np.minimum((x * 1.3) % 1, (z * 1.3) % 1) < 0.03
    return np.where(joint[:, None], rgb(0.5, 0.5, 0.48), squares)


def _carpet(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    pattern = np.where(np.sin(x * 4) * np.sin(z * 4) > 0.2, 1.0, 0.65)
    return mix(rgb(0.32, 0.06, 0.07), rgb(0.5, 0.16, 0.13), fine) * pattern[:, None]


def _concrete(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    return mix(rgb(0.4, 0.39, 0.37), rgb(0.6, 0.58, 0.55), 0.6 * coarse + 0.4 * fine)


def _leaves(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    return mix(rgb(0.2, 0.1, 0.04), rgb(0.6, 0.3, 0.08), grain(x * 0.154, z * 0.154)) * (0.6 + 0.8 * coarse)[:, None]


def _grass(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    return mix(rgb(0.06, 0.14, 0.03), rgb(0.25, 0.42, 0.1), 0.5 * coarse + 0.5 * fine)


def _asphalt(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    return mix(rgb(0.1, 0.1, 0.11), rgb(0.26, 0.26, 0.27), 0.3 * coarse + 0.7 * fine)


def _water(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    wave = np.sin(z * 7 + 5 * coarse) * 0.5 + 0.5
    return mix(rgb(0.03, 0.14, 0.2), rgb(0.2, 0.42, 0.5), 0.5 * wave + 0.5 * fine * coarse)


def _sand(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    return mix(rgb(0.55, 0.43, 0.28), rgb(0.78, 0.66, 0.46), 0.6 * coarse + 0.4 * fine)


def _snow(x: Array, z: Array, coarse: Array, fine: Array) -> Array:
    return mix(rgb(0.72, 0.77, 0.85), rgb(0.93, 0.94, 0.97), 0.7 * coarse + 0.3 * fine)


GROUNDS: dict[str, Ground] = {
    "wood": _wood,
    "tiles": _tiles,
    "carpet": _carpet,
    "concrete": _concrete,
    "leaves": _leaves,
    "grass": _grass,
    "asphalt": _asphalt,
    "water": _water,
    "sand": _sand,
    "snow": _snow,
}
INDOORS = frozenset({"wood", "tiles", "carpet", "concrete"})
"""Places with a wall; all others have a sky."""


def ground_colour(name: str, x: Array, z: Array, offset: tuple[float, float], tint: Array) -> Array:
    u, v = x * np.float32(0.11) + np.float32(offset[0]), z * np.float32(0.11) + np.float32(offset[1])
    return GROUNDS[name](x, z, clouds(u, v), grain(u * 3, v * 3)) * tint


@dataclass(frozen=True)
class Texture:
    """How the colour of an object's first part varies: factor of 0.4 to 1.5 by position."""

    kind: str
    offset: tuple[float, float]
    stripes: float
    dark: float

    KINDS = ("cloudy", "speckled", "striped", "patched", "plain")

    @classmethod
    def draw(cls, rng: np.random.Generator, fur: bool) -> "Texture":
        kind = cls.KINDS[rng.integers(len(cls.KINDS))]
        offset, stripes, dark = (rng.random(), rng.random()), rng.uniform(14, 30), rng.uniform(0.35, 0.8)
        return cls("fur" if fur else kind, offset, stripes, dark)

    def factor(self, x: Array, y: Array, z: Array) -> Array:
        a, b = (np.float32(o) for o in self.offset)
        if self.kind == "fur":
            return 0.6 + 0.8 * grain(x * 0.4 + z * 0.3 + a, y * 0.4 + b)
        if self.kind == "speckled":
            return 0.55 + 0.9 * grain(x * 0.3 + z * 0.21 + a, y * 0.3 + b)
        if self.kind == "patched":
            return np.where(patches(x * 0.5 + a, y * 0.5 + z * 0.3 + b) > 0.55, 1.15, self.dark)
        soft = clouds(x * 0.22 + z * 0.13 + a, y * 0.22 + z * 0.17 + b)
        if self.kind == "striped":
            return np.where(np.sin(y * self.stripes + 2 * soft) > 0.2, 1.0, self.dark)
        return 0.75 + 0.5 * soft if self.kind == "cloudy" else 0.9 + 0.2 * soft


@dataclass(frozen=True)
class Light:
    """One sun and a sky."""

    towards: tuple[float, float, float]
    sun: Array
    sky: Array

    NIGHT = 0.12

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Light":
        azimuth, elevation = rng.uniform(-2.4, 2.4), rng.uniform(0.45, 1.2)
        strength, warm, fill = rng.uniform(0.35, 1.0), rng.normal(0, 0.07), rng.uniform(0.55, 0.95)
        level = np.cos(elevation)
        towards = (float(np.sin(azimuth) * level), float(np.sin(elevation)), float(np.cos(azimuth) * level))
        sun = rgb(1 + warm, 1, 1 - warm) * np.float32(3 * strength)
        return cls(towards, sun, rgb(0.45 - warm * 0.5, 0.52, 0.62 + warm * 0.3) * np.float32(fill))

    def at_night(self) -> "Light":
        return Light(self.towards, self.sun * np.float32(self.NIGHT), self.sky * np.float32(self.NIGHT))


@dataclass(frozen=True)
class Lens:
    """Exposure, vignette, saturation, blur and noise of the camera."""

    exposure: float
    vignette: float
    saturation: float
    blur: int
    noise: float
    noise_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Lens":
        return cls(
            exposure=rng.uniform(0.7, 1.25),
            vignette=rng.uniform(0, 0.7),
            saturation=rng.uniform(0.85, 1.25),
            blur=int(rng.random() < 0.08),
            noise=rng.uniform(0.002, 0.022),
            noise_seed=int(rng.integers(2**32)),
        )


def develop(light_HW3: Array, lens: Lens, dark: bool, blurred: bool, blur_scale: int) -> npt.NDArray[np.uint8]:
    """Linear light float32[H, W, 3] -> picture uint8[H, W, 3]: exposure, vignette, tone (Narkowicz's ACES fit), blur, noise."""
    h, w, _ = light_HW3.shape
    key = np.exp(np.log(light_HW3 @ _LUMINANCE + 0.02).mean())
    out = light_HW3 * np.float32(lens.exposure * 0.216 / key ** (0.35 if dark else 0.75))
    yy, xx = np.mgrid[0:h, 0:w] / (h - 1) - 0.5
    out = out * (1 - lens.vignette * (xx**2 + yy**2)).astype(np.float32)[..., None]
    grey = (out @ _LUMINANCE)[..., None]
    out = np.maximum(grey + (out - grey) * np.float32(lens.saturation), 0)
    out = out * (2.51 * out + 0.03) / (out * (2.43 * out + 0.59) + 0.14)
    for _ in range(3 * blur_scale if blurred else lens.blur * blur_scale):
        for axis in (0, 1):
            padded = np.pad(out, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
            before, after = np.take(padded, range(out.shape[axis]), axis), np.take(padded, range(2, out.shape[axis] + 2), axis)
            out = (before + 2 * out + after) / 4
    noise = np.random.default_rng(lens.noise_seed).normal(0, lens.noise, out.shape)
    picture = np.clip(np.clip(out, 0, 1) ** (1 / 2.2) + noise, 0, 1) * 255
    return np.asarray(picture, np.uint8)

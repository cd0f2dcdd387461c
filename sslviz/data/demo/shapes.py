"""Ten everyday objects in five look-alike pairs, as signed distance functions (float32 arrays of points in, distances out).

Lengths are in units of about an object's height; y points up, the ground is y = 0, the camera looks along -z. Primitives
follow Quilez, "Distance functions" (iquilezles.org); a distance may be too small, never much too large, so that marching
along a ray by it cannot step through a surface.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sslviz.data.demo.materials import BONE, EYE, GLASS, GLOW, HEADLIGHT, MAST, RUBBER, Array, colour

Parts = Callable[[Array, Array, Array], list[Array]]


@dataclass(frozen=True)
class Shape:
    """One object: distance to each of its parts, a sphere that holds it, and what its parts are made of."""

    parts: Parts
    radius: float
    """Of a sphere around (0, middle, 0) that holds every part."""
    middle: float
    colours: tuple[Array, ...]
    """Linear RGB of each part; textures lie on part 0 only."""
    gloss: float = 0.12
    fur: bool = False
    dots: bool = False
    """May have pale dots on part 0."""
    facing: float = 0.0
    """Usual turn about the vertical, radians: the view by which people know the object."""


def length(x: Array, y: Array, z: Array | float = 0.0) -> Array:
    return np.sqrt(x * x + y * y + z * z)


def box(x: Array, y: Array, z: Array, a: float, b: float, c: float, r: float = 0.03) -> Array:
    """Half sides a, b, c with edges rounded by r."""
    qx, qy, qz = np.abs(x) - (a - r), np.abs(y) - (b - r), np.abs(z) - (c - r)
    inside = np.minimum(np.maximum(qx, np.maximum(qy, qz)), 0)
    return length(np.maximum(qx, 0), np.maximum(qy, 0), np.maximum(qz, 0)) + inside - r


def ellipsoid(x: Array, y: Array, z: Array, a: float, b: float, c: float) -> Array:
    """Half axes a, b, c; first-order distance."""
    x, y, z = x * (1 / a), y * (1 / b), z * (1 / c)
    k0 = length(x, y, z)
    k1 = length(x * (1 / a), y * (1 / b), z * (1 / c)) + 1e-6
    bound: Array = k0 * (k0 - 1) / k1
    return bound


def cylinder(x: Array, y: Array, z: Array, h: float, r: float, edge: float = 0.02) -> Array:
    """Upright, half height h, radius r."""
    dx, dy = length(x, z) - (r - edge), np.abs(y) - (h - edge)
    inside: Array = np.minimum(np.maximum(dx, dy), 0)
    return inside + length(np.maximum(dx, 0), np.maximum(dy, 0)) - edge


def cone(x: Array, y: Array, z: Array, h: float, low: float, high: float) -> Array:
    """Upright and capped, half height h, radius `low` below and `high` above."""
    slope = (high - low) / (2 * h)
    side = (length(x, z) - (low + (y + h) * slope)) / math.sqrt(1 + slope * slope)
    solid: Array = np.maximum(side, np.abs(y) - h)
    return solid


def capsule(x: Array, y: Array, z: Array, a: tuple[float, float, float], b: tuple[float, float, float], r: float) -> Array:
    dx, dy, dz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    along = ((x - a[0]) * dx + (y - a[1]) * dy + (z - a[2]) * dz) / (dx * dx + dy * dy + dz * dz)
    t = np.clip(along, 0, 1)
    return length(x - a[0] - t * dx, y - a[1] - t * dy, z - a[2] - t * dz) - r


def ring(x: Array, y: Array, z: Array, outer: float, r: float) -> Array:
    return length(length(x, y) - outer, z) - r


def blend(a: Array, b: Array, k: float) -> Array:
    """Smooth union over a width of k."""
    h = np.clip(0.5 + 0.5 * (b - a) / k, 0, 1)
    return b + (a - b) * h - k * h * (1 - h)


def mug(rng: np.random.Generator) -> Shape:
    h, r = rng.uniform(0.38, 0.6), rng.uniform(0.3, 0.42)
    taper, handle = rng.uniform(-0.06, 0.08), rng.uniform(0.17, 0.24)

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        outside = cone(x, y - h, z, h, r - taper, r + taper)
        hollow = cone(x, y - h - 0.08, z, h, r - taper - 0.06, r + taper - 0.06)
        grip = np.maximum(ring(x - r - 0.02, y - h, z, handle, 0.055), r - 0.05 - length(x, z))
        return [np.maximum(outside, -hollow), grip]

    c = colour(rng)
    return Shape(parts, 1.0, h, (c, c), gloss=0.45)


def bottle(rng: np.random.Generator) -> Shape:
    h, r = rng.uniform(0.42, 0.7), rng.uniform(0.22, 0.36)
    neck_r, neck_h, shoulder = rng.uniform(0.07, 0.13), rng.uniform(0.16, 0.34), rng.uniform(0.03, 0.2)

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        body = cylinder(x, y - h, z, h, r, min(shoulder, r * 0.9))
        neck = cylinder(x, y - 2 * h - neck_h * 0.5, z, neck_h, neck_r, 0.03)
        cap = cylinder(x, y - 2 * h - neck_h * 1.5, z, 0.06, neck_r + 0.03, 0.02)
        return [blend(body, neck, 0.12), cap]

    return Shape(parts, 1.35, h + neck_h, (colour(rng), colour(rng)), gloss=0.6)


def _legs(x: Array, y: Array, z: Array, w: float, d: float, h: float, r: float, splay: float) -> Array:
    return capsule(np.abs(x), y, np.abs(z), (w, h, d), (w + splay, 0.02, d + splay), r)


def chair(rng: np.random.Generator) -> Shape:
    w, h, back = rng.uniform(0.33, 0.45), rng.uniform(0.45, 0.6), rng.uniform(0.45, 0.75)
    d, lean, style, leg = w * rng.uniform(0.9, 1.1), rng.uniform(0, 0.12), int(rng.integers(3)), rng.uniform(0.03, 0.05)

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        seat = box(x, y - h, z, w, 0.05, d, 0.03)
        behind = z + d - 0.04 + (y - h) * lean
        posts = capsule(np.abs(x), y, behind, (w - 0.05, h, 0), (w - 0.05, h + back, 0), 0.042)
        if style == 0:
            rest = box(x, y - h - back * 0.5, behind, w, back * 0.5, 0.045, 0.03)
        elif style == 1:
            rest = np.minimum(posts, box(x, y - h - back * 0.8, behind, w, back * 0.2, 0.035, 0.03))
        else:
            bars = np.minimum(
                box(x, y - h - back * 0.9, behind, w, 0.06, 0.035), box(x, y - h - back * 0.5, behind, w, 0.06, 0.035)
            )
            rest = np.minimum(posts, bars)
        return [np.minimum(seat, _legs(x, y, z, w - 0.06, d - 0.06, h, leg, 0.05)), rest]

    c = colour(rng)
    return Shape(parts, 1.1, h, (c, c if rng.random() < 0.6 else colour(rng)), facing=0.5)


def table(rng: np.random.Generator) -> Shape:
    w, h = rng.uniform(0.4, 0.68), rng.uniform(0.45, 0.75)
    d, is_round, leg = w * rng.uniform(0.7, 1.05), rng.random() < 0.4, rng.uniform(0.03, 0.055)
    pedestal = is_round and rng.random() < 0.5

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        top = cylinder(x, y - h, z, 0.05, w, 0.03) if is_round else box(x, y - h, z, w, 0.05, d, 0.03)
        if pedestal:
            foot = cylinder(x, y - 0.04, z, 0.04, w * 0.5, 0.03)
            return [top, np.minimum(cylinder(x, y - h / 2, z, h / 2, 0.06), foot)]
        inwards = 0.7 if is_round else 1.0
        depth = w if is_round else d
        return [top, _legs(x, y, z, (w - 0.08) * inwards, (depth - 0.08) * inwards, h, leg, 0.03)]

    c = colour(rng)
    return Shape(parts, 1.15, h * 0.6, (c, c if rng.random() < 0.5 else colour(rng)), facing=0.4)


def lamp(rng: np.random.Generator) -> Shape:
    h, low, high = rng.uniform(0.55, 0.9), rng.uniform(0.32, 0.46), rng.uniform(0.12, 0.24)
    shade_h, slim, foot = rng.uniform(0.2, 0.3), bool(rng.integers(2)), rng.uniform(0.16, 0.26)

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        shade = cone(x, y - h - shade_h * 0.6, z, shade_h, low, high)
        hollow = cone(x, y - h - shade_h * 0.6 + 0.05, z, shade_h, low - 0.05, high - 0.05)
        if slim:
            stand = cylinder(x, y - h * 0.5, z, h * 0.5, 0.035)
        else:
            stand = ellipsoid(x, y - h * 0.42, z, foot * 0.9, h * 0.42, foot * 0.9)
        bulb = length(x, y - h - 0.1, z) - 0.09
        return [np.maximum(shade, -hollow), np.minimum(stand, cylinder(x, y - 0.04, z, 0.04, foot, 0.02)), bulb]

    return Shape(parts, 1.25, h * 0.7, (colour(rng, "pale"), colour(rng), GLOW), gloss=0.15)


def mushroom(rng: np.random.Generator) -> Shape:
    h, r, cap_h = rng.uniform(0.4, 0.75), rng.uniform(0.34, 0.55), rng.uniform(0.2, 0.42)
    stem, bend = rng.uniform(0.1, 0.17), rng.uniform(-0.15, 0.15)

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        x = x - bend * (y / h) ** 2
        cap = np.maximum(ellipsoid(x, y - h, z, r, cap_h, r), -(y - h + 0.06 + 0.1 * length(x, z)))
        foot = ellipsoid(x, y - 0.05, z, stem * 1.5, 0.14, stem * 1.5)
        return [cap, blend(capsule(x, y, z, (0, 0, 0), (0, h, 0), stem), foot, 0.1)]

    return Shape(parts, 1.1, h * 0.8, (colour(rng), BONE * np.float32(rng.uniform(0.8, 1.1))), dots=True)


def _animal(rng: np.random.Generator, long_ears: bool) -> Shape:
    bh, br, hr = rng.uniform(0.3, 0.4), rng.uniform(0.3, 0.38), rng.uniform(0.24, 0.3)
    tilt, lean = rng.uniform(-0.1, 0.1), rng.uniform(-0.06, 0.1)
    ear, ear_r, ear_out = rng.uniform(0.2, 0.34), rng.uniform(0.05, 0.075), rng.uniform(0.04, 0.16)
    hy = 2 * bh + hr * 0.62

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        side = np.abs(x)
        hx, hz = x - tilt, z - lean
        head_side = np.abs(hx)
        body = ellipsoid(x, y - bh, z, br, bh, br * 0.92)
        body = blend(body, ellipsoid(hx, y - hy, hz, hr, hr * 0.92, hr * 0.95), 0.08)
        body = blend(body, ellipsoid(side - br * 0.62, y - 0.1, z - br * 0.75, 0.13, 0.12, 0.2), 0.06)
        arm = capsule(side, y, z, (br * 0.8, bh * 1.35, 0.05), (br, bh * 0.75, br * 0.7), 0.09)
        body = blend(body, arm, 0.05)
        if long_ears:
            top = (hr * 0.4 + ear_out, hy + hr * 0.7 + ear, -0.04)
            ears = capsule(head_side, y, hz, (hr * 0.4, hy + hr * 0.6, 0), top, ear_r)
        else:
            ears = ellipsoid(head_side - hr * 0.75, y - hy - hr * 0.72, hz, 0.12, 0.12, 0.07)
        muzzle = ellipsoid(hx, y - hy + 0.06, hz - hr * 0.85, 0.11, 0.09, 0.09)
        eyes = length(head_side - 0.1, y - hy - 0.06, hz - hr * 0.86) - 0.035
        nose = length(hx, y - hy + 0.02, hz - hr * 0.85 - 0.09) - 0.035
        return [blend(body, ears, 0.04), muzzle, np.minimum(eyes, nose)]

    c = colour(rng, "fur")
    return Shape(parts, 1.15, hy * 0.62, (c, c * np.float32(1.25), EYE), fur=True)


def bear(rng: np.random.Generator) -> Shape:
    return _animal(rng, long_ears=False)


def rabbit(rng: np.random.Generator) -> Shape:
    return _animal(rng, long_ears=True)


def car(rng: np.random.Generator) -> Shape:
    half, w, h = rng.uniform(0.62, 0.85), rng.uniform(0.3, 0.36), rng.uniform(0.13, 0.2)
    cab_l, shift, cab_h = half * rng.uniform(0.4, 0.62), rng.uniform(-0.15, 0.12), rng.uniform(0.15, 0.24)
    wheel = rng.uniform(0.13, 0.17)

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        body = box(x, y - wheel - h * 0.7, z, half, h, w, 0.09)
        cab = box(x - shift, y - wheel - h * 1.5 - cab_h * 0.7, z, cab_l, cab_h, w * 0.85, 0.1)
        glass = box(x - shift, y - wheel - h * 1.5 - cab_h * 0.75, z, cab_l * 1.012, cab_h * 0.6, w * 0.865, 0.06)
        wheels = np.maximum(length(np.abs(x) - half * 0.6, y - wheel) - wheel, np.abs(np.abs(z) - w) - 0.07)
        lights = length(x - half, y - wheel - h * 0.7, np.abs(z) - w * 0.7) - 0.06
        return [blend(body, cab, 0.05), glass, wheels, lights]

    return Shape(parts, 1.1, 0.35, (colour(rng, "paint"), GLASS, RUBBER, HEADLIGHT), gloss=0.6, facing=0.5)


def boat(rng: np.random.Generator) -> Shape:
    half, w, h = rng.uniform(0.6, 0.85), rng.uniform(0.24, 0.33), rng.uniform(0.16, 0.24)
    mast, has_sail, sail_colour = rng.uniform(0.7, 1.05), rng.random() < 0.7, colour(rng, "pale")

    def parts(x: Array, y: Array, z: Array) -> list[Array]:
        hull = np.maximum(ellipsoid(x, y - h, z, half, h * 1.25, w), y - h * 1.15)
        hull = np.maximum(hull, -ellipsoid(x, y - h - 0.09, z, half - 0.08, h * 1.2, w - 0.06))
        if has_sail:
            up = (y - h - 0.18) / (mast * 0.8)
            sheet = np.abs(z - 0.05 * np.sin(3 * up)) - 0.02
            edges = np.maximum(x - (1 - up) * half * 0.62, 0.05 - x)
            upper = np.maximum(np.maximum(sheet, np.maximum(-up, 0) * mast), edges) * np.float32(0.8)
        else:
            upper = box(x + 0.1, y - h - 0.15, z, half * 0.35, 0.16, w * 0.6, 0.04)
        return [hull, capsule(x, y, z, (0, 0.1, 0), (0, h + mast, 0), 0.03), upper]

    return Shape(parts, 1.25, 0.5, (colour(rng, "paint"), MAST, sail_colour), gloss=0.3, facing=0.3)


OBJECTS: dict[str, Callable[[np.random.Generator], Shape]] = {
    draw.__name__: draw for draw in (mug, bottle, chair, table, lamp, mushroom, bear, rabbit, car, boat)
}
"""Class name -> a random member of the class. Look-alike pairs stand side by side."""

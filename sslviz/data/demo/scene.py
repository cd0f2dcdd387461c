"""A still life: what causes it to look as it does, and the picture with its exact masks.

Every cause has a random stream of its own, so a scene can be rendered again with one cause changed and all others equal
to the bit. The object is marched along signed distances; ground, wall and balls are met in closed form.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sslviz.data.demo.materials import (
    BONE,
    GROUNDS,
    INDOORS,
    Array,
    Lens,
    Light,
    Texture,
    clouds,
    colour,
    develop,
    ground_colour,
    patches,
    rgb,
)
from sslviz.data.demo.shapes import OBJECTS, Shape
from sslviz.errors import InputError

USUAL_PLACE = {
    "mug": "wood",
    "bottle": "tiles",
    "chair": "carpet",
    "table": "concrete",
    "lamp": "carpet",
    "mushroom": "leaves",
    "bear": "wood",
    "rabbit": "grass",
    "car": "asphalt",
    "boat": "water",
}
TROUBLES = ("occluded", "far", "lying", "dark", "blurred")
CAUSES = ("object", "pose", "place", "camera", "light", "clutter", "lens", "trouble")

# How hard the set is. Fixed by probe accuracy and by the probe's own confidence, before any Q-Score (docs/results.md).
USUAL_PLACE_SHARE = 0.3
TROUBLE_SHARE = 0.3
TURN_SPREAD = 0.35

_SKY, _GROUND, _WALL, _BALL, _OBJECT = range(5)
_BLOCK = 4
Floats3 = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """What one picture is drawn from; None and 0 leave a cause as its stream draws it."""

    label: str
    seed: int
    place: str | None = None
    trouble: str | None = None
    """One of TROUBLES, or "none"."""
    turn: float = 0.0
    """Degrees by which the object is turned further about the vertical."""
    redrawn: dict[str, int] = field(default_factory=dict)
    """Cause -> another seed for its stream."""

    def __post_init__(self) -> None:
        known = {"label": OBJECTS, "place": (None, *GROUNDS), "trouble": (None, "none", *TROUBLES)}
        for name, allowed in known.items():
            if getattr(self, name) not in allowed:
                raise InputError(f'unknown {name} "{getattr(self, name)}". All: {", ".join(str(a) for a in allowed if a)}.')
        if unknown := set(self.redrawn) - set(CAUSES):
            raise InputError(f'unknown cause "{min(unknown)}". All: {", ".join(CAUSES)}.')

    def stream(self, cause: str) -> np.random.Generator:
        return np.random.default_rng([self.redrawn.get(cause, self.seed), CAUSES.index(cause)])

    def changed(self, **causes: str | float) -> "Scene":
        return replace(self, **causes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Record:
    """The causes of a picture as drawn: what the sample page explains a failure by."""

    label: str
    place: str
    usual_place: bool
    trouble: str
    visible: float
    """Share of the object in the picture's frame that nothing hides, 0..1."""
    area: float
    """Share of the picture that shows the object, 0..1."""
    turned: float
    """Degrees from the view by which people know the object, -180..180."""
    distance: float
    """Of the camera, in units of about an object's height."""
    sun: float
    """Strength of the sun, 0..1."""
    clutter: int
    """Balls that lie about."""

    def as_row(self) -> dict[str, str | float | int | bool]:
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    image: npt.NDArray[np.uint8]
    """[S, S, 3]"""
    core: npt.NDArray[np.bool_]
    """[S, S], where at least half of the pixel shows the object."""
    spurious: npt.NDArray[np.bool_]
    """[S, S], where at least half of the pixel shows ground or wall: the place that goes with a class."""
    record: Record


@dataclass(frozen=True)
class _Ball:
    centre: Floats3
    radius: float
    colour: Array


@dataclass(frozen=True)
class _Place:
    name: str
    scale: float
    offset: tuple[float, float]
    tint: Array
    wall_z: float
    wall_colour: Array
    wall_stripes: float
    """0 for a plain wall."""
    fog: float
    cloud_offset: float
    cloud_cover: float

    @classmethod
    def draw(cls, scene: Scene) -> "_Place":
        rng = scene.stream("place")
        usual, any_place = rng.random() < USUAL_PLACE_SHARE, list(GROUNDS)[rng.integers(len(GROUNDS))]
        place = cls(
            name=USUAL_PLACE[scene.label] if usual else any_place,
            scale=rng.uniform(0.7, 1.4),
            offset=(rng.random(), rng.random()),
            tint=(1 + rng.normal(0, 0.08, 3)).astype(np.float32),
            wall_z=-rng.uniform(1.3, 3.0),
            wall_colour=colour(rng, "pale" if rng.random() < 0.6 else "any"),
            wall_stripes=rng.uniform(3, 7) if rng.random() < 0.35 else 0.0,
            fog=rng.uniform(0.01, 0.06),
            cloud_offset=rng.random(),
            cloud_cover=rng.uniform(0, 0.8),
        )
        return replace(place, name=scene.place or place.name)


@dataclass(frozen=True)
class _Camera:
    elevation: float
    near: float
    far: float
    aside: float
    above: float
    roll: float
    half_angle: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Camera":
        return cls(
            elevation=rng.uniform(0.15, 0.6),
            near=rng.uniform(2.2, 3.0),
            far=rng.uniform(4.8, 6.5),
            aside=rng.normal(0, 0.18),
            above=rng.normal(0, 0.12),
            roll=rng.normal(0, 0.05),
            half_angle=rng.uniform(0.3, 0.38),
        )


@dataclass(frozen=True)
class _Solid:
    """The object where it stands: one distance function of points in the world."""

    shape: Shape
    scale: float
    yaw: float
    lying: bool

    LYING_HEIGHT = 0.36

    @property
    def centre(self) -> Floats3:
        return (0.0, (self.LYING_HEIGHT if self.lying else self.shape.middle) * self.scale, 0.0)

    @property
    def radius(self) -> float:
        return self.shape.radius * self.scale

    def local(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Points of the world -> points of the object's own frame."""
        k = np.float32(1 / self.scale)
        x, y, z = x * k, y * k, z * k
        if self.lying:
            y, z = np.float32(self.shape.middle) - z, y - np.float32(self.LYING_HEIGHT)
        c, s = np.float32(math.cos(self.yaw)), np.float32(math.sin(self.yaw))
        return c * x - s * z, y, s * x + c * z

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        first, *others = self.shape.parts(*self.local(x, y, z))
        for part in others:
            first = np.minimum(first, part)
        return first * np.float32(self.scale)


def render(scene: Scene, size: int = 96, samples: int = 2) -> Picture:
    """The picture of a scene, size x size pixels (a multiple of 2), samples x samples rays a pixel.

    Equal scenes give equal bits on one machine. Raises InputError on an odd size.
    """
    if size % 2 or size < 8:
        raise InputError(f"size {size}: expected an even number of at least 8 pixels.")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _Render(scene, size, samples).picture()


class _Render:
    """One rendering: draws the causes, shoots the rays, colours what they meet. Rays are flat arrays of length W * W."""

    def __init__(self, scene: Scene, size: int, samples: int) -> None:
        self.size, self.samples = size, samples
        self.side = side = size * samples
        trouble = scene.stream("trouble")
        drawn = TROUBLES[trouble.integers(len(TROUBLES))] if trouble.random() < TROUBLE_SHARE else "none"
        self.trouble = scene.trouble or drawn
        rng = scene.stream("object")
        shape = OBJECTS[scene.label](rng)
        scale, texture = rng.uniform(0.75, 1.2), Texture.draw(rng, shape.fur)
        self.texture, self.dots = texture, shape.dots and rng.random() < 0.5
        self.gloss = shape.gloss * rng.uniform(0.4, 1.3)
        pose = scene.stream("pose")
        side_seen = 1 if pose.random() < 0.5 else -1
        self.turned = side_seen * shape.facing + pose.normal(0, TURN_SPREAD) + math.radians(scene.turn)
        self.solid = _Solid(shape, scale, self.turned, self.trouble == "lying")
        self.label, self.place, self.camera = scene.label, _Place.draw(scene), _Camera.draw(scene.stream("camera"))
        light = Light.draw(scene.stream("light"))
        self.sun_strength = float(light.sun[1]) / 3
        self.light = light.at_night() if self.trouble == "dark" else light
        self.lens = Lens.draw(scene.stream("lens"))
        self._aim()
        self.balls, self.lying_about = self._balls(scene.stream("clutter"), trouble)
        own = (np.arange(side) // samples * samples)[:, None] * side + np.arange(side) // samples * samples
        self.first_of_pixel = own.ravel()

    def _aim(self) -> None:
        """Camera position and ray directions."""
        camera, middle = self.camera, self.solid.shape.middle
        self.eye_distance = camera.far if self.trouble == "far" else camera.near
        target = np.array([camera.aside, middle + camera.above, 0.0])
        up_down, back = math.sin(camera.elevation), math.cos(camera.elevation)
        eye = np.array([0, target[1] + self.eye_distance * up_down, self.eye_distance * back])
        forward = target - eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 1, 0])
        right /= np.linalg.norm(right)
        up = np.cross(right, forward)
        c, s = math.cos(camera.roll), math.sin(camera.roll)
        right, up = right * c + up * s, up * c - right * s
        self.half_width = math.tan(camera.half_angle)
        across = ((np.arange(self.side) + 0.5) / self.side * 2 - 1) * self.half_width
        rays = forward + across[None, :, None] * right - across[:, None, None] * up
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        self.rays = rays.reshape(-1, 3).astype(np.float32)
        self.eye = eye.astype(np.float32)

    def _balls(self, clutter: np.random.Generator, trouble: np.random.Generator) -> tuple[list[_Ball], int]:
        """Balls that lie about, and for an occluded object three more between it and the camera."""
        balls = []
        for _ in range(clutter.poisson(0.9)):
            r, angle, away = clutter.uniform(0.08, 0.28), clutter.uniform(0, 2 * np.pi), clutter.uniform(0.75, 1.7)
            balls.append(_Ball((away * math.sin(angle), r, away * math.cos(angle)), r, colour(clutter)))
        lying_about = len(balls)
        if self.trouble == "occluded":
            middle = self.solid.centre[1]
            for _ in range(3):
                part = trouble.uniform(0.25, 0.45)
                r = trouble.uniform(0.16, 0.26) * (1 - part) * 1.6
                x = part * self.eye[0] + (1 - part) * trouble.normal(0, 0.3)
                y = part * self.eye[1] + (1 - part) * (middle + trouble.normal(0, 0.3))
                balls.append(_Ball((float(x), max(float(y), r * 0.6), float(part * self.eye[2])), r, colour(trouble)))
        return balls, lying_about

    def picture(self) -> Picture:
        self._meet_surfaces()
        self._find_normals_and_colours()
        light = self._shade()
        grid = (self.size, self.samples, self.size, self.samples)
        light = light.reshape(*grid, 3).mean((1, 3))
        core, spurious = ((m.reshape(grid).mean((1, 3)) >= 0.5) for m in (self.on[_OBJECT], self.on[_GROUND] | self.on[_WALL]))
        blur_scale = max(1, round((self.size / 64) ** 2))
        image = develop(light, self.lens, self.trouble == "dark", self.trouble == "blurred", blur_scale)
        degrees = (math.degrees(self.turned) + 180) % 360 - 180
        record = Record(
            label=self.label,
            place=self.place.name,
            usual_place=self.place.name == USUAL_PLACE[self.label],
            trouble=self.trouble,
            visible=float(self.on[_OBJECT].sum() / max(self.unhidden, 1)),
            area=float(self.on[_OBJECT].mean()),
            turned=degrees,
            distance=self.eye_distance,
            sun=self.sun_strength,
            clutter=self.lying_about,
        )
        return Picture(image, core, spurious, record)

    def _meet_surfaces(self) -> None:
        """For every ray the depth and the kind of the first surface it meets."""
        _, dy, dz = self.rays.T
        depth = np.where(dy < -1e-4, -self.eye[1] / dy, np.inf).astype(np.float32)
        kind = np.where(np.isfinite(depth), _GROUND, _SKY).astype(np.int8)
        if self.place.name in INDOORS:
            wall = np.where(dz < -1e-4, (np.float32(self.place.wall_z) - self.eye[2]) / dz, np.inf)
            nearer = wall < depth
            depth[nearer], kind[nearer] = wall[nearer], _WALL
        start = self._safe_start()
        i = np.flatnonzero(np.isfinite(start))
        end = np.minimum(depth[i], self.eye_distance + self.solid.radius * 1.3)
        begin = np.maximum(start[i] - 0.02, 0.01)
        hit, _ = self._march(np.broadcast_to(self.eye, (len(i), 3)), self.rays[i], begin, end, 26)
        seen = hit < depth[i]
        depth[i[seen]], kind[i[seen]] = hit[seen], _OBJECT
        self.unhidden = int(seen.sum())
        self.ball_of = np.full(len(depth), -1, np.int8)
        for number, ball in enumerate(self.balls):
            met, near, _ = _sphere(self.eye, self.rays, ball.centre, ball.radius)
            m = met & (near > 0) & (near < depth)
            depth[m], kind[m], self.ball_of[m] = near[m], _BALL, number
        self.depth, self.kind = depth, kind
        self.on = [kind == k for k in range(5)]
        self.points = self.eye + np.where(kind > _SKY, depth, 0)[:, None] * self.rays

    def _safe_start(self) -> Array:
        """How far each ray may go before it can touch the object: one cone is marched for each block of 4 x 4 rays."""
        n = self.side // _BLOCK
        centre = np.arange(n) * _BLOCK + _BLOCK // 2
        rays = self.rays[(centre[:, None] * self.side + centre).ravel()]
        widening = np.float32(2 * self.half_width / self.side * _BLOCK * 0.8)
        met, near, far = _sphere(self.eye, rays, self.solid.centre, self.solid.radius + float(widening) * self.eye_distance)
        ids = np.flatnonzero(met & (far > 0))
        start = np.full(n * n, np.inf, np.float32)
        t, t_end, rays = np.maximum(near[ids], 0.01), far[ids], rays[ids]
        for _ in range(14):
            clear = self.solid.distance(*(self.eye + t[:, None] * rays).T) - widening * t
            touching = clear < 0.01
            start[ids[touching]] = t[touching]
            t = t + clear
            on = ~touching & (t < t_end)
            ids, t, t_end, rays = ids[on], t[on], t_end[on], rays[on]
            if not len(ids):
                break
        start[ids] = t
        return np.repeat(np.repeat(start.reshape(n, n), _BLOCK, 0), _BLOCK, 1).ravel()

    def _march(
        self, origin: Array, direction: Array, t: Array, t_end: Array, steps: int, softness: float = 0.0
    ) -> tuple[Array, Array]:
        """(distance to the object along each ray, inf where missed; how far the ray stays clear of it, 0..1)."""
        n = len(t)
        hit, clear, index = np.full(n, np.inf, np.float32), np.ones(n, np.float32), np.arange(n)
        ox, oy, oz = (np.ascontiguousarray(c) for c in np.asarray(origin, np.float32).T)
        vx, vy, vz = (np.ascontiguousarray(c) for c in np.broadcast_to(np.asarray(direction, np.float32), (n, 3)).T)
        t = t.astype(np.float32)
        for _ in range(steps):
            d = self.solid.distance(ox + t * vx, oy + t * vy, oz + t * vz)
            if softness:
                clear[index] = np.minimum(clear[index], np.clip(d * softness / np.maximum(t, 0.02), 0, 1))
            touching = d < 0.009
            hit[index[touching]] = t[touching]
            t = t + np.maximum(d, 0.009)
            on = ~touching & (t < t_end)
            if not on.any():
                break
            index = index[on]
            t, t_end, ox, oy, oz, vx, vy, vz = (a[on] for a in (t, t_end, ox, oy, oz, vx, vy, vz))
        return hit, clear

    def _find_normals_and_colours(self) -> None:
        """Of the surface each ray has met."""
        n = len(self.kind)
        self.normal, self.colour = np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32)
        self._object_surface()
        place, (x, y, z) = self.place, self.points.T
        g = self.on[_GROUND]
        self.normal[g] = rgb(0, 1, 0)
        per_unit = np.float32(1 / place.scale)
        if g.any():
            ground = ground_colour(place.name, x[g] * per_unit, z[g] * per_unit, place.offset, place.tint)
            self.mean_ground = ground.mean(0)
            blurred = np.clip((self.depth[g] - 6) / 14, 0, 1)[:, None]
            self.colour[g] = ground * (1 - blurred) + self.mean_ground * blurred
        else:
            self.mean_ground = np.zeros(3, np.float32)
        w = self.on[_WALL]
        self.normal[w] = rgb(0, 0, 1)
        wall = place.wall_colour * (0.85 + 0.3 * clouds(x[w] * 0.12 + 0.3, y[w] * 0.12))[:, None]
        if place.wall_stripes:
            wall = wall * np.where(np.sin(x[w] * place.wall_stripes) > 0, 1, 0.82)[:, None]
        skirting = np.where(y[w] < 0.14, 0.55, 1)[:, None]
        self.colour[w] = wall * skirting
        for number, ball in enumerate(self.balls):
            b = self.ball_of == number
            b &= self.on[_BALL]
            self.normal[b] = (self.points[b] - rgb(*ball.centre)) / np.float32(ball.radius)
            shade = clouds(x[b] * 0.5 + np.float32(ball.centre[0]), y[b] * 0.5)
            self.colour[b] = ball.colour * (0.7 + 0.6 * shade)[:, None]

    def _object_surface(self) -> None:
        o = np.flatnonzero(self.on[_OBJECT])
        if not len(o):
            return
        x, y, z = self.points[o].T
        e, gradient = np.float32(0.008), np.zeros((len(o), 3), np.float32)
        for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
            sx, sy, sz = (np.float32(s) * e for s in corner)
            gradient += self.solid.distance(x + sx, y + sy, z + sz)[:, None] * rgb(*corner)
        self.normal[o] = gradient / (np.linalg.norm(gradient, axis=1, keepdims=True) + 1e-9)
        local = self.solid.local(x, y, z)
        part = np.stack(self.solid.shape.parts(*local)).argmin(0)
        surface = np.stack(self.solid.shape.colours)[part]
        textured = part == 0
        surface = surface * np.where(textured, self.texture.factor(*local), 1)[:, None]
        if self.dots:
            a, b = (np.float32(v) for v in self.texture.offset)
            dot = (patches(local[0] * 1.3 + a, local[2] * 1.3 + b) > 0.66) & textured
            surface = np.where(dot[:, None], BONE, surface)
        self.colour[o] = surface

    def _shade(self) -> Array:
        """Light that reaches the camera: sun with soft shadow, sky with contact shade, bounce, gloss, fog, sky."""
        light, colours = self.light, self.colour
        towards = rgb(*light.towards)
        facing_sun = np.clip(self.normal @ towards, 0, 1)
        sunlit, open_sky = self._shadow(towards, facing_sun), self._contact_shade()
        ambient = light.sky * (0.65 + 0.35 * self.normal[:, 1:2])
        out = colours * (light.sun * (facing_sun * sunlit)[:, None] + ambient * open_sky[:, None])
        o, g, s = (np.flatnonzero(self.on[k]) for k in (_OBJECT, _GROUND, _SKY))
        from_below = np.clip(0.5 - 0.5 * self.normal[o, 1:2], 0, 1)
        out[o] += colours[o] * self.mean_ground * light.sun * np.float32(0.25) * from_below
        half = towards - self.rays[o]
        half = half / (np.linalg.norm(half, axis=1, keepdims=True) + 1e-9)
        highlight = np.clip((half * self.normal[o]).sum(1), 0, 1) ** 40
        grazing = (1 - np.clip(-(self.rays[o] * self.normal[o]).sum(1), 0, 1)) ** 4
        gloss = np.float32(self.gloss)
        out[o] += (gloss * 1.6 * highlight * sunlit[o])[:, None] * light.sun
        out[o] += (gloss * 0.5 * grazing * open_sky[o])[:, None] * light.sky
        zenith, horizon = np.clip(light.sky * rgb(0.8, 1, 1.5), 0, 2), np.clip(light.sky * rgb(1.5, 1.5, 1.45), 0, 2)
        dx, dy, _ = self.rays[s].T
        high = np.clip(dy * 2.5, 0, 1)[:, None]
        cover = np.clip((clouds(dx * 0.35 + np.float32(self.place.cloud_offset), dy * 0.8) - 0.45) * 3, 0, 1)[:, None]
        cover = cover * np.float32(self.place.cloud_cover)
        out[s] = (horizon * (1 - high) + zenith * high) * (1 - cover) + cover * horizon * 1.1
        if self.place.name not in INDOORS:
            fog = (1 - np.exp(-np.clip(self.depth[g] - 4, 0, 60) * np.float32(self.place.fog)))[:, None]
            out[g] = out[g] * (1 - fog) + horizon * fog
        return np.asarray(out, np.float32)

    def _once_a_pixel(self, of_rays: npt.NDArray[np.bool_], value: Callable[[npt.NDArray[np.intp]], Array]) -> Array:
        """`value` of the given rays, 1 elsewhere; computed once a pixel, and again for samples that met another surface there."""
        first = self.first_of_pixel
        own = (first == np.arange(len(first))) | (self.kind != self.kind[first])
        out = np.ones(len(first), np.float32)
        i = np.flatnonzero(of_rays & own)
        out[i] = value(i)
        return np.where(own, out, out[first])

    def _shadow(self, towards: Array, facing_sun: Array) -> Array:
        met, near, far = _sphere(self.points, towards, self.solid.centre, self.solid.radius)

        def clear_of_object(i: npt.NDArray[np.intp]) -> Array:
            lift = np.where(self.on[_OBJECT][i], 0.05, 0.02).astype(np.float32)
            origin = self.points[i] + self.normal[i] * lift[:, None]
            hit, clear = self._march(origin, towards, np.maximum(near[i], 0.02), far[i], 14, softness=9.0)
            return np.where(np.isfinite(hit), 0, clear)

        sunlit = self._once_a_pixel((self.kind > _SKY) & met & (far > 0) & (facing_sun > 0), clear_of_object)
        for ball in self.balls:
            met, _, far = _sphere(self.points, towards, ball.centre, ball.radius)
            sunlit[met & (far > 0.02) & (self.kind != _BALL)] *= np.float32(0.15)
        return sunlit

    def _contact_shade(self) -> Array:
        """Share of the sky a point sees, from how near the object and the balls are."""
        reach = np.float32(0.16)
        near = ((self.points - rgb(*self.solid.centre)) ** 2).sum(1) < (self.solid.radius * 1.1) ** 2

        def openness(i: npt.NDArray[np.intp]) -> Array:
            d = self.solid.distance(*(self.points[i] + self.normal[i] * reach).T)
            seen: Array = np.clip(0.35 + 0.65 * d / reach, 0.3, 1)
            return seen

        out = self._once_a_pixel(near & (self.kind > _SKY), openness)
        g = self.on[_GROUND]
        for ball in self.balls:
            beside = np.hypot(self.points[g, 0] - ball.centre[0], self.points[g, 2] - ball.centre[2])
            out[g] *= np.clip(0.4 + 0.6 * (beside - ball.radius * 0.3) / ball.radius, 0.4, 1)
        return out


def _sphere(origin: Array, direction: Array, centre: Floats3, radius: float) -> tuple[npt.NDArray[np.bool_], Array, Array]:
    """(does the ray's line meet the sphere, where it enters, where it leaves), for unit directions."""
    from_centre = origin - rgb(*centre)
    b = (from_centre * direction).sum(-1)
    inside = b * b - (from_centre * from_centre).sum(-1) + np.float32(radius**2)
    root = np.sqrt(np.maximum(inside, 0))
    return inside > 0, -b - root, -b + root

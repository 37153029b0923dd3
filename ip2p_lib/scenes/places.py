"""Everything behind and around the subject: sky, six places, weather and extra objects."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ip2p_lib.scenes.brush import Brush, Colour, mix, shade
from ip2p_lib.scenes.subjects import WOOD

SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((96, 178, 240), (206, 236, 250)),
    "sunset": ((150, 78, 140), (255, 176, 84)),
    "night": ((14, 18, 52), (52, 62, 120)),
}
LIGHT: dict[str, Colour] = {"day": (1, 1, 1), "sunset": (1.0, 0.80, 0.70), "night": (0.40, 0.44, 0.66)}
OVERCAST: dict[str, Colour] = {"day": (160, 170, 180), "sunset": (176, 122, 108), "night": (44, 46, 66)}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in one picture. Everything here follows from the layout seed alone."""

    seed: int
    horizon: float
    subject_x: float
    subject_y: float
    subject_scale: float
    subject_flip: bool
    sun_x: float
    side: float  # -1 or 1: where the lamp stands; the kite flies opposite to the sun

    @classmethod
    def from_seed(cls, seed: int) -> "Layout":
        """Draw a layout; the same seed gives the same layout whatever else the scene holds."""
        rng = np.random.default_rng((seed, 0))
        sun_left = rng.random() < 0.5
        return cls(
            seed=seed,
            horizon=rng.uniform(0.52, 0.64),
            subject_x=rng.uniform(0.38, 0.62),
            subject_y=rng.uniform(0.84, 0.9),
            subject_scale=rng.uniform(0.235, 0.285),
            subject_flip=bool(rng.random() < 0.5),
            sun_x=rng.uniform(0.12, 0.3) if sun_left else rng.uniform(0.7, 0.88),
            side=-1.0 if rng.random() < 0.5 else 1.0,
        )

    def rng(self, part: int) -> np.random.Generator:
        """Random numbers for one part of the picture, independent of every other part."""
        return np.random.default_rng((self.seed, part))


class Ground:
    """Colours of the ground as the hour and the weather leave them."""

    def __init__(self, time: str, weather: str) -> None:
        self._light, self._snowy = LIGHT[time], weather == "snow"
        self._grey = 0.25 if weather == "rain" else 0.0

    def __call__(self, colour: Colour, *, lies: bool = True) -> Colour:
        """`lies` says whether snow can lie on it (ground, roofs) or not (water, walls)."""
        if self._snowy and lies:
            colour = mix(colour, (238, 243, 252), 0.72)
        return shade(mix(colour, (120, 126, 132), self._grey), self._light)


def draw_sun(b: Brush, time: str, layout: Layout) -> None:
    """Sun high, sun on the horizon, or moon with stars."""
    x = layout.sun_x
    if time == "day":
        b.ellipse(x, 0.17, 0.095, 0.095, (255, 240, 150))
        b.ellipse(x, 0.17, 0.07, 0.07, (255, 214, 60))
    elif time == "sunset":
        b.ellipse(x, layout.horizon - 0.06, 0.16, 0.16, (255, 206, 110))
        b.ellipse(x, layout.horizon - 0.06, 0.11, 0.11, (255, 110, 60))
    else:
        rng = layout.rng(1)
        for sx, sy in rng.uniform((0.03, 0.03), (0.97, 0.45), (14, 2)):
            b.ellipse(sx, sy, 0.011, 0.011, (235, 235, 210))
        b.ellipse(x, 0.18, 0.09, 0.09, (246, 240, 206))
        b.ellipse(x + 0.04, 0.16, 0.075, 0.075, (24, 29, 68))


def draw_clouds(b: Brush, time: str, layout: Layout) -> None:
    """A lid of cloud along the upper edge, for rain and snow."""
    rng = layout.rng(2)
    colour = OVERCAST[time]
    b.box(0, 0, 1, 0.07, colour)
    for i, (dx, r) in enumerate(rng.uniform((-0.03, 0.09), (0.03, 0.12), (7, 2))):
        b.ellipse(i / 6 + dx, 0.06, r, r * 0.8, colour)


def _hill(base: float, height: float, phase: float, waves: float) -> list[tuple[float, float]]:
    xs = [i / 24 for i in range(25)]
    return [(0, 1), *[(x, base - height * math.sin(phase + waves * x)) for x in xs], (1, 1)]


def meadow(b: Brush, g: Ground, layout: Layout) -> None:
    rng, h = layout.rng(3), layout.horizon
    b.polygon(_hill(h, 0.05, rng.uniform(0, 6), 5), g((104, 178, 84)))
    b.polygon(_hill(h + 0.1, 0.03, rng.uniform(0, 6), 4), g((134, 204, 92)))
    for x, y in rng.uniform((0.03, h + 0.18), (0.97, 0.97), (12, 2)):
        b.ellipse(x, y, 0.016, 0.016, g((250, 240, 130) if x < 0.5 else (244, 150, 170), lies=False))


def beach(b: Brush, g: Ground, layout: Layout) -> None:
    h = layout.horizon
    b.box(0, h, 1, 1, g((36, 150, 190), lies=False))
    b.box(0, h + 0.05, 1, h + 0.07, g((140, 210, 226), lies=False))
    b.polygon(_hill(h + 0.15, 0.02, layout.sun_x * 6, 7), g((250, 250, 240), lies=False))
    b.polygon(_hill(h + 0.17, 0.02, layout.sun_x * 6, 7), g((244, 222, 160)))
    palm, x = layout.side * -0.4 + 0.5, layout.side * -1
    b.line(
        [(palm, h + 0.24), (palm + x * 0.02, h - 0.02), (palm + x * 0.01, h - 0.2)],
        g(WOOD, lies=False),
        0.026,
    )
    for dx, dy in ((-0.13, 0.04), (-0.1, -0.06), (0.0, -0.09), (0.1, -0.06), (0.13, 0.04)):
        tip = (palm + dx, h - 0.2 + dy)
        b.line([(palm + x * 0.01, h - 0.2), tip], g((40, 134, 70), lies=False), 0.03)


def desert(b: Brush, g: Ground, layout: Layout) -> None:
    rng, h = layout.rng(3), layout.horizon
    b.polygon(_hill(h + 0.02, 0.07, rng.uniform(0, 6), 4), g((222, 158, 84)))
    b.polygon(_hill(h + 0.13, 0.05, rng.uniform(0, 6), 5), g((240, 188, 108)))
    x = 0.5 - layout.side * 0.39
    cactus = g((58, 128, 74), lies=False)
    b.line([(x, h + 0.2), (x, h - 0.12)], cactus, 0.05)
    b.line([(x - 0.075, h - 0.05), (x - 0.075, h + 0.03), (x, h + 0.05)], cactus, 0.034)
    b.line([(x + 0.075, h - 0.09), (x + 0.075, h - 0.01), (x, h + 0.01)], cactus, 0.034)


def city(b: Brush, g: Ground, layout: Layout) -> None:
    rng, h = layout.rng(3), layout.horizon
    x = -0.02
    while x < 1.0:
        width, height = rng.uniform(0.11, 0.17), rng.uniform(0.14, 0.36)
        wall = g(((128, 136, 156), (152, 140, 150), (106, 118, 140))[int(rng.integers(3))], lies=False)
        b.box(x, h - height, x + width, h + 0.1, wall)
        lit = (255, 226, 130) if rng.random() < 0.6 else (214, 226, 234)
        for wy in np.arange(h - height + 0.04, h - 0.01, 0.075):
            b.box(x + 0.025, wy, x + width - 0.025, wy + 0.026, g(lit, lies=False) if lit[2] > 200 else lit)
        x += width
    b.box(0, h + 0.08, 1, 1, g((126, 126, 132)))
    b.box(0, h + 0.08, 1, h + 0.11, g((188, 186, 182)))
    for x in (0.02, 0.36, 0.7):
        b.box(x, 0.93, x + 0.2, 0.955, g((240, 236, 200)))


def mountains(b: Brush, g: Ground, layout: Layout) -> None:
    rng, h = layout.rng(3), layout.horizon
    for x, height in zip((0.12, 0.88, 0.5), rng.uniform(0.28, 0.4, 3), strict=True):
        x, rock = x + rng.uniform(-0.06, 0.06), g((112, 112, 136), lies=False)
        b.polygon([(x - height * 0.95, h + 0.05), (x, h - height), (x + height * 0.95, h + 0.05)], rock)
        b.polygon(
            [(x, h - height), (x + height * 0.95, h + 0.05), (x + height * 0.2, h + 0.05)], shade(rock, 0.84)
        )
        t = height * 0.32
        cap = [(x - t * 0.86, h - height + t * 0.9), (x, h - height), (x + t * 0.86, h - height + t * 0.9)]
        b.polygon([*cap, (x + t * 0.3, h - height + t * 0.7), (x, h - height + t), (x - t * 0.3, h - height + t * 0.7)],
                  g((246, 248, 252), lies=False))  # fmt: skip
    b.box(0, h + 0.04, 1, 1, g((132, 138, 104)))
    b.polygon(_hill(h + 0.16, 0.03, rng.uniform(0, 6), 4), g((150, 152, 116)))


def forest(b: Brush, g: Ground, layout: Layout) -> None:
    rng, h = layout.rng(3), layout.horizon
    b.box(0, h, 1, 1, g((58, 104, 66)))
    for row, (base, size, colour) in enumerate(
        ((h + 0.04, 0.3, (44, 98, 74)), (h + 0.12, 0.36, (28, 78, 54)))
    ):
        for i in range(7):
            x = (i + 0.5 * row) / 6 + rng.uniform(-0.02, 0.02)
            top = base - size * rng.uniform(0.85, 1.15)
            b.polygon([(x - 0.1, base), (x, top), (x + 0.1, base)], g(colour, lies=False))
            b.polygon([(x - 0.035, top + 0.1), (x, top), (x + 0.035, top + 0.1)], g(colour))
    b.polygon(_hill(h + 0.15, 0.02, rng.uniform(0, 6), 6), g((84, 128, 70)))


def rainbow(b: Brush, layout: Layout) -> None:
    bands = ((232, 64, 60), (250, 160, 50), (250, 226, 80), (90, 190, 100), (70, 130, 220), (150, 90, 190))
    for i, colour in enumerate(bands):
        b.arc(0.5, layout.horizon + 0.02, 0.475 - 0.022 * i, colour, 0.025)


def kite(b: Brush, layout: Layout) -> None:
    x = 1 - layout.sun_x
    b.line([(x, 0.27), (x + 0.03, 0.34), (x - 0.02, 0.4), (x + 0.02, 0.46)], (236, 70, 130), 0.014)
    b.polygon([(x, 0.08), (x + 0.085, 0.17), (x, 0.29), (x - 0.085, 0.17)], (0, 190, 180), (30, 60, 70))
    b.polygon([(x, 0.08), (x + 0.085, 0.17), (x, 0.17)], (236, 70, 130))
    b.polygon([(x, 0.29), (x - 0.085, 0.17), (x, 0.17)], (236, 70, 130))


def lamp(b: Brush, layout: Layout) -> None:
    x, y = 0.5 + layout.side * 0.41, layout.subject_y - 0.01
    b.line([(x, y), (x, 0.42)], (34, 36, 44), 0.026)
    b.box(x - 0.05, y - 0.02, x + 0.05, y + 0.01, (34, 36, 44))
    b.ellipse(x, 0.38, 0.075, 0.075, (255, 238, 150), (34, 36, 44))
    b.ellipse(x, 0.38, 0.04, 0.04, (255, 252, 224))


def fence(b: Brush, layout: Layout) -> None:
    edge, plank = (84, 54, 34), (206, 160, 108)
    b.box(0, 0.87, 1, 0.905, plank, edge)
    for i in range(8):
        x = i / 7.5 + 0.015
        b.polygon([(x, 0.99), (x, 0.83), (x + 0.032, 0.8), (x + 0.064, 0.83), (x + 0.064, 0.99)], plank, edge)


def draw_fall(b: Brush, weather: str, layout: Layout) -> None:
    """Streaks of rain or flakes of snow in front of everything."""
    rng = layout.rng(4)
    spots = rng.uniform((0, 0.02), (1, 0.95), (26, 2))
    if weather == "rain":
        for x, y in spots:
            b.line([(x, y), (x - 0.03, y + 0.085)], (196, 220, 244), 0.014)
    elif weather == "snow":
        for x, y in spots:
            b.ellipse(x, y, 0.019, 0.019, (252, 253, 255))


PLACES: dict[str, Callable[[Brush, Ground, Layout], None]] = {
    f.__name__: f for f in (meadow, beach, desert, city, mountains, forest)
}
BEHIND: dict[str, Callable[[Brush, Layout], None]] = {"rainbow": rainbow, "kite": kite}
BESIDE: dict[str, Callable[[Brush, Layout], None]] = {"lamp": lamp}
BEFORE: dict[str, Callable[[Brush, Layout], None]] = {"fence": fence}

"""The ten subjects, each drawn in its own frame: feet at y = 0, about two units wide and tall."""

from collections.abc import Callable

from ip2p_lib.scenes.brush import INK, WHITE, Brush, Colour, mix, shade

PALETTE: dict[str, Colour] = {
    "red": (216, 36, 40),
    "orange": (247, 132, 24),
    "yellow": (252, 218, 46),
    "green": (52, 168, 70),
    "blue": (40, 104, 220),
    "purple": (132, 60, 190),
    "pink": (248, 140, 192),
    "white": (248, 247, 240),
}
GLASS: Colour = (190, 226, 240)
WOOD: Colour = (122, 78, 46)
CREAM: Colour = (246, 230, 200)
STEEL: Colour = (96, 100, 112)


class Paints:
    """The shades one subject is drawn with, all made from its colour."""

    def __init__(self, colour: Colour) -> None:
        self.main = colour
        self.dark = shade(colour, 0.74)
        self.light = mix(colour, WHITE, 0.42)
        self.edge = mix(shade(colour, 0.25), INK, 0.5)


def house(b: Brush, p: Paints) -> None:
    b.box(0.4, -1.75, 0.65, -1.1, p.dark, p.edge)
    b.box(-0.85, -1.0, 0.85, 0, p.main, p.edge)
    b.polygon([(-1.1, -0.95), (0, -1.8), (1.1, -0.95)], p.dark, p.edge)
    b.box(-0.18, -0.6, 0.22, 0, WOOD, p.edge)
    b.box(-0.68, -0.75, -0.36, -0.4, GLASS, p.edge)
    b.box(0.38, -0.75, 0.7, -0.4, GLASS, p.edge)


def car(b: Brush, p: Paints) -> None:
    b.polygon([(-0.68, -0.66), (-0.42, -1.2), (0.4, -1.2), (0.72, -0.66)], p.main, p.edge)
    b.polygon([(-0.5, -0.7), (-0.32, -1.06), (-0.04, -1.06), (-0.04, -0.7)], GLASS)
    b.polygon([(0.08, -0.7), (0.08, -1.06), (0.3, -1.06), (0.52, -0.7)], GLASS)
    b.polygon(
        [(-1.2, -0.2), (-1.2, -0.55), (-1.0, -0.7), (1.0, -0.7), (1.2, -0.5), (1.2, -0.2)], p.main, p.edge
    )
    b.box(-1.1, -0.34, 1.1, -0.24, p.dark)
    b.ellipse(1.08, -0.5, 0.1, 0.1, CREAM)
    for x in (-0.65, 0.65):
        b.ellipse(x, -0.22, 0.3, 0.3, INK)
        b.ellipse(x, -0.22, 0.13, 0.13, (200, 200, 204))


def cat(b: Brush, p: Paints) -> None:
    b.line([(0.5, -0.2), (1.0, -0.35), (1.05, -0.9), (0.85, -1.05)], p.edge, 0.05)
    b.line([(0.5, -0.2), (1.0, -0.35), (1.05, -0.9), (0.87, -1.03)], p.main, 0.032)
    b.ellipse(0, -0.52, 0.62, 0.58, p.main, p.edge)
    b.ellipse(0, -0.42, 0.34, 0.4, p.light)
    for side in (-1, 1):
        b.polygon([(side * 0.5, -1.3), (side * 0.5, -2.0), (side * 0.08, -1.6)], p.main, p.edge)
        b.ellipse(side * 0.27, -0.06, 0.2, 0.12, p.light, p.edge)
    b.ellipse(0, -1.28, 0.58, 0.48, p.main, p.edge)
    for side in (-1, 1):
        b.ellipse(side * 0.24, -1.34, 0.12, 0.14, WHITE)
        b.ellipse(side * 0.24, -1.33, 0.07, 0.11, INK)
    b.polygon([(-0.08, -1.17), (0.08, -1.17), (0, -1.07)], (150, 60, 70))


def robot(b: Brush, p: Paints) -> None:
    for x in (-0.32, 0.32):
        b.box(x - 0.16, -0.4, x + 0.16, 0, STEEL, p.edge)
    for side in (-1, 1):
        b.line([(side * 0.6, -0.95), (side * 0.92, -0.8), (side * 0.92, -0.45)], p.edge, 0.05)
        b.line([(side * 0.6, -0.95), (side * 0.92, -0.8), (side * 0.92, -0.47)], STEEL, 0.03)
    b.box(-0.64, -1.15, 0.64, -0.35, p.main, p.edge)
    b.box(-0.34, -0.95, 0.34, -0.55, p.light, p.edge)
    b.line([(0, -1.8), (0, -2.1)], p.edge, 0.018)
    b.ellipse(0, -2.1, 0.12, 0.12, p.main, p.edge)
    b.box(-0.52, -1.85, 0.52, -1.2, p.main, p.edge)
    for x in (-0.24, 0.24):
        b.ellipse(x, -1.58, 0.15, 0.15, WHITE, p.edge)
        b.ellipse(x, -1.58, 0.06, 0.06, INK)
    b.box(-0.26, -1.36, 0.26, -1.28, INK)


def mushroom(b: Brush, p: Paints) -> None:
    b.polygon([(-0.34, -0.95), (0.34, -0.95), (0.44, 0), (-0.44, 0)], CREAM, p.edge)
    b.dome(0, -0.82, 1.05, 0.98, p.main, p.edge)
    spot = p.dark if min(p.main) > 200 else WHITE
    for x, y, r in ((-0.55, -1.08, 0.17), (0.02, -1.45, 0.2), (0.55, -1.12, 0.17), (0.02, -1.02, 0.12)):
        b.ellipse(x, y, r, r * 0.85, spot)


def balloon(b: Brush, p: Paints) -> None:
    for x in (-0.3, 0.3):
        b.line([(x * 1.9, -1.15), (x, -0.55)], p.edge, 0.01)
    b.polygon([(-0.72, -1.2), (0.72, -1.2), (0.28, -0.72), (-0.28, -0.72)], p.dark, p.edge)
    b.ellipse(0, -1.5, 0.88, 0.82, p.main, p.edge)
    b.ellipse(0, -1.5, 0.5, 0.81, p.light)
    b.ellipse(0, -1.5, 0.24, 0.81, p.main)
    b.box(-0.3, -0.58, 0.3, -0.2, WOOD, p.edge)


def rocket(b: Brush, p: Paints) -> None:
    b.polygon([(-0.26, -0.42), (0.26, -0.42), (0, 0.05)], (250, 190, 60))
    b.polygon([(-0.14, -0.42), (0.14, -0.42), (0, -0.18)], (240, 100, 40))
    for side in (-1, 1):
        b.polygon([(side * 0.3, -1.0), (side * 0.82, -0.3), (side * 0.3, -0.5)], p.dark, p.edge)
    body = [(-0.32, -0.42), (-0.44, -0.9), (-0.4, -1.4), (-0.22, -1.85), (0, -2.15)]
    b.polygon([*body, *[(-x, y) for x, y in reversed(body[:-1])]], p.main, p.edge)
    b.polygon([(-0.25, -1.8), (0, -2.15), (0.25, -1.8)], p.dark, p.edge)
    b.ellipse(0, -1.25, 0.2, 0.2, GLASS, p.edge)
    b.box(-0.4, -0.72, 0.4, -0.6, p.light)


def sailboat(b: Brush, p: Paints) -> None:
    b.line([(0, -0.3), (0, -2.05)], WOOD, 0.02)
    b.polygon([(0.08, -2.0), (0.08, -0.55), (1.0, -0.55)], p.main, p.edge)
    b.polygon([(-0.08, -1.75), (-0.08, -0.55), (-0.8, -0.55)], p.light, p.edge)
    b.polygon([(-1.1, -0.42), (1.15, -0.42), (0.8, 0), (-0.75, 0)], WOOD, p.edge)
    b.line([(-1.0, -0.3), (1.05, -0.3)], CREAM, 0.014)


def umbrella(b: Brush, p: Paints) -> None:
    b.line([(0, -1.9), (0, -0.15), (0.1, -0.02), (0.24, -0.02), (0.32, -0.18)], WOOD, 0.022)
    b.dome(0, -0.95, 1.15, 0.95, p.main, p.edge)
    b.dome(0, -0.95, 0.66, 0.94, p.light)
    b.dome(0, -0.95, 0.24, 0.94, p.main)
    for i in range(4):
        b.ellipse(-0.86 + i * 0.575, -0.95, 0.29, 0.1, p.dark)
    b.line([(0, -1.88), (0, -2.02)], p.edge, 0.02)


def castle(b: Brush, p: Paints) -> None:
    b.box(-0.7, -1.05, 0.7, 0, p.main, p.edge)
    for x in (-0.45, -0.1, 0.25):
        b.box(x, -1.25, x + 0.2, -1.0, p.main)
    for side in (-1, 1):
        b.box(side * 0.85 - 0.27, -1.4, side * 0.85 + 0.27, 0, p.light, p.edge)
        b.polygon(
            [(side * 0.85 - 0.36, -1.4), (side * 0.85 + 0.36, -1.4), (side * 0.85, -2.05)], p.dark, p.edge
        )
        b.box(side * 0.85 - 0.08, -1.1, side * 0.85 + 0.08, -0.8, INK)
    b.box(-0.24, -0.5, 0.24, 0, WOOD)
    b.dome(0, -0.48, 0.24, 0.22, WOOD)


DRAW: dict[str, Callable[[Brush, Paints], None]] = {
    f.__name__: f for f in (house, car, cat, robot, mushroom, balloon, rocket, sailboat, umbrella, castle)
}

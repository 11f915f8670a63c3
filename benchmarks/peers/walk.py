"""A reproducible walk over a slide: the same views in every viewer, whatever its gestures."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from peers.slides import NETWORK_TILE, BenchSlide

REACH = 0.6  # of the stage: the longest drag


@dataclass(frozen=True)
class Gesture:
    """Twice as near (`zoom` 1), twice as far (-1), or a drag by `dx, dy` screen px (0)."""

    zoom: int
    dx: int = 0
    dy: int = 0


def walk(slide: BenchSlide, stage: tuple[float, float], *, seed: int) -> Iterator[Gesture]:
    """Yield gestures without end, from the whole slide on: over its left piece of tissue."""
    rng = random.Random(seed)
    width, height = slide.size
    wide, high = stage
    furthest = max(width / wide, height / high)  # slide px a screen px
    # the left piece of tissue, as the slide is made: an ellipse in level-0 px
    centre_x, centre_y = 0.27 * width, height / 2
    long = (slide.n_tissue / 2 * NETWORK_TILE**2 / math.pi / 0.7) ** 0.5
    yield Gesture(1)
    upp, x, y = furthest / 2, centre_x, centre_y
    yield Gesture(0, round((width / 2 - centre_x) / upp))
    while True:
        zoom = rng.choices((0, 1, -1), (5, 3, 2))[0]
        if zoom and 1 <= upp / 2**zoom <= furthest / 2:
            upp /= 2**zoom
            yield Gesture(zoom)
        angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.25, REACH)
        dx, dy = round(reach * wide * math.cos(angle)), round(reach * high * math.sin(angle))
        to_x, to_y = x - dx * upp, y - dy * upp
        inside_x = abs(to_x - centre_x) < max(0.6 * long, 0.2 * wide * upp)
        inside_y = abs(to_y - centre_y) < max(0.8 * long, 0.2 * high * upp)
        if not zoom and inside_x and inside_y:
            x, y = to_x, to_y
            yield Gesture(0, dx, dy)

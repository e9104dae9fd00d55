"""From clean ink to one image of a class: another hand, another pen, another sheet of paper."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glyphs.render import draw, fonts_with

SIZE = 28
LEVELS = 16
_SCALE = 3  # images are composed at three times their size, then averaged down
_CANVAS = SIZE * _SCALE
_INK = 54


@dataclass(frozen=True)
class Strength:
    """How much the images of one class differ; lengths are in pixels of the composed image."""

    turn: float = 0.35
    shear: float = 0.3
    stretch: float = 0.25
    shift: float = 6.0
    bend: float = 2.6
    bend_knots: int = 5
    thinnest: float = 1.5
    thickest: float = 4.0
    pressure: float = 0.8
    contrast: float = 0.35
    paper: float = 0.08
    grain: float = 0.08


def image_of(character: str, seed: int, number: int, strength: Strength = Strength()) -> NDArray[np.uint8]:
    """Make image `number` of the class of `character`.

    Args:
        character: a character that at least one of the fonts covers.
        seed: the dataset's seed.
        number: which image of the class; every image has its own random stream, so it can be made alone.
        strength: how much the images differ.

    Returns:
        Gray levels from 0 to `LEVELS` - 1, uint8 [28, 28].
    """
    random = np.random.Generator(np.random.Philox(key=[seed, ord(character)], counter=[0, 0, 0, number]))
    font = random.choice(fonts_with(character))
    distance, half_stroke = _distance_to_edge(character, str(font))
    warped = ndimage.map_coordinates(distance, _pose(random, strength), order=1, mode="nearest")
    ink = _inked(warped, half_stroke, random, strength)
    small = ink.reshape(SIZE, _SCALE, SIZE, _SCALE).mean((1, 3))
    gray = _on_paper(small, random, strength)
    return np.rint(np.clip(gray, 0, 1) * (LEVELS - 1)).astype(np.uint8)


@cache
def _distance_to_edge(character: str, font: str) -> tuple[NDArray[np.float64], float]:
    """Distance to the ink's edge, positive inside, and half of the typical stroke width."""
    clean = draw(character, font, _CANVAS, _INK) > 0.5
    inside = ndimage.distance_transform_edt(clean)
    outside = ndimage.distance_transform_edt(~clean)
    ridge = inside[(inside == ndimage.maximum_filter(inside, 3)) & clean]
    return inside - outside, float(np.median(ridge))


def _pose(random: np.random.Generator, strength: Strength) -> NDArray[np.float64]:
    """Where each pixel of the image looks in the clean character, [2, canvas, canvas]."""
    turn, shear = random.uniform(-1, 1, 2) * (strength.turn, strength.shear)
    stretch = np.exp(random.uniform(-1, 1, 2) * strength.stretch)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    affine = rotation @ np.array([[1, 0], [shear, 1]]) @ np.diag(stretch)
    grid = np.indices((_CANVAS, _CANVAS)) - (_CANVAS - 1) / 2
    shift = random.uniform(-1, 1, (2, 1, 1)) * strength.shift
    straight = np.tensordot(affine, grid - shift, 1) + (_CANVAS - 1) / 2
    bend = np.stack([_smooth(random, strength.bend_knots, _CANVAS) for _ in range(2)])
    return np.asarray(straight + strength.bend * bend)


def _inked(
    distance: NDArray[np.float64], half_stroke: float, random: np.random.Generator, strength: Strength
) -> NDArray[np.float64]:
    """Ink where the pen reaches; moving the edge in and out erodes and dilates, unevenly where pressure varies."""
    wanted = random.uniform(strength.thinnest, strength.thickest) - half_stroke
    edge = max(wanted, -0.5 * half_stroke) + strength.pressure * _smooth(random, 6, _CANVAS)
    softness = random.uniform(0.4, 1.4)
    return np.asarray(1 / (1 + np.exp(-np.clip((distance + edge) / softness, -30, 30))))


def _on_paper(ink: NDArray[np.float64], random: np.random.Generator, strength: Strength) -> NDArray[np.float64]:
    """Lay ink on a sheet with uneven light, blotches and grain."""
    light = 1 - random.uniform(0, strength.contrast)
    dark = random.uniform(0, strength.contrast)
    slope = random.uniform(-1, 1, 2) * strength.paper
    rows, columns = np.indices((SIZE, SIZE)) / (SIZE - 1) - 0.5
    paper = light + slope[0] * rows + slope[1] * columns + strength.paper * _smooth(random, 5, SIZE)
    grain = random.uniform(0, strength.grain) * random.standard_normal((SIZE, SIZE))
    return np.asarray(paper * (1 - ink) + dark * ink + grain)


def _smooth(random: np.random.Generator, knots: int, size: int) -> NDArray[np.float64]:
    """A smooth random field of about unit variance, [size, size]."""
    field = ndimage.zoom(random.standard_normal((knots, knots)), size / knots, order=3, mode="nearest")
    return np.asarray(field[:size, :size])

"""Which characters could be taken for one another: normalised correlation of clean renderings.

Two classes of one split are compared over small shifts, turns and stretches. Two classes of different splits are also
compared over mirror images and quarter turns, and without their dots, so that a novel class is no disguised base class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewshot_bench.datasets.dataset import SplitName
from glyphs.render import draw, fonts_with
from glyphs.scripts import Script

WITHIN_LIMIT = 0.84
ACROSS_LIMIT = 0.84
_CANVAS = 28
_INK = 20
_BLUR = 1.0
_DOTS = 0.3  # parts with less ink than this share of the largest part count as dots
_TURNS = (-16, -8, 0, 8, 16)
_SHIFTS = (-1, 0, 1)
_STRETCHES = (0.75, 1.0, 1.33)


def similarities(character: str, others: Sequence[str], *, across_splits: bool) -> NDArray[np.float32]:
    """How alike a character and others are, each in the most similar fonts and poses.

    Args:
        character: the character that is turned, stretched and shifted.
        others: characters that are not, [C].
        across_splits: whether mirror images and quarter turns count too, and dots do not.

    Returns:
        The highest correlation with each, 1 for the same shape, [C].
    """
    if not others:
        return np.zeros(0, np.float32)
    upright = [_upright(other, across_splits) for other in others]
    starts = np.cumsum([0] + [len(faces) for faces in upright[:-1]])
    best = (_poses(character, across_splits) @ np.concatenate(upright).T).max(0)
    return np.asarray(np.maximum.reduceat(best, starts), dtype=np.float32)


def look_alikes(splits: Mapping[SplitName, Sequence[str]], tolerance: float = 0.0) -> list[tuple[str, str, float]]:
    """Find all pairs of characters that are too similar for where they stand.

    Args:
        splits: the characters of each split.
        tolerance: added to the limits, for what another FreeType or the order of a pair changes.

    Returns:
        Pairs over their limit with their similarity; empty for a sound choice.
    """
    placed: list[tuple[str, SplitName]] = []
    pairs = []
    for split, characters in splits.items():
        for character in characters:
            pairs += _resembling(character, split, placed, tolerance)
            placed.append((character, split))
    return pairs


def choose(candidates: Mapping[str, Sequence[str]], scripts: Mapping[str, Script]) -> dict[str, str]:
    """Pick characters greedily, skipping whatever resembles one already picked.

    Splits are filled one after the other, and the scripts of a split take turns, so that no script runs dry because
    a neighbour came first.

    Args:
        candidates: the characters of each script, in order of preference.
        scripts: the split and the quota of each script.

    Returns:
        The picked characters of each script, at most its quota, in code point order.
    """
    picked = dict.fromkeys(scripts, "")
    for split in dict.fromkeys(script.split for script in scripts.values()):
        waiting = {name: list(candidates[name]) for name, script in scripts.items() if script.split == split}
        while waiting:
            for name, characters in list(waiting.items()):
                picked[name] += _next_distinct(characters, split, picked, scripts)
                if not characters or len(picked[name]) == scripts[name].quota:
                    del waiting[name]
    return {name: "".join(sorted(characters)) for name, characters in picked.items()}


def _next_distinct(
    characters: list[str], split: SplitName, picked: Mapping[str, str], scripts: Mapping[str, Script]
) -> str:
    placed = [(other, scripts[name].split) for name, others in picked.items() for other in others]
    while characters:
        character = characters.pop(0)
        if not _resembling(character, split, placed):
            return character
    return ""


def _resembling(
    character: str, split: SplitName, placed: Sequence[tuple[str, SplitName]], tolerance: float = 0.0
) -> list[tuple[str, str, float]]:
    pairs = []
    for across, limit in ((False, WITHIN_LIMIT), (True, ACROSS_LIMIT)):
        others = [other for other, other_split in placed if (other_split != split) == across]
        values = similarities(character, others, across_splits=across)
        pairs += [
            (other, character, float(value))
            for other, value in zip(others, values, strict=True)
            if value >= limit + tolerance
        ]
    return pairs


@cache
def _upright(character: str, across_splits: bool) -> NDArray[np.float32]:
    """One normalised rendering per font, and one without dots if asked, [faces, pixels]."""
    return _normalised(np.stack(_faces(character, across_splits)))


def _poses(character: str, across_splits: bool) -> NDArray[np.float32]:
    """Every font turned, stretched and shifted, and mirrored and turned by quarters if asked, [poses, pixels]."""
    posed = np.stack(
        [
            _posed(symmetry, math.radians(degrees), stretch)
            for face in _faces(character, across_splits)
            for symmetry in (_symmetries(face) if across_splits else [face])
            for degrees, stretch in product(_TURNS, _STRETCHES)
        ]
    )
    shifted = [np.roll(posed, shift, (1, 2)) for shift in product(_SHIFTS, _SHIFTS)]
    return _normalised(np.concatenate(shifted))


def _posed(image: NDArray[np.float32], turn: float, stretch: float) -> NDArray[np.float32]:
    """Turn an image about its centre and make it `stretch` times as wide and as narrow in height."""
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    affine = rotation @ np.diag([math.sqrt(stretch), 1 / math.sqrt(stretch)])
    centre = np.full(2, (_CANVAS - 1) / 2)
    return ndimage.affine_transform(image, affine, centre - affine @ centre, order=1)


def _faces(character: str, across_splits: bool) -> list[NDArray[np.float32]]:
    regular = [font for font in fonts_with(character) if "Bol" not in font]
    faces = [draw(character, font, _CANVAS, _INK) for font in regular]
    if across_splits:
        faces += [draw(character, font, _CANVAS, _INK, without_parts_below=_DOTS) for font in regular]
    return [np.asarray(ndimage.gaussian_filter(face, _BLUR), dtype=np.float32) for face in faces]


def _symmetries(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    quarters = [np.rot90(image, turns) for turns in range(4)]
    return quarters + [np.fliplr(quarter) for quarter in quarters]


def _normalised(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flatten images [I, H, W] to rows of zero mean and unit length, [I, pixels]."""
    rows = images.reshape(len(images), -1)
    centred = rows - rows.mean(1, keepdims=True)
    return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True), dtype=np.float32)

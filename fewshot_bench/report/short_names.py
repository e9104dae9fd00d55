"""Long names where there is little room: cut so that they stay different from each other."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Sequence

from fewshot_bench.outcomes import TRANSDUCTIVE

_CUT = "…"


def shared_stages(names: Sequence[str]) -> str:
    """What all methods begin with, whole stages with the slash behind them; empty for a single method.

    Args:
        names: of methods; those without stages, such as published ones, do not count.

    >>> shared_stages(["lite0@image_size=128/knn", "lite0@image_size=128/tim@alpha=2", "ResNet-12 MetaOptNet"])
    'lite0@image_size=128/'
    """
    stages = [name.split("/") for name in dict.fromkeys(names) if "/" in name]
    shared = 0
    while len(stages) > 1 and all(len(some) > shared + 1 and some[shared] == stages[0][shared] for some in stages):
        shared += 1
    return "".join(f"{stage}/" for stage in stages[0][:shared]) if stages else ""


def short_name(name: str, longest: int) -> str:
    """A name with its middle left out if it has more than `longest` letters."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}{_CUT}{name[-half:]}"


def short_names(names: Sequence[str], longest: int) -> list[str]:
    """Names of at most `longest` letters; those that the middle tells apart are cut at the ends instead.

    Where one is longer, the stages that all methods share are left out first. Where nothing helps, names get the
    numbers of their places, from 1.
    """
    if any(len(name) > longest for name in names):
        shared = shared_stages(names)
        names = [name.removeprefix(shared) for name in names]
    short = [short_name(name, longest) for name in names]
    for text in {text for text in short if short.count(text) > 1}:
        alike = [place for place, other in enumerate(short) if other == text]
        if len({names[place] for place in alike}) > 1:
            same = len(os.path.commonprefix([names[place] for place in alike]))  # noqa: RUF071  # letters are meant
            start = max(0, same - longest // 3)
            for place in alike:
                short[place] = _window(names[place], start, longest)
    return [f"{text} #{place}" if short.count(text) > 1 else text for place, text in enumerate(short, 1)]


def marked_names(
    names: Sequence[str], transductive: Collection[str], longest: int, mark: str = TRANSDUCTIVE
) -> list[str]:
    """Names of at most `longest` letters in which transductive methods say so: the mark is never cut.

    Args:
        names: of the methods.
        transductive: which of them are.
        longest: of a name with its mark.
        mark: what stands behind the name of a transductive one.
    """
    room = longest - len(mark) if any(name in transductive for name in names) else longest
    short = short_names(names, room)
    return [f"{text}{mark}" if name in transductive else text for name, text in zip(names, short, strict=True)]


def _window(name: str, start: int, longest: int) -> str:
    room = longest - 1 if start else longest
    rest = name[start:]
    return (_CUT if start else "") + (rest if len(rest) <= room else f"{rest[: room - 1]}{_CUT}")

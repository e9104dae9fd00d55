"""How the pixels of a dataset came about, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def recipe_line(recipe: Mapping[str, Any]) -> str:
    """How the pixels of a dataset came about, in one line."""
    words = [str(recipe.get("source", "unknown source"))]
    if recipe.get("resize", "none") != "none":
        words += [f"resized to {recipe['resize']}", str(recipe.get("fit", "")), str(recipe.get("interpolation", ""))]
    if recipe.get("divided", "as it lay") != "as it lay":
        words.append(f"divided by {recipe['divided']}")
    if recipe.get("least_images", 1) > 1:
        words.append(f"classes of {recipe['least_images']} images and more")
    if "more_than_8_bits" in recipe:
        words.append(f"values {recipe['more_than_8_bits']} as black to white")
    if "class_depth" in recipe:
        words.append(f"classes {recipe['class_depth']} folders deep")
    if "layout" in recipe:
        words.append(f"folders taken as {recipe['layout']}")
    if "pillow" in recipe:
        words.append(f"Pillow {recipe['pillow']}")
    return ", ".join(word for word in words if word)


def left_out_lines(recipe: Mapping[str, Any]) -> list[str]:
    """Everything that was left out of a dataset: one line for each reason, with the number and the first example."""
    classes = [
        f"class {name}, which has {size} {images}"
        for key, images in (("small_classes", "images"), ("unreadable_classes", "readable images"))
        for name, size in recipe.get(key, {}).items()
    ]
    skipped = recipe.get("left_out", by_reason(recipe.get("skipped", [])))
    return [*skipped, *clutter_lines(recipe.get("clutter", {})), *classes]


def by_reason(skipped: Iterable[tuple[str, str]]) -> list[str]:
    """Files or rows that were left out, in a line for each reason.

    >>> by_reason([("row 9", "no label"), ("a/x.png", "the file is empty"), ("row 10", "no label")])
    ['2 rows: no label (first: row 9)', 'a/x.png: the file is empty']
    """
    names: dict[str, list[str]] = {}
    for name, reason in skipped:
        names.setdefault(reason, []).append(name)
    return [
        f"{found[0]}: {reason}"
        if len(found) == 1
        else f"{len(found):,} {'rows' if found[0].startswith('row ') else 'files'}: {reason} (first: {found[0]})"
        for reason, found in names.items()
    ]


def clutter_lines(kinds: Mapping[str, int]) -> list[str]:
    """What systems and synchronisers had left among the images, in one line, or none."""
    if not kinds:
        return []
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    return [f"files and folders of systems and synchronisers ({counts}); docs/datasets.md lists them"]

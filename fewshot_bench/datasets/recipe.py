"""How the pixels of a dataset came about, for people."""

from __future__ import annotations

from collections.abc import Mapping
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
    if "pillow" in recipe:
        words.append(f"Pillow {recipe['pillow']}")
    return ", ".join(word for word in words if word)

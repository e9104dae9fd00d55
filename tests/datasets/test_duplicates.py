from __future__ import annotations

import io

import numpy as np
from conftest import toy_split
from PIL import Image, ImageFilter, ImageOps

from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.datasets.duplicates import find_duplicates


def split(name: str, images: list[np.ndarray]) -> ImageSplit:
    return ImageSplit("toy", name, np.stack(images), ("a",), (len(images),), name)


def scenes(count: int, *, seed: int, size: int = 48) -> list[np.ndarray]:
    """Smooth pictures, as photographs are smooth."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    blurred = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(5)) for image in noise]
    return [np.asarray(ImageOps.autocontrast(image)) for image in blurred]


def recompressed(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=80)
    return np.asarray(Image.open(file))


def test_different_images_are_no_duplicates():
    found = find_duplicates({"base": split("base", scenes(60, seed=1)), "novel": split("novel", scenes(60, seed=2))})
    assert (found.exact, found.near, found.within_splits) == (0, 0, 0)


def test_equal_images_in_two_splits_are_named():
    base, novel = scenes(20, seed=1), scenes(20, seed=2)
    novel[7] = base[3]
    novel[9] = base[3]
    found = find_duplicates({"base": split("base", base), "novel": split("novel", novel)})
    assert found.exact == 3
    assert found.within_splits == 1
    assert found.exact_pairs == [("base/a/0003", "novel/a/0007")]
    assert found.near == 0


def test_equal_images_in_one_split_are_only_counted():
    base = scenes(20, seed=1)
    base[5] = base[6]
    found = find_duplicates({"base": split("base", base), "novel": split("novel", scenes(20, seed=2))})
    assert (found.exact, found.within_splits) == (0, 1)


def test_equal_images_of_one_class_are_named_with_the_first():
    novel = scenes(20, seed=1)
    novel[5] = novel[8] = novel[2]
    found = find_duplicates({"novel": split("novel", novel)})
    assert (found.within_classes, found.across_classes) == (2, 0)
    assert found.equal_pairs == [("novel/a/0002", "novel/a/0005"), ("novel/a/0002", "novel/a/0008")]


def test_a_recompressed_copy_in_another_split_is_a_near_duplicate():
    base, novel = scenes(40, seed=1), scenes(40, seed=2)
    for place in (4, 11, 30):
        novel[place] = recompressed(base[place + 1])
    found = find_duplicates({"base": split("base", base), "novel": split("novel", novel)})
    assert found.exact == 0
    assert found.near_pairs == [(f"base/a/{p + 1:04d}", f"novel/a/{p:04d}") for p in (4, 11, 30)]


def test_images_too_small_for_a_thumbnail_are_compared_exactly():
    small = toy_split("base", size=6)
    other = toy_split("novel", size=6, seed=1)
    assert find_duplicates({"base": small, "novel": other}).near == 0
    assert find_duplicates({"base": small, "novel": small}).exact == 2 * len(small)

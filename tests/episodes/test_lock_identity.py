"""Lock files name images, not files: what they compare, and what they cannot."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import toy_split

from fewshot_bench.datasets.dataset import Dataset, ImageSplit
from fewshot_bench.datasets.official_splits import mini_imagenet_ranks, official_class_sizes
from fewshot_bench.episodes import Protocol
from fewshot_bench.episodes.locks import lock, published_locks_folder, read_lock, verify_lock, write_lock


def named(images: ImageSplit, prefix: str = "") -> ImageSplit:
    names = np.array([f"{prefix}{number:05d}.jpg".encode() for number in range(len(images))])
    return dataclasses.replace(images, image_names=names)


def dataset(images: ImageSplit, identified_by: str) -> Dataset:
    return Dataset("toy", {"novel": images}, {}, identified_by)


PROTOCOL = Protocol("toy", episodes=5, query=2)


@pytest.mark.parametrize(
    ("published", "here", "match"),
    [
        (dataset(named(toy_split()), "names"), dataset(named(toy_split(seed=9)), "names"), True),
        (dataset(named(toy_split()), "names"), dataset(named(toy_split(), "x"), "names"), False),
        (dataset(named(toy_split()), "names"), dataset(toy_split(), "ranks"), None),
        (dataset(toy_split(), "pixels"), dataset(toy_split(), "pixels"), True),
        (dataset(toy_split(), "pixels"), dataset(toy_split(seed=9), "pixels"), False),
    ],
    ids=["same names, other pixels", "other names", "names unknown", "same pixels", "other pixels"],
)
def test_a_lock_compares_names_where_there_are_names_and_pixels_elsewhere(tmp_path, published, here, match):
    verdict = verify_lock(write_lock(lock(published, PROTOCOL), tmp_path), here)
    assert verdict.episodes_match
    assert verdict.images_match is match
    assert verdict.is_good is (match is not False)


def test_the_lock_of_mini_imagenet_names_the_official_images():
    splits = {}
    for split, sizes in official_class_sizes("mini-imagenet").items():
        names = [f"{label}{rank:08d}.jpg".encode() for label in sizes for rank in mini_imagenet_ranks()[label]]
        empty = np.empty((0, 1, 1, 3), np.uint8)
        splits[split] = ImageSplit(
            "mini-imagenet", split, empty, tuple(sizes), tuple(sizes.values()), "", image_names=np.array(names)
        )
    identity = Dataset("mini-imagenet", splits, {}, "names").identity
    for shot in (1, 5):
        assert read_lock(published_locks_folder() / f"mini-imagenet-5way-{shot}shot.toml").images == identity


@pytest.mark.parametrize("name", ["mini-imagenet", "tiered-imagenet"])
def test_published_locks_are_for_the_official_class_sizes(name):
    for shot in (1, 5):
        frozen = read_lock(published_locks_folder() / f"{name}-5way-{shot}shot.toml")
        assert frozen.class_sizes == tuple(official_class_sizes(name)["novel"].values())

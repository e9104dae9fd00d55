"""Backbones that have seen the novel classes are flagged."""

from __future__ import annotations

from itertools import permutations

import pytest

from fewshot_bench.datasets.official_splits import cifar_class_names, ilsvrc_class_sizes, official_classes
from fewshot_bench.report.leaderboard_rows import SHARED_NOVEL_CLASSES, pretraining_overlap

BENCHMARKS = ("cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet", "cub", "omniglot", "omniglot-lake")


@pytest.mark.parametrize("dataset", ["mini-imagenet", "tiered-imagenet"])
def test_imagenet_weights_are_flagged_where_every_novel_class_is_one_of_imagenet(dataset):
    assert set(official_classes(dataset)["novel"]) <= set(ilsvrc_class_sizes())
    assert pretraining_overlap("ImageNet-1k", dataset).flag == "novel classes are in ImageNet-1k"
    found = pretraining_overlap("ImageNet-21k, ImageNet-1k", dataset)
    assert found.kind == "shared"
    assert found.flag == "novel classes are in ImageNet-21k; novel classes are in ImageNet-1k"


@pytest.mark.parametrize("dataset", ["cifar-fs", "fc100"])
def test_imagenet_weights_are_not_flagged_on_images_that_are_not_of_imagenet(dataset):
    assert set(official_classes(dataset)["novel"]) <= set(cifar_class_names())
    assert pretraining_overlap("ImageNet-1k", dataset).flag == ""


def test_the_classes_that_benchmarks_share_are_counted_from_the_official_splits():
    counted = {}
    for trained_on, tested_on in permutations(BENCHMARKS, 2):
        base, novel = official_classes(trained_on)["base"], official_classes(tested_on)["novel"]
        shared = {name.partition("/rot")[0] for name in base} & {name.partition("/rot")[0] for name in novel}
        if shared:
            counted[trained_on, tested_on] = len(shared)
    assert counted == SHARED_NOVEL_CLASSES


@pytest.mark.parametrize(
    ("pretraining", "dataset", "kind", "flag"),
    [
        ("", "mini-imagenet", "none", ""),
        ("unknown", "mini-imagenet", "unknown", "pretraining unknown"),
        (None, "mini-imagenet", "unknown", "pretraining not recorded"),
        ("LAION-2B", "tiered-imagenet", "unknown", "overlap with LAION-2B unknown"),
        ("LAION-2B, ImageNet-1k", "tiered-imagenet", "shared", "novel classes are in ImageNet-1k"),
        ("ImageNet-1k", "my-birds", "unknown", "overlap with ImageNet-1k unknown"),
        ("ImageNet-1k", "glyphs", "none", ""),
        ("ImageNet-1k", "cub", "shared", "8 novel images are in ImageNet-1k"),
        ("ImageNet-1k", "EuroSAT", "unknown", "overlap with ImageNet-1k unknown"),
        (
            "base split of omniglot", "omniglot-lake", "shared",
            "236 novel classes are in the base split of omniglot",
        ),
        ("base split of mini-imagenet", "mini-imagenet", "none", ""),
        (
            "base split of tiered-imagenet", "mini-imagenet", "shared",
            "5 novel classes are in the base split of tiered-imagenet",
        ),
        ("base split of cifar-fs", "mini-imagenet", "none", ""),
        ("base split of my-birds", "cifar-fs", "unknown", "overlap with the base split of my-birds unknown"),
        ("unknown, base split of cifar-fs", "cifar-fs", "unknown", "pretraining unknown"),
    ],
)  # fmt: skip
def test_what_is_flagged(pretraining, dataset, kind, flag):
    found = pretraining_overlap(pretraining, dataset)
    assert (found.kind, found.flag) == (kind, flag)

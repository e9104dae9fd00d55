"""The official splits, as published: which classes are base, validation and novel, and which images they have."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from fewshot_bench.datasets.dataset import SplitName

_PUBLISHED_NAMES: dict[str, SplitName] = {"train": "base", "val": "validation", "test": "novel"}

_NAMES_OF_SPLITS: dict[SplitName, tuple[str, ...]] = {
    "base": ("train", "training", "trainset", "train-set", "trn", "base", "images-background"),
    "validation": ("val", "valid", "validate", "validation", "valset", "val-set", "dev", "development"),
    "novel": ("test", "testing", "testset", "test-set", "tst", "novel", "eval", "evaluation", "images-evaluation"),
}
_SPELLINGS: dict[str, SplitName] = {name: split for split, names in _NAMES_OF_SPLITS.items() for name in names}

ClassSizes = dict[SplitName, dict[str, int]]
"""For each split the number of images of each class, classes in canonical (sorted) order."""


def official_class_sizes(dataset: str) -> ClassSizes:
    """What a complete copy of a benchmark holds.

    Args:
        dataset: "cifar-fs" (Bertinetto et al., 2019), "fc100" (Oreshkin et al., 2018), "mini-imagenet" (Ravi and
            Larochelle, 2017) or "tiered-imagenet" (Ren et al., 2018).
    """
    return {split: dict(sorted(_sizes(dataset, published).items())) for published, split in _PUBLISHED_NAMES.items()}


def official_classes(dataset: str) -> dict[SplitName, tuple[str, ...]]:
    """Class names of each split of a benchmark, in canonical (sorted) order."""
    return {split: tuple(sizes) for split, sizes in official_class_sizes(dataset).items()}


def ilsvrc_class_sizes() -> dict[str, int]:
    """Training images of each of the 1,000 classes of ILSVRC-2012, by WordNet id."""
    sizes: dict[str, int] = _published("ilsvrc-2012")["sizes"]
    return sizes


def mini_imagenet_ranks() -> dict[str, list[int]]:
    """The images of each class of miniImageNet: 1-based ranks among the class's ILSVRC-2012 images by number."""
    return {name: ranks for split in _published("mini-imagenet")["classes"].values() for name, ranks in split.items()}


def cifar_class_digests() -> dict[str, str]:
    """Name of each class of CIFAR-100 by the digest of its 600 images."""
    digests: dict[str, str] = _published("cifar-100")["digests"]
    return {digest: name for name, digest in digests.items()}


def cifar_class_names() -> tuple[str, ...]:
    """The 100 fine classes of CIFAR-100; its labels count them in this order."""
    return tuple(sorted(_published("cifar-100")["digests"]))


def published_split(name: str) -> SplitName | None:
    """Our name for what files and folders call "train", "val", "testing" and so on; None for anything else."""
    return _SPELLINGS.get(name.lower().replace("_", "-").removeprefix("meta-"))


def _sizes(dataset: str, split: str) -> dict[str, int]:
    published = _published(dataset)
    if dataset == "mini-imagenet":
        return {name: len(ranks) for name, ranks in published["classes"][split].items()}
    if dataset == "tiered-imagenet":
        sizes = ilsvrc_class_sizes()
        return {name: sizes[name] for names in published["categories"][split].values() for name in names}
    classes = published[split]
    names = classes["classes"] if isinstance(classes, dict) else classes
    return dict.fromkeys(names, _published("cifar-100")["images_per_class"])


@cache
def _published(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return content

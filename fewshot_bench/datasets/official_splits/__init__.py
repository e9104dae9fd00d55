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
            Larochelle, 2017), "tiered-imagenet" (Ren et al., 2018), "cub" (Chen et al., 2019), "omniglot" (Vinyals et
            al., 2016, as Snell et al., 2017, publish it) or "omniglot-lake" (Lake et al., 2015).
    """
    sizes = {split: dict(sorted(_sizes(dataset, published).items())) for published, split in _PUBLISHED_NAMES.items()}
    return {split: classes for split, classes in sizes.items() if classes}


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


@cache
def omniglot_characters() -> dict[str, tuple[str, tuple[str, ...]]]:
    """For each of the 1,623 characters of Omniglot its set, background or evaluation, and the names of its drawings.

    >>> part, files = omniglot_characters()["Angelic/character01"]
    >>> part, files[0], len(files)
    ('evaluation', '0965_01.png', 20)
    """
    published = _published("omniglot")
    drawings = range(1, published["drawings"] + 1)
    return {
        f"{alphabet}/character{number:02d}": (
            part,
            tuple(f"{first + number - 1:04d}_{drawing:02d}.png" for drawing in drawings),
        )
        for part in ("background", "evaluation")
        for alphabet, (first, count) in published[part].items()
        for number in range(1, count + 1)
    }


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


ROTATIONS = (0, 90, 180, 270)
"""Degrees, counterclockwise, of the four classes that Vinyals et al. make of a character of Omniglot."""


def _sizes(dataset: str, split: str) -> dict[str, int]:
    if dataset.startswith("omniglot"):
        return dict.fromkeys(_omniglot_classes(dataset, split), _published("omniglot")["drawings"])
    published = _published(dataset)
    if dataset == "cub":
        return {name: size for name, size in published["sizes"].items() if _cub_split(int(name[:3])) == split}
    if dataset == "mini-imagenet":
        return {name: len(ranks) for name, ranks in published["classes"][split].items()}
    if dataset == "tiered-imagenet":
        sizes = ilsvrc_class_sizes()
        return {name: sizes[name] for names in published["categories"][split].values() for name in names}
    classes = published[split]
    names = classes["classes"] if isinstance(classes, dict) else classes
    return dict.fromkeys(names, _published("cifar-100")["images_per_class"])


def _cub_split(number: int) -> str:
    """The split of a class of CUB-200-2011, by its number from 1."""
    return "train" if number % 2 else "val" if number % 4 == 2 else "test"


def _omniglot_classes(dataset: str, split: str) -> list[str]:
    """Characters of Lake et al.'s sets; of Vinyals et al.'s, four rotations of each."""
    published = _published("omniglot")
    if dataset == "omniglot-lake":
        part = {"train": "background", "test": "evaluation"}.get(split)
        return [name for name, (held_in, _) in omniglot_characters().items() if held_in == part]
    return [
        f"{alphabet}/character{number:02d}/rot{degrees:03d}"
        for alphabet, (first, last) in published["vinyals"][split].items()
        for number in range(first, last + 1)
        for degrees in ROTATIONS
    ]


@cache
def _published(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return content

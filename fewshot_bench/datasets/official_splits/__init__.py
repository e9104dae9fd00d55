"""The official splits, as published: which classes are base, validation and novel."""

from __future__ import annotations

import json
from importlib.resources import files

from fewshot_bench.datasets.dataset import SplitName

_PUBLISHED_NAMES: dict[str, SplitName] = {"train": "base", "val": "validation", "test": "novel"}


def official_classes(dataset: str) -> dict[SplitName, tuple[str, ...]]:
    """Class names of each split of a benchmark, in canonical (sorted) order.

    Args:
        dataset: "cifar-fs" (Bertinetto et al., 2019) or "fc100" (Oreshkin et al., 2018).
    """
    published = json.loads(files(__package__).joinpath(f"{dataset}.json").read_text(encoding="utf-8"))
    splits: dict[SplitName, tuple[str, ...]] = {}
    for published_name, name in _PUBLISHED_NAMES.items():
        classes = published[published_name]
        splits[name] = tuple(sorted(classes["classes"] if isinstance(classes, dict) else classes))
    return splits

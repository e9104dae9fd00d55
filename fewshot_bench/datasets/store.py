"""The canonical store: one memory-mapped uint8 array per split and a small JSON file, per dataset.

<datasets>/<name>/dataset.json
<datasets>/<name>/{base,validation,novel}.npy      uint8 [I, H, W, C], canonical order, grouped by class
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SPLIT_NAMES, Dataset, ImageSplit, SplitName, split_fingerprint
from fewshot_bench.errors import DatasetError
from fewshot_bench.paths import datasets_folder

_FORMAT = 1


def is_stored(name: str) -> bool:
    """Whether a dataset of that name has been imported."""
    return (datasets_folder() / name / "dataset.json").is_file()


def open_stored(name: str) -> Dataset:
    """Open an imported dataset; the images stay on disk until they are read.

    Raises:
        DatasetError: the stored files are damaged.
    """
    folder = datasets_folder() / name
    try:
        description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        if description["format"] != _FORMAT:
            raise DatasetError(f"{folder} is of store format {description['format']}, not {_FORMAT}. {_again(name)}")
        splits = {
            split: _open_split(folder, name, split, description["splits"][split])
            for split in SPLIT_NAMES
            if split in description["splits"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"the stored copy of {name} in {folder} is damaged ({error}). {_again(name)}") from error
    return Dataset(name, splits, description["recipe"])


def _open_split(folder: Path, dataset: str, split: SplitName, facts: Mapping[str, Any]) -> ImageSplit:
    images = np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
    sizes = tuple(int(size) for size in facts["class_sizes"])
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != sum(sizes):
        raise DatasetError(f"{folder / split}.npy does not hold {sum(sizes):,} uint8 images. {_again(dataset)}")
    return ImageSplit(dataset, split, images, tuple(facts["class_names"]), sizes, facts["fingerprint"])


def _again(name: str) -> str:
    return f"Import it again with: fewshot-bench data import {name} --from PATH --replace"


SplitContent = tuple[NDArray[np.uint8], tuple[str, ...], tuple[int, ...]]
"""Images [I, H, W, C] in canonical order, class names [C], class sizes [C]."""


def store_dataset(
    name: str, splits: Mapping[SplitName, SplitContent], recipe: Mapping[str, Any], *, replace: bool = False
) -> Dataset:
    """Write a dataset under its name, all or nothing.

    Args:
        name: the dataset's name.
        splits: the content of each split.
        recipe: how the pixels came about, kept with them.
        replace: whether a stored dataset with other pixels may be replaced.

    Raises:
        DatasetError: another dataset of that name is stored and `replace` is false.
    """
    folder = datasets_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        description: dict[str, Any] = {"format": _FORMAT, "name": name, "recipe": dict(recipe), "splits": {}}
        for split, (images, class_names, class_sizes) in splits.items():
            np.save(fresh / f"{split}.npy", np.ascontiguousarray(images), allow_pickle=False)
            description["splits"][split] = {
                "class_names": class_names,
                "class_sizes": class_sizes,
                "fingerprint": split_fingerprint(images, class_names, class_sizes),
            }
        (fresh / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
        _install(fresh, folder, Path(temporary) / "old", replace)
    return open_stored(name)


def _install(fresh: Path, folder: Path, old: Path, replace: bool) -> None:
    """Move a complete folder into place; the same pixels are not an obstacle."""
    if folder.exists():
        if not replace and _fingerprints(folder) != _fingerprints(fresh):
            raise DatasetError(
                f"a {folder.name} with other pixels is already stored in {folder}. Add --replace to replace it."
            )
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(fresh)  # another process stored the same dataset first


def _fingerprints(folder: Path) -> object:
    try:
        splits = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["splits"]
        return {split: facts["fingerprint"] for split, facts in splits.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

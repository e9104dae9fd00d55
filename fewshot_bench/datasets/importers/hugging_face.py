"""A Hugging Face dataset, saved on disk or by name, through the optional package `datasets`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.own_listing import OwnListing
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.errors import DatasetError
from fewshot_bench.hub import nothing_asked, why_hub_is_away

HUGGING_FACE_PREFIX = "hf:"
_INSTALL = "It needs an optional package: pip install 'fewshot-bench[huggingface]'"


def looks_like_hugging_face(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the package `datasets`."""
    if (path / "dataset_dict.json").is_file():
        return True
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and "_data_files" in state


def list_hugging_face(source: str) -> OwnListing:
    """List a dataset's images by its image column and its class column.

    Args:
        source: a folder, or "hf:NAME" or "hf:NAME:CONFIGURATION" as on the hub.

    Raises:
        DatasetError: the package is absent, the dataset cannot be loaded, or it has no column of images or classes.
    """
    try:
        import datasets
    except ImportError as error:
        raise DatasetError(f"{source} is a Hugging Face dataset. {_INSTALL}") from error
    away = ""
    try:
        if source.startswith(HUGGING_FACE_PREFIX):
            name, _, configuration = source.removeprefix(HUGGING_FACE_PREFIX).partition(":")
            away = why_hub_is_away()
            with nothing_asked() if away else nullcontext():
                loaded = datasets.load_dataset(name, configuration or None)
        else:
            loaded = datasets.load_from_disk(str(Path(source).expanduser()))
    # The package raises whatever its many parts raise; all of it means that this dataset cannot be had.
    except Exception as error:
        reason = away or (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{source} cannot be loaded as a Hugging Face dataset ({reason[:300]}).") from error
    parts = dict(loaded) if isinstance(loaded, dict) else {None: loaded}
    rows: dict[Any, Any] = {}
    classes: dict[SplitName | None, dict[str, list[tuple[str, tuple[Any, int]]]]] = {}
    for part, table in parts.items():
        image_column, label_column = _columns(datasets, table, source)
        split = published_split(str(part)) if len(parts) > 1 else None
        if len(parts) > 1 and split is None:
            raise DatasetError(
                f"{source} has a split '{part}'; train, val and test (or base, validation, novel) are known."
            )
        rows[part] = table.cast_column(image_column, datasets.Image(decode=False))[image_column]
        by_class = classes.setdefault(split, {})
        names = getattr(table.features[label_column], "names", None)
        for number, label in enumerate(table[label_column]):
            text = names[label] if names is not None and isinstance(label, int) and label >= 0 else str(label)
            by_class.setdefault(text, []).append((f"{number:08d}", (part, number)))

    def load(place: tuple[Any, int]) -> bytes | NDArray[np.uint8]:
        image = rows[place[0]][place[1]]
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        return Path(image["path"]).read_bytes()

    fingerprints = [str(getattr(table, "_fingerprint", "")) for table in parts.values()]
    return OwnListing(source, classes, load, [], fingerprints, "Hugging Face dataset")


def _columns(datasets: Any, table: Any, source: str) -> tuple[str, str]:
    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [name for name in ("label", "labels", "class", "fine_label") if name in features]
    labels = [name for name in ("label", "fine_label") if name in labels] or labels
    if not images or not labels:
        raise DatasetError(
            f"{source} has no column of images or none of classes; its columns are {', '.join(features)}."
        )
    return images[0], labels[0]

"""A Hugging Face dataset, saved on disk or by name, through the optional package `datasets`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench._io.hub import nothing_asked, why_hub_is_away
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.images import SkippedImage
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.own_sources import FileClaims, OwnListing, class_names_of, file_identity
from fewshot_bench.datasets.sources.tree import LARGEST_IMAGE_FILE, composed
from fewshot_bench.errors import DatasetError

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
    """List a dataset's images by its image column and its class column; rows that lack either are left out and named.

    Args:
        source: a folder, or "hf:NAME" or "hf:NAME:CONFIGURATION" as on the hub.

    Raises:
        DatasetError: the package is absent, the dataset cannot be loaded, it has no column of images or classes, or it
            gives one image several classes or splits.
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
    skipped: list[SkippedImage] = []
    notes: list[str] = []
    claims = FileClaims(source)
    for part, table in parts.items():
        image_column, label_column = _columns(datasets, table, source)
        split = published_split(str(part)) if len(parts) > 1 else None
        if len(parts) > 1 and split is None:
            raise DatasetError(
                f"{source} has a split '{part}'; train, val and test (or base, validation, novel) are known."
            )
        images = table.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
        rows[part] = images[image_column]
        by_class = classes.setdefault(split, {})
        labels, problems, more = _labels(table, label_column, source)
        notes += more
        for number, (label, problem, (has_bytes, path)) in enumerate(
            zip(labels, problems, _contents(images, image_column), strict=True)
        ):
            reason = "no image" if not has_bytes and path is None else problem
            if not reason and not has_bytes and path is not None and label is not None:
                reason = _claim(claims, path, split, label)
            if reason or label is None:
                of_part = f" of {part}" if len(parts) > 1 else ""
                skipped.append(SkippedImage(f"row {number + 1}{of_part}", reason))
                continue
            by_class.setdefault(label, []).append((f"{number:08d}", (part, number)))
    if not any(classes.values()):
        first = f": {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise DatasetError(f"{source} has no row with an image and a class{first}.")

    def load(place: tuple[Any, int]) -> bytes | NDArray[np.uint8]:
        image = rows[place[0]][place[1]]
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        path = Path(image["path"])
        size = path.stat().st_size
        if size > LARGEST_IMAGE_FILE:
            raise DatasetError(f"{size:,} bytes; at most {LARGEST_IMAGE_FILE:,} are read")
        return path.read_bytes()

    fingerprints = [str(getattr(table, "_fingerprint", "")) for table in parts.values()]
    found = {split: by_class for split, by_class in classes.items() if by_class}
    return OwnListing(source, found, load, skipped, fingerprints, "Hugging Face dataset", notes)


def _labels(table: Any, column: str, source: str) -> tuple[list[str | None], list[str], list[str]]:
    """For each row its class, or None and why not; and notes."""
    values = list(table[column])
    names = getattr(table.features[column], "names", None)
    texts, notes = class_names_of(values, f"the column '{column}' of {source}")
    if names is None:
        return texts, ["" if text is not None else "no label" for text in texts], notes
    labels: list[str | None] = []
    problems = []
    for value, text in zip(values, texts, strict=True):
        is_known = text is not None and 0 <= value < len(names)
        labels.append(composed(names[value]) if is_known else None)
        problems.append(
            ""
            if is_known
            else "no label"
            if text is None or value == -1
            else f"its label {value} is none of the {len(names)} classes"
        )
    return labels, problems, []  # what the numbers mean is known


def _contents(table: Any, column: str) -> list[tuple[bool, str | None]]:
    """For each row whether it holds an image's bytes, and the path of its file; no bytes are copied."""
    import pyarrow.compute as pc

    found: list[tuple[bool, str | None]] = []
    for batch in table.with_format("arrow").iter(batch_size=1000):
        images = batch.column(column)
        has_bytes = pc.is_valid(pc.struct_field(images, "bytes")).to_pylist()
        found += zip(has_bytes, pc.struct_field(images, "path").to_pylist(), strict=True)
    return found


def _claim(claims: FileClaims, path: str, split: SplitName | None, label: str) -> str:
    """Why the file of a row is left out; "" if it is not."""
    try:
        first = claims.first_name(file_identity(Path(path), Path(path).stat()), path, split, label)
    except (OSError, ValueError):
        return f"no such file ({path[:100]})"
    return "" if first is None else "an earlier row of its class has the same file"


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

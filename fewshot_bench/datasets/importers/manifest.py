"""A table of images: CSV, TSV or Parquet with the columns `path`, `label` and, if there are splits, `split`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.own_listing import OwnListing
from fewshot_bench.datasets.listed import SkippedImage
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.sources.tree import LARGEST_IMAGE_FILE
from fewshot_bench.errors import DatasetError

_SUFFIXES = (".csv", ".tsv", ".parquet")
_SPELLINGS = {
    "path": ("path", "file", "filename", "file_name", "image", "image_path"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "set", "subset"),
}


def looks_like_manifest(path: Path) -> bool:
    """Whether the name is that of a table."""
    return path.suffix.lower() in _SUFFIXES


def list_manifest(path: Path) -> OwnListing:
    """Read a table of images; relative paths start at the table's folder.

    Raises:
        DatasetError: it is no table, a column is missing, or it names no image.
    """
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; a table with the columns path,label was expected.")
    columns = _columns(path)
    splits = columns.get("split", [""] * len(columns["path"]))
    classes: dict[SplitName | None, dict[str, list[tuple[str, Path]]]] = {}
    skipped: list[SkippedImage] = []
    state = []
    for number, (name, label, split_text) in enumerate(zip(columns["path"], columns["label"], splits, strict=True)):
        image = path.parent / name
        reason = "no path" if not name else "no label" if not label else "" if image.is_file() else "no such file"
        if reason:
            skipped.append(SkippedImage(name or f"row {number + 1}", reason))
            continue
        split = _split(split_text, number, path) if "split" in columns else None
        classes.setdefault(split, {}).setdefault(label, []).append((name, image))
        status = image.stat()
        state.append((name, status.st_size, status.st_mtime_ns))
    if not classes:
        first = f": {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise DatasetError(f"{path} names no image that is there{first}. Relative paths start at {path.parent}.")
    for split_classes in classes.values():
        for label, images in split_classes.items():
            if len({name for name, _ in images}) != len(images):
                raise DatasetError(f"{path} names an image of class '{label}' twice.")
    return OwnListing(str(path), classes, _load, skipped, state, "manifest")


def _load(image: Path) -> bytes:
    size = image.stat().st_size
    if size > LARGEST_IMAGE_FILE:
        raise DatasetError(f"{size:,} bytes; at most {LARGEST_IMAGE_FILE:,} are read")
    return image.read_bytes()


def _split(text: str, number: int, path: Path) -> SplitName:
    split = published_split(text)
    if split is None:
        raise DatasetError(
            f"row {number + 1} of {path} has the split '{text}'; train, val and test (or base, validation, novel) are "
            "known."
        )
    return split


def _columns(path: Path) -> dict[str, Sequence[str]]:
    """The columns by our names, as text."""
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (ValueError, OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path} is no table that can be read ({reason[:200]}).") from error
    named = {str(name).strip().lower(): name for name in table.columns}
    columns: dict[str, Sequence[str]] = {}
    for ours, spellings in _SPELLINGS.items():
        theirs = next((named[name] for name in spellings if name in named), None)
        if theirs is not None and table[theirs].map(lambda value: isinstance(value, dict | bytes)).any():
            raise DatasetError(
                f"the column '{theirs}' of {path} holds images, not their paths. Load it with the package datasets "
                "(load_dataset('parquet', ...)), save it with save_to_disk, and give that folder."
            )
        if theirs is not None:
            columns[ours] = ["" if value is None else str(value).strip() for value in table[theirs].tolist()]
    for needed in ("path", "label"):
        if needed not in columns:
            found = ", ".join(map(str, table.columns[:6]))
            raise DatasetError(f"{path} has no column '{needed}'; path,label[,split] are expected, it has {found}.")
    return columns

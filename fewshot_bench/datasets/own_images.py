"""Anybody's own images: class folders, split folders of class folders, a manifest, or a Hugging Face dataset."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import ALL_SPLIT_NAMES, Dataset, SplitName
from fewshot_bench.datasets.importers.hugging_face import (
    HUGGING_FACE_PREFIX,
    list_hugging_face,
    looks_like_hugging_face,
)
from fewshot_bench.datasets.importers.manifest import list_manifest, looks_like_manifest
from fewshot_bench.datasets.importers.own_listing import OwnListing, divide_by_class
from fewshot_bench.datasets.listed import DecodedSplit, ListedSplit, SkippedImage
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.pixels import Filter, Fit, PixelRecipe, header_size
from fewshot_bench.datasets.sources import FileTree, open_tree
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.datasets.store import is_stored, open_stored, store_dataset, stored_names
from fewshot_bench.errors import DatasetError
from fewshot_bench.paths import cache_folder
from fewshot_bench.progress import SILENT, Progress

DEFAULT_SIZE = 224
_VERSION = 1
_FOLDER = "own-images"
_MOST_COPIES = 4  # of the images of one folder
_NOT_IMAGES = re.compile(r".*\.(txt|csv|json|md|xml|html?|pdf|py|zip|tar|gz|ini|log|mat|parquet|ya?ml)", re.IGNORECASE)


@dataclass(frozen=True)
class OwnOptions:
    """How own images become a dataset.

    Attributes:
        size: side of the stored images in pixels; by default their own if all share one square size of at most 224,
            else 224.
        fit: "crop" resizes the shorter side and keeps the middle; "squash" changes the aspect ratio.
        interpolation: Pillow's filter.
        fractions: of the classes that become base, validation and novel; None leaves them as they lie, or all novel.
        seed: of that division.
        least_images: classes with fewer are left out; 1 keeps all.
    """

    size: int | None = None
    fit: Fit = "crop"
    interpolation: Filter = "bicubic"
    fractions: tuple[float, float, float] | None = None
    seed: int = 0
    least_images: int = 1

    def __post_init__(self) -> None:
        if self.fractions is None:
            return
        is_whole = abs(sum(self.fractions) - 1) < 1e-6
        if not (is_whole and min(self.fractions) >= 0 and self.fractions[2] > 0):
            raise DatasetError(
                "--split takes the fractions of the classes for base, validation and novel, which sum to 1, not "
                f"{','.join(map(str, self.fractions))}."
            )


def looks_like_a_place(text: str) -> bool:
    """Whether a dataset's name is a path or a Hugging Face dataset rather than a name."""
    if text.startswith((HUGGING_FACE_PREFIX, ".", "~", "/", "\\")) or "/" in text or "\\" in text:
        return True
    return looks_like_manifest(Path(text)) or Path(text).exists()


def open_own_images(
    source: str, options: OwnOptions, *, taken_names: Container[str] = (), progress: Progress = SILENT
) -> Dataset:
    """Open images where they lie, by way of a store in the cache that is made anew when a file changes.

    The recipe names every file and class that was left out. The dataset is called after the folder or file, wherever
    that lies; "own-..." if the name is taken.

    Raises:
        DatasetError: there are no images, or their arrangement says nothing of classes.
    """
    with ExitStack() as stack:
        listing = list_own_images(source, stack)
        label = dataset_label(source)
        label = f"own-{label}" if label in taken_names else label
        key = hashlib.sha256(
            json.dumps([_VERSION, label, asdict(options), listing.digest(), PixelRecipe(1).as_dict()]).encode()
        ).hexdigest()
        folder = cache_folder() / _FOLDER
        name = f"{label}-{key[:16]}"
        if is_stored(name, folder=folder):
            os.utime(folder / name / "dataset.json")
            return open_stored(name, folder=folder)
        _remove_oldest(folder, label)
        return _store(name, label, listing, options, folder=folder, replace_stored=True, progress=progress)


def kept_copies(label: str) -> Iterator[Dataset]:
    """The copies of own images of that name in the cache, each as it was when it was opened where it lay.

    Args:
        label: what the images are called in results.
    """
    folder = cache_folder() / _FOLDER
    for place in _copies(folder, label):
        with suppress(DatasetError):
            yield open_stored(place.name, folder=folder)


def _copies(folder: Path, label: str) -> list[Path]:
    pattern = rf"{re.escape(label)}-\w{{16}}"
    return [folder / name for name in stored_names(folder=folder) if re.fullmatch(pattern, name)]


def _remove_oldest(folder: Path, label: str) -> None:
    """Make room for another copy of a folder's images: files change, and divisions are tried, and each is a copy."""
    copies = _copies(folder, label)
    copies.sort(key=lambda place: (place / "dataset.json").stat().st_mtime)
    for place in copies[: max(0, len(copies) - _MOST_COPIES + 1)]:
        shutil.rmtree(place, ignore_errors=True)
        (folder / f".{place.name}.lock").unlink(missing_ok=True)


def import_own_images(
    name: str, source: str, options: OwnOptions, *, replace_stored: bool = False, progress: Progress = SILENT
) -> Dataset:
    """Store own images under a name, as the benchmarks are.

    Raises:
        DatasetError: there are no images, their arrangement says nothing of classes, or the name is taken.
    """
    if name != dataset_label(name) or len(name) > 100:
        raise DatasetError(
            f"'{name}' cannot name a dataset: letters, digits, '-', '_' and '.', not first, are allowed."
        )
    with ExitStack() as stack:
        listing = list_own_images(source, stack)
        return _store(name, name, listing, options, folder=None, replace_stored=replace_stored, progress=progress)


def dataset_label(source: str) -> str:
    """What a folder, an archive, a manifest or a Hugging Face dataset is called in results."""
    plain = source.removeprefix(HUGGING_FACE_PREFIX)
    name = PurePosixPath(plain).name if plain != source else Path(source).expanduser().resolve().name
    if plain == source and Path(source).expanduser().is_file():
        name = re.sub(r"(\.tar)?\.\w{1,7}$", "", name)
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "own-images"


def list_own_images(source: str, stack: ExitStack) -> OwnListing:
    """What images there are, by split and class, before any is decoded.

    Args:
        source: a path, or "hf:" and the name of a Hugging Face dataset.
        stack: keeps what is open until the images have been read.

    Raises:
        DatasetError: there are no images, or their arrangement says nothing of classes.
    """
    path = Path(source).expanduser()
    if not source.removeprefix(HUGGING_FACE_PREFIX).strip():
        raise DatasetError(f"'{source}' names no place of images; give a folder, an archive, a table, or hf:NAME.")
    if source.startswith(HUGGING_FACE_PREFIX) or looks_like_hugging_face(path):
        return list_hugging_face(source)
    if looks_like_manifest(path):
        return list_manifest(path)
    tree = stack.enter_context(open_tree(path))
    if tree.description == "file":
        raise DatasetError(
            f"{path} is a file, but neither an archive nor a manifest (.csv, .tsv, .parquet). Give the folder of its "
            "images."
        )
    return _list_tree(tree)


def _list_tree(tree: FileTree) -> OwnListing:
    """Class folders, or split folders of class folders; one folder around them does not matter."""
    top = ""
    while not tree.files(top) and len(tree.folders(top)) == 1 and tree.folders(within(top, tree.folders(top)[0])):
        top = within(top, tree.folders(top)[0])
    folders = tree.folders(top)
    if not folders:
        what = "images, but no folders that say which class each is of" if tree.files(top) else "no images"
        raise DatasetError(
            f"{tree.path} holds {what}. Make one sub-folder per class, or a manifest with the columns path,label."
        )
    split_folders = {name: split for name in folders if (split := published_split(name))}
    skipped = [SkippedImage(within(top, name), "outside of a class folder") for name in tree.files(top)]
    classes: dict[SplitName | None, dict[str, list[tuple[str, str]]]] = {}
    if split_folders and all(tree.folders(within(top, name)) for name in split_folders):
        skipped += [SkippedImage(within(top, name), "not a split") for name in folders if name not in split_folders]
        for name, split in split_folders.items():
            if split in classes:
                raise DatasetError(f"{tree.path} has two folders for its {split} split. Leave one.")
            classes[split] = _list_classes(tree, within(top, name), skipped)
    else:
        classes[None] = _list_classes(tree, top, skipped)
    state = []
    for split_classes in classes.values():
        for label, images in split_classes.items():
            there = [(image, place, found) for image, place in images if (found := _state(tree, place))]
            gone = {place for _, place in images} - {place for _, place, _ in there}
            skipped += [
                SkippedImage(place, "it cannot be opened; a link that leads nowhere?") for place in sorted(gone)
            ]
            split_classes[label] = [(image, place) for image, place, _ in there]
            state += [(place, found) for _, place, found in there]
    return OwnListing(str(tree.path), classes, tree.read, skipped, state)


def _state(tree: FileTree, place: str) -> tuple[int, int] | None:
    """What changes when a file does; None for a link that leads nowhere."""
    path = tree.path / place
    if tree.description == "folder":
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns
    return tree.size(place), tree.path.stat().st_mtime_ns


def _list_classes(tree: FileTree, folder: str, skipped: list[SkippedImage]) -> dict[str, list[tuple[str, str]]]:
    classes: dict[str, list[tuple[str, str]]] = {}
    for name in tree.folders(folder):
        images = []
        for file in _all_files(tree, within(folder, name)):
            if _NOT_IMAGES.fullmatch(file):
                skipped.append(SkippedImage(file, "not an image"))
            else:
                images.append((file.removeprefix(within(folder, name) + "/"), file))
        if images:
            classes[name] = images
    if folder and tree.files(folder):
        skipped += [SkippedImage(within(folder, name), "outside of a class folder") for name in tree.files(folder)]
    if not classes:
        raise DatasetError(f"{tree.path / folder} holds no images in class folders.")
    _check_depth(tree, folder, classes)
    return classes


def _check_depth(tree: FileTree, folder: str, classes: dict[str, list[tuple[str, str]]]) -> None:
    """Refuse to take folders of class folders for classes.

    Raises:
        DatasetError: no image lies directly in a class folder, and one of these holds several folders.
    """
    if any("/" not in name for images in classes.values() for name, _ in images):
        return
    for label in classes:
        inner = tree.folders(within(folder, label))
        if len(inner) > 1:
            raise DatasetError(
                f"{tree.path / folder} holds folders of folders: are {label}/{inner[0]} and {label}/{inner[1]} two "
                f"classes, or one? Give the folder in which the class folders lie, or a table with path,label. "
                f"Whether it is a benchmark, fewshot-bench data check {tree.path} says."
            )


def _all_files(tree: FileTree, folder: str) -> Iterator[str]:
    yield from (within(folder, name) for name in tree.files(folder))
    for name in tree.folders(folder):
        yield from _all_files(tree, within(folder, name))


def _store(
    name: str,
    label: str,
    listing: OwnListing,
    options: OwnOptions,
    *,
    folder: Path | None,
    replace_stored: bool,
    progress: Progress,
) -> Dataset:
    divided = _divided(listing, options)
    small: dict[str, int] = {}
    kept: dict[SplitName, dict[str, list[tuple[str, Any]]]] = {}
    for split, classes in divided.items():
        small |= {name: len(images) for name, images in classes.items() if len(images) < options.least_images}
        kept[split] = {name: images for name, images in classes.items() if len(images) >= options.least_images}
        if not kept[split]:
            raise DatasetError(
                f"no class of the {split} split of {listing.place} has {options.least_images} images; the largest has "
                f"{max(len(images) for images in classes.values())}."
            )
    size = options.size or _natural_size(kept, listing.load)
    recipe = PixelRecipe(size, options.fit, options.interpolation, turns_by_exif=True)
    total = sum(len(images) for classes in kept.values() for images in classes.values())
    with progress.step(f"reading {label}", total) as step:
        splits = {
            split: DecodedSplit(ListedSplit(classes, listing.load), recipe, (size, size, 3), step, "skip")
            for split, classes in kept.items()
        }
        skipped = _Skipped(listing.skipped, splits)
        facts = {
            "source": listing.kind,
            **recipe.as_dict(),
            "divided": f"{options.fractions} of the classes, seed {options.seed}" if options.fractions else "as it lay",
            "least_images": options.least_images,
            "small_classes": small,
        }
        return store_dataset(
            name,
            splits,
            facts,
            late_facts=lambda: {"skipped": [[image.name, image.reason] for image in skipped.all()]},
            replace=replace_stored,
            folder=folder,
            label=label,
        )


@dataclass(frozen=True)
class _Skipped:
    """What was left out while listing, and will have been while reading."""

    before: list[SkippedImage]
    splits: Mapping[SplitName, DecodedSplit]

    def all(self) -> list[SkippedImage]:
        return [*self.before, *(image for split in self.splits.values() for image in split.skipped)]


def _divided(listing: OwnListing, options: OwnOptions) -> dict[SplitName, dict[str, list[tuple[str, Any]]]]:
    """The classes of each split, sorted by name, their images by name."""
    if options.fractions is not None:
        together: dict[str, list[tuple[str, Any]]] = {}
        for split, classes in listing.classes.items():
            for name, images in classes.items():
                prefix = f"{split}/" if split and len(listing.classes) > 1 else ""
                together.setdefault(name, []).extend((prefix + image, place) for image, place in images)
        divided = divide_by_class(together, options.fractions, options.seed)
    elif None in listing.classes:
        divided = {"novel": dict(listing.classes[None])}
    else:
        divided = _few_shot_or_not({split: dict(classes) for split, classes in listing.classes.items() if split})
    return {
        split: {name: sorted(divided[split][name]) for name in sorted(divided[split])}
        for split in ALL_SPLIT_NAMES
        if split in divided
    }


def _few_shot_or_not(
    splits: dict[SplitName, dict[str, list[tuple[str, Any]]]],
) -> dict[SplitName, dict[str, list[tuple[str, Any]]]]:
    """Splits that share classes are those of ordinary classification, and are called so."""
    names = [name for classes in splits.values() for name in classes]
    if len(names) == len(set(names)):
        return splits
    ordinary: dict[SplitName, SplitName] = {"base": "train", "novel": "test"}
    return {ordinary.get(split, split): classes for split, classes in splits.items()}


def _natural_size(
    splits: Mapping[SplitName, Mapping[str, list[tuple[str, Any]]]],
    load: Callable[[Any], bytes | NDArray[np.uint8]],
) -> int:
    """The one square size that all images share, if it is small; the usual input of a network otherwise."""
    common: tuple[int, int] | None = None
    for classes in splits.values():
        for images in classes.values():
            for _, place in images:
                try:
                    content = load(place)
                except (DatasetError, OSError):
                    continue
                size = header_size(content) if isinstance(content, bytes) else content.shape[1::-1]
                if size is None:
                    continue
                if size[0] != size[1] or size[0] > DEFAULT_SIZE or size != (common or size):
                    return DEFAULT_SIZE
                common = size
    return common[0] if common else DEFAULT_SIZE


def with_fractions(options: OwnOptions, text: str, seed: int) -> OwnOptions:
    """Options with the division that a text such as "0.6,0.2,0.2" asks for.

    Raises:
        DatasetError: it is not three fractions of one.
    """
    try:
        base, validation, novel = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DatasetError(f"--split takes three fractions such as 0.6,0.2,0.2, not '{text}'.") from error
    return replace(options, fractions=(base, validation, novel), seed=seed)

"""A user's own images as a dataset: class folders, folders per split, tables, datasets of Hugging Face, torchvision."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fewshot_bench._io.locations import cache_folder
from fewshot_bench._io.notebooks import ShownByFields
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.datasets.bit_depth import UsedValues
from fewshot_bench.datasets.dataset import ALL_SPLIT_NAMES, Dataset, SplitName, by_reason
from fewshot_bench.datasets.duplicates import Duplicates
from fewshot_bench.datasets.images import (
    DecodedSplit,
    Filter,
    Fit,
    ListedSplit,
    Preprocessing,
    UndecidedDepthError,
    header_size,
)
from fewshot_bench.datasets.own_folders import Layout, list_folders
from fewshot_bench.datasets.own_listing import OwnListing, divide_by_class
from fewshot_bench.datasets.own_tables import (
    HUGGING_FACE_PREFIX,
    list_hugging_face,
    list_table,
    looks_like_hugging_face,
    looks_like_table,
)
from fewshot_bench.datasets.sources import open_tree
from fewshot_bench.datasets.sources.tree import composed
from fewshot_bench.datasets.store import is_stored, open_stored, store_dataset, stored_names
from fewshot_bench.datasets.torchvision_sets import TORCHVISION_PREFIX, list_torchvision
from fewshot_bench.errors import DatasetError
from fewshot_bench.progress import SILENT, Progress, Step

DEFAULT_SIZE = 224
_VERSION = 3
_FOLDER = "own-images"
_MOST_COPIES = 4  # of the images of one folder
_MOST_SKIPPED = 1000  # named in every result; a table may have a million rows without a label
_MOST_REASONS = 100


@checked_arguments
@dataclass(frozen=True)
class OwnOptions(ShownByFields):
    """How own images become a dataset.

    Attributes:
        size: side of the stored images in pixels; by default their own if all share one square size of at most 224,
            else 224.
        fit: "crop" resizes the shorter side and keeps the middle; "squash" changes the aspect ratio.
        interpolation: Pillow's filter.
        fractions: of the classes that become base, validation and novel; None leaves them as they lie, or all novel.
        seed: of that division.
        least_images: classes with fewer readable images are left out; 1 keeps all.
        class_depth: how many folders make a class: 2 for alphabet/character/*.png. By default 1, and folders of class
            folders are refused.
        layout: "classes" takes every folder as a class, whatever it is called; "splits" takes folders that are called
            like splits, and no others; "auto" refuses to guess where both are possible.
        root: the folder that torchvision downloads to, for "torchvision:NAME".

    >>> import fewshot_bench as fb
    >>> options = fb.OwnOptions(size=84, fractions=(0.6, 0.2, 0.2))
    >>> options.size, options.fractions
    (84, (0.6, 0.2, 0.2))
    >>> fb.OwnOptions(layout="folders")
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.DatasetError: --layout is auto, classes or splits, not 'folders'.
    """

    size: int | None = None
    fit: Fit = "crop"
    interpolation: Filter = "bicubic"
    fractions: tuple[float, float, float] | None = None
    seed: int = 0
    least_images: int = 1
    class_depth: int | None = None
    layout: Layout = "auto"
    root: str | None = None

    def __post_init__(self) -> None:
        if self.class_depth is not None and self.class_depth < 1:
            raise DatasetError(f"--class-depth is 1 or more, not {self.class_depth}.")
        if self.layout not in get_args(Layout):
            raise DatasetError(f"--layout is auto, classes or splits, not '{self.layout}'.")
        if self.fractions is None:
            return
        are_three = len(self.fractions) == 3 and all(isinstance(share, int | float) for share in self.fractions)
        is_whole = are_three and abs(sum(self.fractions) - 1) < 1e-6
        if not (is_whole and min(self.fractions) >= 0 and self.fractions[2] > 0):
            raise DatasetError(
                "--split takes the fractions of the classes for base, validation and novel, which sum to 1, not "
                f"{','.join(map(str, self.fractions))}."
            )


def looks_like_a_place(text: str) -> bool:
    """Whether a dataset's name is a path, or a dataset of Hugging Face or torchvision, rather than a name."""
    if text.startswith((HUGGING_FACE_PREFIX, TORCHVISION_PREFIX, ".", "~", "/", "\\")) or "/" in text or "\\" in text:
        return True
    return looks_like_table(Path(text)) or Path(text).exists()


def open_own_images(
    source: str, options: OwnOptions, *, taken_names: Container[str] = (), progress: Progress = SILENT
) -> Dataset:
    """Open images in place, through a store in the cache that is rebuilt when a file changes.

    `preprocessing` of the result names every file and class that was skipped. The dataset is called after the folder or
    file; "own-..." if that name is taken.

    Raises:
        DatasetError: there are no images, or their classes cannot be told.
    """
    with ExitStack() as stack:
        listing = list_own_images(source, stack, options)
        label = dataset_label(source)
        label = f"own-{label}" if label in taken_names else label
        chosen = {name: value for name, value in asdict(options).items() if name != "root"}  # the listing has the place
        key = hashlib.sha256(
            json.dumps([_VERSION, label, chosen, listing.digest(), Preprocessing(1).as_dict()]).encode()
        ).hexdigest()
        folder = cache_folder() / _FOLDER
        name = f"{label}-{key[:16]}"
        if is_stored(name, folder=folder):
            os.utime(folder / name / "dataset.json")
            stored = open_stored(name, folder=folder)
            return replace(stored, preprocessing={**stored.preprocessing, **_clutter(listing)})
        _remove_oldest(folder, label)
        return _store(name, label, listing, options, folder=folder, replace_stored=True, progress=progress)


def kept_copies(label: str) -> Iterator[Dataset]:
    """The cached copies of own images that results call by `label`, each as it was when it was opened."""
    folder = cache_folder() / _FOLDER
    for place in _kept_in(folder, label):
        with suppress(DatasetError):
            yield open_stored(place.name, folder=folder)


def _kept_in(folder: Path, label: str) -> list[Path]:
    pattern = rf"{re.escape(label)}-\w{{16}}"
    return [folder / name for name in stored_names(folder=folder) if re.fullmatch(pattern, name)]


def _remove_oldest(folder: Path, label: str) -> None:
    """Make room for another copy of a folder's images: each change of a file and each division makes one."""
    copies = _kept_in(folder, label)
    copies.sort(key=lambda place: (place / "dataset.json").stat().st_mtime)
    for place in copies[: max(0, len(copies) - _MOST_COPIES + 1)]:
        shutil.rmtree(place, ignore_errors=True)
        (folder / f".{place.name}.lock").unlink(missing_ok=True)


@checked_arguments
def import_own_images(
    name: str, source: str, options: OwnOptions, *, replace_stored: bool = False, progress: Progress = SILENT
) -> Dataset:
    """Store own images under a name, as the benchmarks are.

    Raises:
        DatasetError: there are no images, their classes cannot be told, or the name is taken.

    >>> import fewshot_bench as fb
    >>> fb.import_own_images("birds", "photos/birds", fb.OwnOptions(size=84))  # doctest: +SKIP
    <Dataset: birds, 1,432 novel images>
    """
    if name != dataset_label(name) or len(name) > 100:
        raise DatasetError(
            f"'{name}' cannot name a dataset: letters, digits, '-', '_' and '.', not first, are allowed."
        )
    with ExitStack() as stack:
        listing = list_own_images(source, stack, options)
        return _store(name, name, listing, options, folder=None, replace_stored=replace_stored, progress=progress)


def dataset_label(source: str) -> str:
    """What a folder, an archive, a table, or a dataset of Hugging Face or torchvision is called in results.

    >>> dataset_label("hf:user/set"), dataset_label("torchvision:DTD:train")
    ('set', 'DTD-train')
    """
    if source.startswith(TORCHVISION_PREFIX):
        source = source.removeprefix(TORCHVISION_PREFIX).replace(":", "-")
    plain = source.removeprefix(HUGGING_FACE_PREFIX)
    name = composed(PurePosixPath(plain).name if plain != source else Path(source).expanduser().resolve().name)
    if plain == source and Path(source).expanduser().is_file():
        name = re.sub(r"(\.tar)?\.\w{1,7}$", "", name)
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "own-images"


def list_own_images(source: str, stack: ExitStack, options: OwnOptions | None = None) -> OwnListing:
    """List images by split and class, before any is decoded.

    Args:
        source: a path, "hf:" and the name of a Hugging Face dataset, or "torchvision:" and the name of a class there.
        stack: keeps what is open until the images have been read.
        options: how folders become classes.

    Raises:
        DatasetError: there are no images, or their classes cannot be told.
    """
    path = Path(source).expanduser()
    options = options or OwnOptions()
    if source.startswith(TORCHVISION_PREFIX):
        _refuse_layout(source, options)
        return list_torchvision(source, options.root)
    if options.root is not None:
        raise DatasetError(f"--root says where the files of torchvision:NAME lie; {source} needs none. Leave it out.")
    if not source.removeprefix(HUGGING_FACE_PREFIX).strip():
        raise DatasetError(f"'{source}' should be a folder, an archive or a table of images, or hf:NAME.")
    if source.startswith(HUGGING_FACE_PREFIX) or looks_like_hugging_face(path):
        _refuse_layout(source, options)
        return list_hugging_face(source)
    if looks_like_table(path):
        _refuse_layout(path, options)
        return list_table(path)
    tree = stack.enter_context(open_tree(path))
    if tree.description == "file":
        raise DatasetError(
            f"{path} is a file, but neither an archive nor a table (.csv, .tsv, .parquet). Give the folder of its "
            "images."
        )
    return list_folders(tree, class_depth=options.class_depth, layout=options.layout)


def _refuse_layout(source: str | Path, options: OwnOptions) -> None:
    if options.class_depth is not None or options.layout != "auto":
        raise DatasetError(
            f"--class-depth and --layout say what folders are; {source} is a table or a dataset, which names the class "
            "of each image. Leave them out."
        )


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
    kept: dict[SplitName, Classes] = {}
    for split, classes in divided.items():
        sizes = {label: len(images) for label, images in classes.items()}
        small |= _of_split(split, {key: size for key, size in sizes.items() if size < options.least_images}, divided)
        kept[split] = {key: images for key, images in classes.items() if sizes[key] >= options.least_images}
        if not kept[split]:
            raise DatasetError(
                f"no class of the {split} split of {listing.place} has {options.least_images} images; the largest has "
                f"{max(sizes.values())}."
            )
    size = options.size or _natural_size(kept, listing.load)
    total = sum(len(images) for classes in kept.values() for images in classes.values())

    def decoded(preprocessing: Preprocessing, step: Step) -> dict[SplitName, DecodedSplit]:
        shape = (size, size, 3)
        return {
            split: DecodedSplit(
                ListedSplit(classes, listing.load), preprocessing, shape, step, "skip", options.least_images
            )
            for split, classes in kept.items()
        }

    def stored(preprocessing: Preprocessing, notes: list[str], depth: Mapping[str, str]) -> Dataset:
        with progress.step(f"reading {label}", total) as step:
            splits = decoded(preprocessing, step)
            return store_dataset(
                name,
                splits,
                {**_facts(listing, options, preprocessing), **depth},
                late_facts=lambda duplicates: _late_facts(listing, splits, small, [*notes, *_copies(duplicates)]),
                replace=replace_stored,
                folder=folder,
                label=label,
            )

    preprocessing = Preprocessing(size, options.fit, options.interpolation, turns_by_exif=True, scale=None)
    try:
        return stored(preprocessing, [], {})
    except UndecidedDepthError:
        # Only the images say how deep they are. Reading them again costs time only where some have more than 8 bits; a
        # look ahead would read every dataset twice.
        with progress.step(f"comparing {label}", total) as step:
            used = UsedValues.together(split.used_values() for split in decoded(preprocessing, step).values())
        scale = used.scale(listing.place)
        depth = {"more_than_8_bits": str(scale)} if used.deep else {}
        return stored(replace(preprocessing, scale=scale), used.notes(scale), depth)


def _facts(listing: OwnListing, options: OwnOptions, preprocessing: Preprocessing) -> dict[str, Any]:
    """Where the pixels come from and what is done to them, as far as known before the images are read."""
    chosen = {"class_depth": options.class_depth, "layout": options.layout}
    return {
        "source": listing.kind,
        **preprocessing.as_dict(),
        "divided": f"{options.fractions} of the classes, seed {options.seed}" if options.fractions else "as it lay",
        "least_images": options.least_images,
        **{key: value for key, value in chosen.items() if value not in (None, "auto")},
        **_clutter(listing),
    }


def _clutter(listing: OwnListing) -> dict[str, dict[str, int]]:
    """How much of each kind there is now; clutter comes and goes, and does not cause the images to be read again."""
    return {"clutter": dict(Counter(sorted(listing.clutter.values())))}


def _late_facts(
    listing: OwnListing, splits: Mapping[SplitName, DecodedSplit], small: Mapping[str, int], notes: list[str]
) -> dict[str, Any]:
    """What was skipped, and what else a user should know, when all images have been read."""
    found = [*listing.skipped, *(image for split in splits.values() for image in split.skipped)]
    skipped = [(composed(image.name), composed(image.reason)) for image in found]
    unreadable = [_of_split(split, content.small, splits) for split, content in splits.items()]
    return {
        "skipped": [list(pair) for pair in skipped[:_MOST_SKIPPED]],
        "left_out": by_reason(skipped)[:_MOST_REASONS],
        "small_classes": dict(small),
        "unreadable_classes": {name: size for sizes in unreadable for name, size in sizes.items()},
        "warnings": [*listing.notes, *notes],
    }


def _of_split(split: SplitName, sizes: Mapping[str, int], splits: Container[SplitName]) -> dict[str, int]:
    """Class sizes under names that differ between splits: those of classification share their classes."""
    share_classes = "train" in splits or "test" in splits
    return {f"{name} of the {split} split" if share_classes else name: size for name, size in sizes.items()}


def _copies(duplicates: Duplicates) -> list[str]:
    """Notes on equal images under two labels, in two splits, or twice in a class."""
    notes = []
    for count, pairs, where in (
        (duplicates.across_classes, duplicates.class_pairs, "another class"),
        (duplicates.exact, duplicates.exact_pairs, "another split"),
        (duplicates.within_classes, duplicates.equal_pairs, "their own class, so that one can be support of the other"),
    ):
        if count:
            first, second = pairs[0]
            notes.append(f"{count:,} images have exact copies in {where}, such as {first} and {second}.")
    return notes


Classes = dict[str, list[tuple[str, Any]]]
"""Name and place of the images of each class."""


def _divided(listing: OwnListing, options: OwnOptions) -> dict[SplitName, Classes]:
    """The classes of each split, sorted by name, their images by name."""
    divided: dict[SplitName, Classes]
    if options.fractions is not None:
        together: Classes = {}
        for split, classes in listing.classes.items():
            for name, images in classes.items():
                prefix = f"{split}/" if split and len(listing.classes) > 1 else ""
                together.setdefault(name, []).extend((prefix + image, place) for image, place in images)
        divided = divide_by_class(together, options.fractions, options.seed)
    elif None in listing.classes:
        divided = {"novel": dict(listing.classes[None])}
    else:
        divided = {split: dict(classes) for split, classes in listing.classes.items() if split}
        names = [name for classes in divided.values() for name in classes]
        if len(names) > len(set(names)):  # splits that share classes are those of ordinary classification
            ordinary: dict[SplitName, SplitName] = {"base": "train", "novel": "test"}
            divided = {ordinary.get(split, split): classes for split, classes in divided.items()}
    return {
        split: {name: sorted(divided[split][name], key=itemgetter(0)) for name in sorted(divided[split])}
        for split in ALL_SPLIT_NAMES
        if split in divided
    }


def _natural_size(
    splits: Mapping[SplitName, Classes],
    load: Callable[[Any], bytes | NDArray[np.uint8]],
) -> int:
    """The square size that all images share, if it is small; otherwise the usual input of a network."""
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
    """Options divided as "0.6,0.2,0.2" says; raises DatasetError if these are not three fractions of one."""
    try:
        base, validation, novel = (float(part) for part in text.split(","))
    except ValueError as error:
        raise DatasetError(f"--split takes three fractions such as 0.6,0.2,0.2, not '{text}'.") from error
    return replace(options, fractions=(base, validation, novel), seed=seed)

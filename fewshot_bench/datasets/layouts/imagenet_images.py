"""miniImageNet and tieredImageNet as image files: class folders, one folder with CSVs, or the whole of ILSVRC-2012.

- {train,val,test}/<WordNet id>/<image>, as MTL, DeepEMD and others pass them on
- <WordNet id>/<image> for all classes in one folder, as in the whole of ILSVRC-2012; also as one tar per class
- images/<image> in one folder, with Ravi's CSVs or those of others (`filename,label`)

Which image of ILSVRC-2012 a file is follows from its name: Ravi's n0153282900000005.jpg is the fifth by number of its
class, n01532829_20457.JPEG its own name.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.datasets.images import DecodedSplit, ListedSplit, PixelRecipe, Place
from fewshot_bench.datasets.layouts.imagenet_arrays import check_class_sizes
from fewshot_bench.datasets.layouts.layout import Found, Imported, ImportRequest
from fewshot_bench.datasets.official_splits import (
    ilsvrc_class_sizes,
    mini_imagenet_ranks,
    official_class_sizes,
    published_split,
)
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.errors import DatasetError

_BENCHMARKS = ("mini-imagenet", "tiered-imagenet")
_SYNSET = re.compile(r"n\d{8}")
_RAVI = re.compile(r"(n\d{8})(\d{8})\.\w+")
_ILSVRC = re.compile(r"(n\d{8})_(\d+)\.\w+")
IMAGE_FILE = re.compile(r".*\.(jpe?g|png|bmp|webp)", re.IGNORECASE)
_SIZE = 84
_LARGEST_CSV = 64 << 20


@dataclass(frozen=True)
class ClassFiles:
    """Where the images of one class lie: a folder, or a tar of their own."""

    tree: FileTree
    folder: str
    is_tar: bool = False

    def opened(self) -> tuple[FileTree, str]:
        """The tree that holds the files, and their folder in it."""
        return (self.tree.nested(self.folder), "") if self.is_tar else (self.tree, self.folder)


def find_imagenet_images(tree: FileTree) -> Found | None:
    """Class folders, per split or all together, or one tar per class."""
    classes: dict[str, ClassFiles] = {}
    for name, files in _class_files(tree):
        classes.setdefault(name, files)
    best = _best_benchmarks(set(classes))
    if not best:
        return None
    is_whole = set(ilsvrc_class_sizes()) <= set(classes)
    layout = "ILSVRC-2012 training images" if is_whole else "class folders of ImageNet images"
    return Found(
        layout,
        tree.path,
        best,
        partial(_read_classes, layout, classes),
        tuple(_missing(set(classes), best[0])) if len(best) == 1 else (),
    )


def find_imagenet_flat(tree: FileTree) -> Found | None:
    """All images in one folder, their classes in their names or in CSVs."""
    folder = "images" if tree.has_folder("images") else ""
    files = [name for name in tree.files(folder) if IMAGE_FILE.fullmatch(name)]
    if len(files) < 2:
        return None
    labels = {name: name[:9] for name in files if _SYNSET.match(name)}
    if len(labels) < len(files) / 2:
        labels = _labels_of_csvs(tree, set(files))
    classes: dict[str, list[str]] = {}
    for name, label in labels.items():
        classes.setdefault(label, []).append(name)
    best = _best_benchmarks(set(classes))
    if not best:
        return None
    layout = "a folder of images with Ravi's CSVs"
    places = {label: (tree, folder, tuple(sorted(names))) for label, names in classes.items()}
    return Found(
        layout, tree.path, best[:1], partial(_read_flat, layout, places), tuple(_missing(set(classes), best[0]))
    )


def _class_files(tree: FileTree) -> Iterator[tuple[str, ClassFiles]]:
    """Every class folder or class tar, whether or not in a folder per split."""
    outer = [name for name in tree.folders() if published_split(name) is not None]
    outer.sort(key=lambda name: published_split(name) != "base")  # val/ of ILSVRC-2012 has the classes of train/ again
    for folder in ["", *outer, *(f"{name}/{name}" for name in outer if tree.has_folder(f"{name}/{name}"))]:
        yield from class_files_in(tree, folder)


def class_files_in(tree: FileTree, folder: str) -> Iterator[tuple[str, ClassFiles]]:
    """WordNet id and place of every class folder or class tar in a folder."""
    for name in tree.folders(folder):
        if is_synset(name):
            yield name, ClassFiles(tree, within(folder, name))
    for name in tree.files(folder):
        if name.endswith(".tar") and is_synset(name[:-4]):
            yield name[:-4], ClassFiles(tree, within(folder, name), is_tar=True)


def is_synset(name: str) -> bool:
    """Whether a name is a WordNet id."""
    return _SYNSET.fullmatch(name) is not None


def _best_benchmarks(present: set[str]) -> tuple[str, ...]:
    """The benchmarks that these classes can be, those with all classes first."""
    shares: dict[str, float] = {}
    for benchmark in _BENCHMARKS:
        expected = {name for sizes in official_class_sizes(benchmark).values() for name in sizes}
        shares[benchmark] = len(present & expected) / len(expected)
        if present & expected and len(present - expected) > len(present) / 2 and shares[benchmark] < 1:
            shares[benchmark] = 0
    complete = tuple(name for name, share in shares.items() if share == 1)
    best = max(shares, key=lambda name: shares[name])
    return complete or ((best,) if shares[best] > 0.05 else ())


def _missing(present: set[str], benchmark: str) -> Iterator[str]:
    for split, sizes in official_class_sizes(benchmark).items():
        absent = [name for name in sizes if name not in present]
        if len(absent) == len(sizes):
            yield f"all classes of the {split} split"
        else:
            yield from (f"class {name}" for name in absent)


def _labels_of_csvs(tree: FileTree, files: set[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name in tree.files():
        if not name.lower().endswith(".csv"):
            continue
        try:
            rows = csv.reader(io.StringIO(tree.read(name, limit=_LARGEST_CSV).decode()))
            for row in rows:
                # LibFewShot and Ravi write the file first, easyfsl the class.
                for image, label in (row[:2], row[1::-1]) if len(row) >= 2 else ():
                    if PurePosixPath(image).name in files and _SYNSET.fullmatch(label):
                        labels[PurePosixPath(image).name] = label
        except (UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"{tree.path / name} is no CSV ({error}). Obtain it again.") from error
    return labels


Listing = Sequence[tuple[str, Place]]


def _read_classes(layout: str, classes: Mapping[str, ClassFiles], request: ImportRequest) -> Imported:
    def listed(label: str) -> tuple[FileTree, str, tuple[str, ...]]:
        tree, folder = classes[label].opened()
        request.stack.callback(tree.close) if classes[label].is_tar else None
        return tree, folder, tuple(name for name in tree.files(folder) if IMAGE_FILE.fullmatch(name))

    found = {
        split: {label: listed(label) for label in sizes if label in classes}
        for split, sizes in official_class_sizes(request.dataset).items()
    }
    return _imported(layout, found, request)


def _read_flat(
    layout: str, places: Mapping[str, tuple[FileTree, str, tuple[str, ...]]], request: ImportRequest
) -> Imported:
    found = {
        split: {label: places[label] for label in sizes if label in places}
        for split, sizes in official_class_sizes(request.dataset).items()
    }
    return _imported(layout, found, request)


def _imported(
    layout: str,
    found: Mapping[SplitName, Mapping[str, tuple[FileTree, str, tuple[str, ...]]]],
    request: ImportRequest,
) -> Imported:
    recipe = PixelRecipe(request.size or _SIZE, request.fit or "squash", request.interpolation or "lanczos")
    size = (recipe.size or _SIZE, recipe.size or _SIZE, 3)
    are_named = True
    splits: dict[SplitName, DecodedSplit] = {}
    for split in SPLIT_NAMES:
        listing: dict[str, Listing] = {}
        for label, (tree, folder, names) in found[split].items():
            named = _official_names(request.dataset, label, names)
            are_named = are_named and named is not None
            pairs = named or [(f"{number:04d}", name) for number, name in enumerate(sorted(names, key=natural))]
            listing[label] = [(name, (tree, within(folder, file))) for name, file in pairs]
        sizes = {label: len(images) for label, images in listing.items()}
        check_class_sizes(sizes, official_class_sizes(request.dataset)[split], split, request.dataset)
        images = ListedSplit(listing, lambda place: place[0].read(place[1]))
        step = request.stack.enter_context(request.progress.step(f"reading the {split} split", len(images)))
        splits[split] = DecodedSplit(images, recipe, size, step)
    facts = {"source": layout} | recipe.as_dict()
    if are_named:
        return Imported(splits, facts, "names")
    warning = "the files have neither Ravi's nor ILSVRC's names: images are known by their rank among their class."
    return Imported(splits, facts, "ranks", (warning,))


def _official_names(dataset: str, label: str, names: Sequence[str]) -> list[tuple[str, str]] | None:
    """Official name and file of each image of a class in canonical order; None where the files' names tell nothing.

    Raises:
        DatasetError: the files are named as ILSVRC's are, but are not all that are needed.
    """
    if dataset == "mini-imagenet":
        return _mini_names(label, names)
    if not all(_ILSVRC.fullmatch(name) for name in names):
        return None
    return sorted((f"{PurePosixPath(name).stem}.JPEG", name) for name in names)


def _mini_names(label: str, names: Sequence[str]) -> list[tuple[str, str]] | None:
    ranks = mini_imagenet_ranks()[label]
    by_rank = {int(match[2]): name for name in names if (match := _RAVI.fullmatch(name)) and match[1] == label}
    if len(by_rank) == len(names):
        present = [rank for rank in ranks if rank in by_rank]
        return [(f"{label}{rank:08d}.jpg", by_rank[rank]) for rank in present]
    by_number = {int(match[2]): name for name in names if (match := _ILSVRC.fullmatch(name)) and match[1] == label}
    if len(by_number) != len(names):
        return None
    ordered = [by_number[number] for number in sorted(by_number)]
    if len(ordered) == ilsvrc_class_sizes()[label]:
        return [(f"{label}{rank:08d}.jpg", ordered[rank - 1]) for rank in ranks]
    if len(ordered) == len(ranks):
        return [(f"{label}{rank:08d}.jpg", name) for rank, name in zip(ranks, ordered, strict=True)]
    raise DatasetError(
        f"class {label} has {len(ordered):,} images; the whole class of ILSVRC-2012 has "
        f"{ilsvrc_class_sizes()[label]:,}, miniImageNet takes {len(ranks)} of them. Which these are cannot be told "
        "without all. Obtain the whole class."
    )


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which image_10 comes after image_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]

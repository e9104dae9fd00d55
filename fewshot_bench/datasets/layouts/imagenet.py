"""miniImageNet and tieredImageNet: class folders, a folder with CSVs, pickles and npz files, or all of ILSVRC-2012.

Images:

- {train,val,test}/<WordNet id>/<image>, as MTL, DeepEMD and others pass them on
- <WordNet id>/<image> for all classes in one folder, as in ILSVRC-2012; also as one tar per class
- images/<image> in one folder, with Ravi's CSVs or those of others (`filename,label`)

The name of a file says which image of ILSVRC-2012 it is: Ravi's n0153282900000005.jpg is the fifth by number of its
class, n01532829_20457.JPEG its own name.

Arrays, told apart by their content:

- `mini-imagenet-cache-{train,val,test}.pkl` of Ren et al.: `image_data`, `class_dict`; in the order of Ravi's CSVs
- `miniImageNet_category_split_{train_phase_train,val,test}.pickle` of Gidaris: `data`, `labels`, `catname2label`
- `{train,val,test}_images_png.pkl` + `{train,val,test}_labels.pkl` of Ren et al.: encoded PNGs, `label_specific(_str)`
- `{train,val,test}_images.npz` + `{train,val,test}_labels.pkl` of MetaOptNet: `images` in BGR order, `labels`

Only the first allow images to be named. In the others an image is known by its rank in its class.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.datasets.images import DecodedSplit, ListedSplit, Place, Preprocessing
from fewshot_bench.datasets.layouts import Found, Imported, ImportRequest, check_class_sizes, whole_numbers
from fewshot_bench.datasets.official_splits import (
    ilsvrc_class_sizes,
    mini_imagenet_ranks,
    official_class_sizes,
    published_split,
)
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.datasets.sources.arrays import array_files, read_arrays
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.errors import DatasetError

_BENCHMARKS = ("mini-imagenet", "tiered-imagenet")
_SYNSET = re.compile(r"n\d{8}")
_RAVI = re.compile(r"(n\d{8})(\d{8})\.\w+")
_ILSVRC = re.compile(r"(n\d{8})_(\d+)\.\w+")
_IMAGE_FILE = re.compile(r".*\.(jpe?g|png|bmp|webp)", re.IGNORECASE)
_SIZE = 84
_LARGEST_CSV = 64 << 20


@dataclass(frozen=True)
class ClassFiles:
    """Where the images of one class lie: a folder, or a tar of their own."""

    tree: FileTree
    folder: str
    is_tar: bool = False

    def images(self, stack: ExitStack) -> tuple[FileTree, str, list[str]]:
        """The tree that holds the images, their folder in it, and their file names."""
        if not self.is_tar:
            return self.tree, self.folder, image_files(self.tree, self.folder)
        tree = self.tree.nested(self.folder)
        stack.callback(tree.close)
        return tree, "", image_files(tree)


def image_files(tree: FileTree, folder: str = "") -> list[str]:
    """Files of a folder that are called as images are, sorted."""
    return [name for name in tree.files(folder) if _IMAGE_FILE.fullmatch(name)]


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
    missing = _missing_classes(set(classes), best[0]) if len(best) == 1 else ()
    return Found(layout, tree.path, best, partial(_read_classes, layout, classes), missing)


def find_imagenet_flat(tree: FileTree) -> Found | None:
    """All images in one folder, their classes in their names or in CSVs."""
    folder = "images" if tree.has_folder("images") else ""
    files = image_files(tree, folder)
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
    places = {label: (tree, folder, sorted(names)) for label, names in classes.items()}
    read = partial(_read_images, layout, places)
    return Found(layout, tree.path, best[:1], read, _missing_classes(set(classes), best[0]))


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


def _missing_classes(present: set[str], benchmark: str) -> tuple[str, ...]:
    missing: list[str] = []
    for split, sizes in official_class_sizes(benchmark).items():
        absent = [name for name in sizes if name not in present]
        is_absent = len(absent) == len(sizes)
        missing += [f"all classes of the {split} split"] if is_absent else [f"class {name}" for name in absent]
    return tuple(missing)


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
            raise DatasetError(f"{tree.path / name} is not a CSV ({error}). Obtain it again.") from error
    return labels


ClassPlaces = Mapping[str, tuple[FileTree, str, Sequence[str]]]
"""For each class by WordNet id the tree, the folder in it and the file names of its images."""


def _read_classes(layout: str, classes: Mapping[str, ClassFiles], request: ImportRequest) -> Imported:
    wanted = {label for sizes in official_class_sizes(request.dataset).values() for label in sizes}
    places = {label: files.images(request.stack) for label, files in classes.items() if label in wanted}
    return _read_images(layout, places, request)


def _read_images(layout: str, places: ClassPlaces, request: ImportRequest) -> Imported:
    side = request.size or _SIZE
    preprocessing = Preprocessing(side, request.fit or "squash", request.interpolation or "lanczos")
    are_named = True
    splits: dict[SplitName, DecodedSplit] = {}
    for split, official in official_class_sizes(request.dataset).items():
        listing: dict[str, list[tuple[str, Place]]] = {}
        for label in official:
            if label not in places:
                continue
            tree, folder, names = places[label]
            named = _official_names(request.dataset, label, names)
            are_named = are_named and named is not None
            pairs = named or [(f"{rank:04d}", name) for rank, name in enumerate(sorted(names, key=natural))]
            listing[label] = [(name, (tree, within(folder, file))) for name, file in pairs]
        check_class_sizes({label: len(images) for label, images in listing.items()}, official, split, request.dataset)
        images = ListedSplit(listing, lambda place: place[0].read(place[1]))
        step = request.stack.enter_context(request.progress.step(f"reading the {split} split", len(images)))
        splits[split] = DecodedSplit(images, preprocessing, (side, side, 3), step)
    facts = {"source": layout} | preprocessing.as_dict()
    if are_named:
        return Imported(splits, facts, "names")
    warning = "the files have neither Ravi's nor ILSVRC's names: images are known by their rank in their class."
    return Imported(splits, facts, "ranks", (warning,))


def _official_names(dataset: str, label: str, names: Sequence[str]) -> list[tuple[str, str]] | None:
    """Official name and file of each image of a class in canonical order; None where the files have other names.

    Raises:
        DatasetError: the files have ILSVRC's names, but some are missing.
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
        f"{ilsvrc_class_sizes()[label]:,}, miniImageNet takes {len(ranks)} of them. Only the "
        "whole class tells which. Obtain it."
    )


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which image_10 comes after image_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _ids_of_names(names: Sequence[str], candidates: Sequence[str]) -> list[str] | None:
    """WordNet ids of class names such as "space shuttle", or of WordNet ids; None unless each is a different candidate.

    Args:
        names: of all classes of a split.
        candidates: WordNet ids of the split. No name occurs twice in a split of tieredImageNet.
    """
    if set(names) <= set(candidates):
        return list(names) if len(set(names)) == len(names) else None
    from timm.data.imagenet_info import ImageNetInfo

    described = ImageNetInfo("imagenet-1k")
    by_name = {_plain_name(described.label_name_to_description(synset)): synset for synset in candidates}
    known = [by_name[plain] for name in names if (plain := _plain_name(name)) in by_name]
    return known if len(known) == len(names) == len(set(known)) else None


def _plain_name(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


_CACHES = "mini-imagenet-cache pickles of Ren et al."
_CATEGORY_SPLITS = "miniImageNet_category_split pickles of Gidaris"
_PNG_PICKLES = "tieredImageNet pickles of PNGs of Ren et al."
_NPZ = "tieredImageNet npz files of MetaOptNet"
_ARRAY_LAYOUTS = {
    _CACHES: ("mini-imagenet", "mini-imagenet-cache-{0}.pkl"),
    _CATEGORY_SPLITS: ("mini-imagenet", "miniImageNet_category_split_{0}.pickle"),
    _PNG_PICKLES: ("tiered-imagenet", "{0}_images_png.pkl and {0}_labels.pkl"),
    _NPZ: ("tiered-imagenet", "{0}_images.npz and {0}_labels.pkl"),
}
"""For each layout of arrays its benchmark and the names of its files."""

_SHORT: dict[SplitName, str] = {"base": "train", "validation": "val", "novel": "test"}

_NUMBERED = "label-"
"""Start of a class's name where nothing tells which class it is."""

Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class _Part:
    """What one file, or a pair of files, holds of one split.

    Attributes:
        layout: what people call it.
        split: which split it is.
        images: uint8 [I, H, W, 3], or one encoded file per image.
        rows: for each class by WordNet id, the rows of its images in the file's order.
    """

    layout: str
    split: SplitName
    images: Images
    rows: Mapping[str, NDArray[np.int64]]


def find_imagenet_arrays(tree: FileTree) -> Found | None:
    """Any of the four layouts."""
    parts: dict[str, dict[SplitName, _Part]] = {}
    for part in _parts(tree):
        present = parts.setdefault(part.layout, {})
        if part.split in present:
            raise DatasetError(
                f"{tree.path} holds the {_SHORT[part.split]} part of the {part.layout} twice. Leave one copy there."
            )
        present[part.split] = part
    if not parts:
        return None
    layout = max(parts, key=lambda name: len(parts[name]))
    missing = [_SHORT[split] for split in SPLIT_NAMES if split not in parts[layout]]
    dataset, files = _ARRAY_LAYOUTS[layout]
    read = partial(_read_arrays, layout, parts[layout])
    return Found(layout, tree.path, (dataset,), read, tuple(files.format(name) for name in missing))


def _parts(tree: FileTree) -> Iterator[_Part]:
    contents = {file: read_arrays(tree, file) for file in array_files(tree)}
    readers: tuple[Callable[[Any, str, Mapping[str, Any]], _Part | None], ...] = (_cache, _category_split, _tiered)
    for file, content in contents.items():
        for read in readers:
            part = read(content, str(tree.path / file), contents)
            if part is not None:
                yield part


def _cache(content: Any, file: str, _: Mapping[str, Any]) -> _Part | None:
    if not isinstance(content, dict) or not {"image_data", "class_dict"} <= set(content):
        return None
    images, classes = content["image_data"], content["class_dict"]
    if not _are_pictures(images) or not isinstance(classes, dict):
        return None
    rows = {str(name): np.sort(whole_numbers(indices, file, below=len(images))) for name, indices in classes.items()}
    split = _split_of(set(rows), "mini-imagenet")
    return None if split is None else _Part(_CACHES, split, images, rows)


def _category_split(content: Any, file: str, _: Mapping[str, Any]) -> _Part | None:
    if not isinstance(content, dict) or not {"data", "labels", "catname2label"} <= set(content):
        return None
    images, names = content["data"], content["catname2label"]
    if not _are_pictures(images) or not isinstance(names, dict):
        return None
    labels = whole_numbers(content["labels"], file, length=len(images))
    rows = {str(name): np.flatnonzero(labels == label) for name, label in names.items() if isinstance(label, int)}
    rows = {name: members for name, members in rows.items() if len(members)}
    split = _split_of(set(rows), "mini-imagenet")
    if split is None:
        return None
    # train_phase_val and train_phase_test hold other images of the base classes, none of them the benchmark's.
    sizes = official_class_sizes("mini-imagenet")[split]
    if split == "base" and {name: len(members) for name, members in rows.items()} != sizes:
        return None
    return _Part(_CATEGORY_SPLITS, split, images, rows)


def _tiered(content: Any, file: str, others: Mapping[str, Any]) -> _Part | None:
    """Images whose labels are in another file of the same length."""
    keys: tuple[str, ...]
    if isinstance(content, list) and content and all(_is_encoded(item) for item in content[:3]):
        images: Images = content
        layout, keys = _PNG_PICKLES, ("label_specific", "label_specific_str")
    elif isinstance(content, dict) and set(content) == {"images"} and _are_pictures(content["images"]):
        images = content["images"]
        layout, keys = _NPZ, ("labels",)
    else:
        return None
    for other in others.values():
        if isinstance(other, dict) and set(keys) <= set(other) and _length(other[keys[0]]) == len(images):
            labels = whole_numbers(other[keys[0]], file, length=len(images))
            named = _named_rows(labels, other.get(keys[1]) if len(keys) > 1 else None, others)
            if named is not None:
                return _Part(layout, named[0], images, named[1])
    return None


def _named_rows(
    labels: NDArray[np.int64], names: Any, others: Mapping[str, Any]
) -> tuple[SplitName, dict[str, NDArray[np.int64]]] | None:
    """Which split it is, and the rows of each of its classes by WordNet id."""
    values, sizes = np.unique(labels, return_counts=True)
    by_label = {int(label): np.flatnonzero(labels == label) for label in values}
    for split, official in official_class_sizes("tiered-imagenet").items():
        if isinstance(names, list | tuple) and all(0 <= label < len(names) for label in by_label):
            synsets = _ids_of_names([str(names[label]) for label in by_label], list(official))
        else:
            # Hundreds of equal sizes in a row do not happen by chance: a tenth of the classes has a size of its own. A
            # file that numbers its classes in another order is refused rather than guessed at.
            synsets = list(official) if list(official.values()) == sizes.tolist() else None
        if synsets is not None:
            return split, dict(zip(synsets, by_label.values(), strict=True))
        if names is None and sorted(sizes.tolist()) == sorted(official.values()):
            return split, {f"{_NUMBERED}{label:03d}": rows for label, rows in by_label.items()}
    return None


def _length(values: Any) -> int | None:
    """Number of labels; None if this is not a list of labels."""
    return len(values) if isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim) else None


def _are_pictures(array: Any) -> bool:
    """Whether it is uint8 [I, H, W, 3] with more than a thumbnail's pixels."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype == np.uint8
        and array.ndim == 4
        and array.shape[3] == 3
        and array.shape[1:3] != (32, 32)
    )


def _is_encoded(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.size == max(item.shape, default=0)


def _split_of(names: set[str], dataset: str) -> SplitName | None:
    """The split to which most of these classes belong."""
    for split, sizes in official_class_sizes(dataset).items():
        if names and len(names & set(sizes)) > len(names) / 2:
            return split
    return None


def _read_arrays(layout: str, parts: Mapping[SplitName, _Part], request: ImportRequest) -> Imported:
    dataset, _ = _ARRAY_LAYOUTS[layout]
    preprocessing = Preprocessing(request.size, request.fit or "squash", request.interpolation or "lanczos")
    official = official_class_sizes(dataset)
    for split, part in parts.items():
        if not _is_numbered(part):
            check_class_sizes({name: len(rows) for name, rows in part.rows.items()}, official[split], split, dataset)
    decoded = {split: _decoded(parts[split], preprocessing, request) for split in SPLIT_NAMES if split in parts}
    facts: dict[str, Any] = {"source": layout} | preprocessing.as_dict()
    facts |= {"source_size": " x ".join(map(str, _shape(next(iter(parts.values())), Preprocessing())[:2]))}
    if layout == _NPZ:
        facts["channels"] = "BGR in the files, stored as RGB"
    if layout == _CACHES:
        return Imported(decoded, facts, "names")
    warning = f"the {layout} keep no file names: images are known by their rank in the file."
    if any(_is_numbered(part) for part in parts.values()):
        warning += " Nor do they say which class is which: the episodes will not be everybody's."
    return Imported(decoded, facts, "ranks", (warning,))


def _is_numbered(part: _Part) -> bool:
    return next(iter(part.rows)).startswith(_NUMBERED)


def _decoded(part: _Part, preprocessing: Preprocessing, request: ImportRequest) -> DecodedSplit:
    ranks = mini_imagenet_ranks() if part.layout == _CACHES else {}
    classes = {
        name: [
            (f"{name}{ranks[name][number]:08d}.jpg" if ranks else f"{number:04d}", int(row))
            for number, row in enumerate(part.rows[name])
        ]
        for name in sorted(part.rows)
    }
    listed = ListedSplit(classes, partial(_load, part), are_named=part.layout == _CACHES)
    step = request.stack.enter_context(request.progress.step(f"reading {_SHORT[part.split]}", len(listed)))
    return DecodedSplit(listed, preprocessing, _shape(part, preprocessing), step)


def _load(part: _Part, row: int) -> bytes | NDArray[np.uint8]:
    image = part.images[row]
    if part.layout == _PNG_PICKLES:
        return image.tobytes()
    # OpenCV wrote the npz files, which keeps channels in the order blue, green, red.
    return np.ascontiguousarray(image[..., ::-1]) if part.layout == _NPZ else np.asarray(image)


def _shape(part: _Part, preprocessing: Preprocessing) -> tuple[int, int, int]:
    first = _load(part, 0)
    height, width = (preprocessing.decode(first) if isinstance(first, bytes) else preprocessing.resize(first)).shape[:2]
    return height, width, 3

"""miniImageNet and tieredImageNet as pickles and npz files, told apart by what is in them.

- `mini-imagenet-cache-{train,val,test}.pkl` of Ren et al.: `image_data`, `class_dict`; in the order of Ravi's CSVs
- `miniImageNet_category_split_{train_phase_train,val,test}.pickle` of Gidaris: `data`, `labels`, `catname2label`
- `{train,val,test}_images_png.pkl` + `{train,val,test}_labels.pkl` of Ren et al.: encoded PNGs, `label_specific(_str)`
- `{train,val,test}_images.npz` + `{train,val,test}_labels.pkl` of MetaOptNet: `images` in BGR order, `labels`

Only the first keeps what is needed to name an image. In the others an image is known by its rank in its class.

Which WordNet ids are meant, where a file of tieredImageNet has only words or numbers for its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SPLIT_NAMES, SplitName
from fewshot_bench.datasets.images import DecodedSplit, ListedSplit, PixelRecipe
from fewshot_bench.datasets.layouts.layout import Found, Imported, ImportRequest
from fewshot_bench.datasets.official_splits import mini_imagenet_ranks, official_class_sizes
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.datasets.sources.arrays import array_files, read_arrays
from fewshot_bench.errors import DatasetError


def synsets_of_names(names: Sequence[str], candidates: Sequence[str]) -> list[str] | None:
    """WordNet ids of class names such as "space shuttle" or of WordNet ids themselves.

    Args:
        names: of all classes of a split.
        candidates: WordNet ids of the split. Among those of one split of tieredImageNet no name occurs twice.

    Returns:
        One id per name; None unless every name is that of a different candidate.
    """
    if set(names) <= set(candidates):
        return list(names) if len(set(names)) == len(names) else None
    from timm.data.imagenet_info import ImageNetInfo

    described = ImageNetInfo("imagenet-1k")
    by_name = {_plain(described.label_name_to_description(synset)): synset for synset in candidates}
    found = [by_name.get(_plain(name)) for name in names]
    known = [synset for synset in found if synset is not None]
    return known if len(known) == len(names) == len(set(known)) else None


def synsets_of_sizes(sizes: Sequence[int], official: Mapping[str, int]) -> list[str] | None:
    """WordNet ids of numbered classes, if the numbers count the classes in sorted order.

    A tenth of the classes has a size of its own, so that a row of hundreds of equal sizes is no accident; a file whose
    classes are numbered in another order is not recognised rather than guessed at.

    Args:
        sizes: images of each class, in the order of their numbers.
        official: the sizes of the split's classes, in sorted order of their ids.
    """
    return list(official) if list(official.values()) == list(sizes) else None


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


_CACHES = "mini-imagenet-cache pickles of Ren et al."
_CATEGORY_SPLITS = "miniImageNet_category_split pickles of Gidaris"
_PNG_PICKLES = "tieredImageNet pickles of PNGs of Ren et al."
_NPZ = "tieredImageNet npz files of MetaOptNet"
_DATASET = {
    _CACHES: "mini-imagenet", _CATEGORY_SPLITS: "mini-imagenet",
    _PNG_PICKLES: "tiered-imagenet", _NPZ: "tiered-imagenet",
}  # fmt: skip
_FILES = {
    _CACHES: "mini-imagenet-cache-{}.pkl",
    _CATEGORY_SPLITS: "miniImageNet_category_split_{}.pickle",
    _PNG_PICKLES: "{}_images_png.pkl and {}_labels.pkl",
    _NPZ: "{}_images.npz and {}_labels.pkl",
}
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
    return Found(
        layout,
        tree.path,
        (_DATASET[layout],),
        partial(_read, tree, layout, parts[layout]),
        tuple(_FILES[layout].format(name, name) for name in missing),
    )


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
    rows = {str(name): np.sort(_whole_numbers(indices, len(images), file)) for name, indices in classes.items()}
    split = _split_of(set(rows), "mini-imagenet")
    return None if split is None else _Part(_CACHES, split, images, rows)


def _category_split(content: Any, file: str, _: Mapping[str, Any]) -> _Part | None:
    if not isinstance(content, dict) or not {"data", "labels", "catname2label"} <= set(content):
        return None
    images, names = content["data"], content["catname2label"]
    if not _are_pictures(images) or not isinstance(names, dict):
        return None
    labels = _whole_numbers(content["labels"], None, file, len(images))
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
    """Images whose labels lie in another file of the same length."""
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
            labels = _whole_numbers(other[keys[0]], None, file, len(images))
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
            synsets = synsets_of_names([str(names[label]) for label in by_label], list(official))
        else:
            synsets = synsets_of_sizes(sizes.tolist(), official)
        if synsets is not None:
            return split, dict(zip(synsets, by_label.values(), strict=True))
        if names is None and sorted(sizes.tolist()) == sorted(official.values()):
            return split, {f"{_NUMBERED}{label:03d}": rows for label, rows in by_label.items()}
    return None


def _length(values: Any) -> int | None:
    """How many labels there are; None if it is no list of labels."""
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


def _whole_numbers(values: Any, below: int | None, file: str, length: int | None = None) -> NDArray[np.int64]:
    try:
        numbers = np.asarray(values)
    except ValueError:  # lists of several lengths
        numbers = np.empty(0)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (length is not None and len(numbers) != length):
        raise DatasetError(f"the labels in {file} are no list of whole numbers, one per image. Obtain the file again.")
    if below is not None and len(numbers) and not (numbers.min() >= 0 and numbers.max() < below):
        raise DatasetError(f"{file} names images that it does not hold. Obtain the file again.")
    return numbers.astype(np.int64)


def _split_of(names: set[str], dataset: str) -> SplitName | None:
    """The split that has exactly, or nearly, these classes."""
    for split, sizes in official_class_sizes(dataset).items():
        if names and len(names & set(sizes)) > len(names) / 2:
            return split
    return None


def _read(tree: FileTree, layout: str, parts: Mapping[SplitName, _Part], request: ImportRequest) -> Imported:
    dataset = _DATASET[layout]
    recipe = PixelRecipe(request.size, request.fit or "squash", request.interpolation or "lanczos")
    official = official_class_sizes(dataset)
    for split, part in parts.items():
        if not _is_numbered(part):
            check_class_sizes({name: len(rows) for name, rows in part.rows.items()}, official[split], split, dataset)
    decoded = {split: _decoded(parts[split], recipe, request) for split in SPLIT_NAMES if split in parts}
    facts: dict[str, Any] = {"source": layout} | recipe.as_dict()
    facts |= {"source_size": " x ".join(map(str, _shape(next(iter(parts.values())), PixelRecipe())[:2]))}
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


def _decoded(part: _Part, recipe: PixelRecipe, request: ImportRequest) -> DecodedSplit:
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
    return DecodedSplit(listed, recipe, _shape(part, recipe), step)


def _load(part: _Part, row: int) -> bytes | NDArray[np.uint8]:
    image = part.images[row]
    if part.layout == _PNG_PICKLES:
        return image.tobytes()
    # OpenCV wrote the npz files, which keeps channels in the order blue, green, red.
    return np.ascontiguousarray(image[..., ::-1]) if part.layout == _NPZ else np.asarray(image)


def _shape(part: _Part, recipe: PixelRecipe) -> tuple[int, int, int]:
    first = _load(part, 0)
    height, width = (recipe.decode(first) if isinstance(first, bytes) else recipe.resize(first)).shape[:2]
    return height, width, 3


def check_class_sizes(found: Mapping[str, int], official: Mapping[str, int], split: str, dataset: str) -> None:
    """Compare what a source holds of a split with the official numbers.

    Raises:
        DatasetError: a class is missing, too many, or has another number of images.
    """
    missing = [name for name in official if not found.get(name)]
    if missing:
        raise DatasetError(
            f"the {split} split of {dataset} has {len(official)} classes; the source lacks {len(missing)} of them "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}). Obtain the whole of it."
        )
    foreign = [name for name in found if name not in official]
    if foreign:
        raise DatasetError(
            f"the source has {len(foreign)} classes in its {split} split that {dataset} has not there "
            f"({', '.join(foreign[:3])}): it is another division of ImageNet."
        )
    for name, expected in official.items():
        if found[name] != expected:
            raise DatasetError(
                f"class {name} of the {split} split of {dataset} has {expected:,} images; the source has "
                f"{found[name]:,}. Obtain the whole of it."
            )

"""The layouts of the datasets for ordinary classification.

torchvision has classes for most of them. They are not used: they open extracted folders under fixed names only, create
missing ones, check checksums of lists that others have reformatted, and ImageNet's unpickles a file. A test holds both
to the same images and labels where torchvision reads the same copy.

- CUB-200-2011 (Wah et al., 2011): images/<class>/<image>.jpg with four lists, as in CUB_200_2011.tgz. The same images
  divided by class (Chen et al., 2019) are "cub", a few-shot benchmark.
- Caltech-256 (Griffin et al., 2007): <number>.<class>/<number>_<image>.jpg, as in 256_ObjectCategories.tar.
- Oxford 102 Flowers (Nilsback and Zisserman, 2008): jpg/image_<number>.jpg, imagelabels.mat, setid.mat. A class is
  called by its official number: the files hold no names.
- Oxford-IIIT Pet (Parkhi et al., 2012): images/<class>_<number>.jpg, annotations/{trainval,test}.txt.
- iNaturalist 2017 (Van Horn et al., 2018): train_val_images/<super-category>/<species>/<image>.jpg, with train2017.json
  and val2017.json for the splits.
- Places365-standard (Zhou et al., 2017): data_256/<letter>/<class>/<image>.jpg, val_256/, and three lists; or with
  "large" for 256. A class is called by its path without the letter: "airfield" for /a/airfield.
- ImageNet-1k, that is ILSVRC-2012 (Russakovsky et al., 2015): train/<WordNet id>/<image>, val/<WordNet id>/<image>;
  for train/ also ILSVRC2012_img_train.tar, or one tar per class.
- Any of them as {train,val,test}/<class>/<image>, recognized by the number of classes and nearly that of images.

A folder may still be in the archive in which its authors publish it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.images import DecodedSplit, ListedSplit, Preprocessing
from fewshot_bench.datasets.layouts import (
    OFFICIAL,
    Found,
    Imported,
    ImportRequest,
    Official,
    are_official_names,
    check_class_sizes,
    check_counts,
)
from fewshot_bench.datasets.layouts.cifar import decoded_classes, imported_cifar_100
from fewshot_bench.datasets.layouts.imagenet import ClassFiles, class_files_in, image_files, is_synset, natural
from fewshot_bench.datasets.official_splits import official_class_sizes, published_split
from fewshot_bench.datasets.sources import FileTree, open_tree
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.errors import DatasetError

_SIZE = 224
_FEW_SHOT_SIZE = 84  # as in the literature on few-shot learning
_BY_CLASS = "class, as published"
_LARGEST_LIST = 1 << 30  # the largest, of iNaturalist 2017, has a tenth of it
_LARGEST_MAT = 1 << 16  # the larger has 15 KB

LIST_MD5 = {"imagelabels.mat": "e0620be6f572b9609742df49c70aed4d", "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c"}
"""MD5 of the published lists of Oxford 102 Flowers, as torchvision knows them."""


class ClassImages(Sequence[Any]):
    """Name and place of each image of a class, all in one folder.

    Only file names are kept: a tuple and a path for each of 1.8 million images would take half a gigabyte.
    """

    def __init__(self, tree: FileTree, folder: str, files: Sequence[str], names: Sequence[str] | None = None) -> None:
        self._tree, self._folder = tree, folder
        self.files, self._names = files, names or files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        return self._names[index], (self._tree, within(self._folder, self.files[index]))

    def by_rank(self) -> ClassImages:
        """The same in the order of the numbers in their names, called by their rank."""
        ordered = sorted(self.files, key=natural)
        return ClassImages(self._tree, self._folder, ordered, [f"{rank:04d}" for rank in range(len(ordered))])


Classes = Mapping[str, ClassImages]


def _load(place: tuple[FileTree, str]) -> bytes:
    return place[0].read(place[1])


def _imported(
    request: ImportRequest, source: str, splits: Mapping[SplitName, Classes], *, are_named: bool = True
) -> Imported:
    """Check the counts, and make the splits ready to be stored.

    Args:
        request: what was asked for.
        source: the layout, for the description of the dataset.
        splits: the images.
        are_named: whether the names are official; otherwise an image is known by its rank.

    Raises:
        DatasetError: the counts are not the official ones.
    """
    counts = {split: {name: len(images) for name, images in classes.items()} for split, classes in splits.items()}
    if request.dataset in OFFICIAL:
        check_counts(request.dataset, counts)
        official = OFFICIAL[request.dataset]
        expected, division, usual_side = tuple(official.images), official.division, _SIZE
    else:
        class_sizes = official_class_sizes(request.dataset)
        for split, sizes in class_sizes.items():
            check_class_sizes(counts.get(split, {}), sizes, split, request.dataset)
        expected, division, usual_side = tuple(class_sizes), _BY_CLASS, _FEW_SHOT_SIZE
    side = request.size or usual_side
    preprocessing = Preprocessing(side, request.fit or "crop", request.interpolation or "bicubic")
    decoded: dict[SplitName, DecodedSplit] = {}
    for split in expected:
        classes = {
            name: splits[split][name] if are_named else splits[split][name].by_rank() for name in sorted(splits[split])
        }
        listed = ListedSplit(classes, _load, are_named)
        step = request.stack.enter_context(request.progress.step(f"reading the {split} split", len(listed)))
        decoded[split] = DecodedSplit(listed, preprocessing, (side, side, 3), step)
    facts = {"source": source} | preprocessing.as_dict() | {"divided": division}
    if are_named:
        return Imported(decoded, facts, "names")
    warning = "the files do not have their official names: images are known by their rank in their class."
    return Imported(decoded, facts, "ranks", (warning,))


# Layouts with lists that say which images each class and split has


@dataclass(frozen=True)
class PartSpec:
    """A folder of a distribution and what it may be called.

    Attributes:
        folders: names of the folder; "" is the top.
        archives: official names of archives that hold it. An archive is known by its name: opening it to see what is
            inside can mean unpacking 186 GB.
        holding: a file by which the folder is known.
        missing: what the user is told to look for; the key of the part by default.
    """

    folders: tuple[str, ...]
    archives: tuple[str, ...] = ()
    holding: str = ""
    missing: str = ""

    def find(self, tree: FileTree) -> Part | None:
        """The first folder that is there, else the first archive that lies beside."""
        for folder in self.folders:
            if tree.has_folder(folder) and (not self.holding or tree.has_file(within(folder, self.holding))):
                return Part(tree, (folder,))
        if tree.description == "folder":  # an archive inside another archive has no path to open it by
            for archive in self.archives:
                if tree.has_file(archive):
                    return Part(tree, self.folders, archive)
        return None


@dataclass(frozen=True)
class Part:
    """A folder of a distribution that was found: unpacked, or in an archive."""

    tree: FileTree
    folders: tuple[str, ...]
    archive: str = ""

    def opened(self, stack: ExitStack) -> tuple[FileTree, str]:
        """The tree that holds the part, and its folder in it."""
        if not self.archive:
            return self.tree, self.folders[0]
        inner = stack.enter_context(open_tree(self.tree.path / self.archive))
        return inner, next((folder for folder in self.folders if inner.has_folder(folder)), "")


class Parts:
    """The parts of a distribution, opened when they are asked for."""

    def __init__(self, tree: FileTree, found: Mapping[str, Part], stack: ExitStack) -> None:
        self.path, self._found, self._stack = tree.path, found, stack
        self._opened: dict[str, tuple[FileTree, str]] = {}

    def __getitem__(self, key: str) -> tuple[FileTree, str]:
        if key not in self._opened:
            self._opened[key] = self._found[key].opened(self._stack)
        return self._opened[key]

    def place(self, file: str, part: str = "") -> tuple[FileTree, str]:
        """The tree that holds a list, and its path there; by default the part is called after the list."""
        tree, folder = self[part or file]
        return tree, within(folder, file)

    def text(self, file: str, part: str = "") -> str:
        """A list in a part; raises DatasetError if it is missing, not text, or far too large."""
        tree, place = self.place(file, part)
        if not tree.has_file(place):
            raise DatasetError(f"{tree.path / place} is missing. Obtain the whole dataset.")
        try:
            return tree.read(place, limit=_LARGEST_LIST).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DatasetError(f"{tree.path / place} is not text ({error.reason}). Obtain it again.") from error

    def rows(self, file: str, columns: int, part: str = "") -> Iterator[list[str]]:
        """The lines of a list, divided at white space; raises DatasetError if a line has another number of words."""
        for number, line in enumerate(io.StringIO(self.text(file, part)), 1):
            words = line.split()
            if words and len(words) != columns:
                tree, place = self.place(file, part)
                raise DatasetError(
                    f"line {number} of {tree.path / place} has {len(words)} words, not {columns}: it is not the "
                    "official list. Obtain it again."
                )
            if words:
                yield words


Row = tuple[SplitName, str, str, str]
"""Split, class, part and path in that part of one image; the images of a class in a split lie in one folder."""


@dataclass(frozen=True)
class ListedLayout:
    """A distribution whose lists say which images each class and split has.

    Attributes:
        name: what people call it.
        parts: folders and lists by a key that `rows` uses.
        is_recognized: whether the parts that were found belong to this layout.
        rows: for each dataset that it gives, one row per image.
    """

    name: str
    parts: Mapping[str, PartSpec]
    is_recognized: Callable[[Mapping[str, Part]], bool]
    rows: Mapping[str, Callable[[Parts], Iterator[Row]]]

    def find(self, tree: FileTree) -> Found | None:
        """The layout, if its telling parts are there."""
        found = {key: part for key, spec in self.parts.items() if (part := spec.find(tree)) is not None}
        if not self.is_recognized(found):
            return None
        missing = tuple(spec.missing or key for key, spec in self.parts.items() if key not in found)
        return Found(self.name, tree.path, tuple(self.rows), partial(self._read, tree, found), missing)

    def _read(self, tree: FileTree, found: Mapping[str, Part], request: ImportRequest) -> Imported:
        parts = Parts(tree, found, request.stack)
        files: dict[SplitName, dict[str, tuple[str, str, list[str]]]] = {}
        for split, label, part, path in self.rows[request.dataset](parts):
            folder, _, file = path.rpartition("/")
            files.setdefault(split, {}).setdefault(label, (part, folder, []))[2].append(file)

        @lru_cache(maxsize=1)  # several classes may share a folder
        def present(images: FileTree, place: str) -> Collection[str]:
            try:
                return set(images.files(place))
            except DatasetError:  # it, or a folder above it, is missing
                return set()

        splits: dict[SplitName, Classes] = {}
        for split, classes in files.items():
            images_of: dict[str, ClassImages] = {}
            for label, (part, folder, names) in classes.items():
                images, top = parts[part]
                place = within(top, folder) if folder else top
                absent = sorted(name for name in names if name not in present(images, place))
                if absent:
                    raise DatasetError(
                        f"class {label} has {len(names):,} images; the source lacks {len(absent):,} of them "
                        f"({absent[0]} in {images.path / place}). Obtain the whole dataset."
                    )
                images_of[label] = ClassImages(images, place, sorted(names))
            splits[split] = images_of
        return _imported(request, self.name, splits)


def _files_at_top(names: Iterable[str]) -> dict[str, PartSpec]:
    return {name: PartSpec(("",), holding=name) for name in names}


_CUB_LISTS = ("classes.txt", "image_class_labels.txt", "images.txt", "train_test_split.txt")


def _cub_rows(parts: Parts) -> Iterator[Row]:
    class_names = dict(parts.rows("classes.txt", 2))
    labels = dict(parts.rows("image_class_labels.txt", 2))
    is_train = {image: flag == "1" for image, flag in parts.rows("train_test_split.txt", 2)}
    for image, path in parts.rows("images.txt", 2):
        folder = path.rpartition("/")[0]
        if image not in is_train or class_names.get(labels.get(image, "")) != folder:
            raise DatasetError(f"the lists in {parts.path} do not agree on image {image} ({path}). Obtain them again.")
        yield "train" if is_train[image] else "test", folder, "images", path


def _cub_rows_by_class(parts: Parts) -> Iterator[Row]:
    """The images of whole classes, which are divided as in Chen et al. (2019)."""
    split_of = {label: split for split, classes in official_class_sizes("cub").items() for label in classes}
    for _, label, part, path in _cub_rows(parts):
        if label not in split_of:
            raise DatasetError(f"the lists in {parts.path} name a class {label}, which is none of the 200.")
        yield split_of[label], label, part, path


def _flowers_rows(parts: Parts) -> Iterator[Row]:
    labels = _mat_numbers(parts, "imagelabels.mat", "labels")
    keys: dict[SplitName, str] = {"train": "trnid", "validation": "valid", "test": "tstid"}
    for split, key in keys.items():
        for image in _mat_numbers(parts, "setid.mat", key).tolist():
            yield split, f"{labels[image - 1]:03d}", "jpg", f"image_{image:05d}.jpg"


def _mat_numbers(parts: Parts, file: str, name: str) -> NDArray[np.int64]:
    """A row of whole numbers of a published MATLAB file, else DatasetError: SciPy may crash on damaged ones."""
    from scipy.io import loadmat

    tree, _ = parts[file]
    content = tree.read(file, limit=_LARGEST_MAT)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != LIST_MD5[file]:
        raise DatasetError(f"{tree.path / file} is not the published file, by its md5. Obtain it again.")
    held: dict[str, Any] = loadmat(io.BytesIO(content), variable_names=[name])  # type: ignore[arg-type]  # stubs: paths
    return np.asarray(held[name]).ravel().astype(np.int64)


def _pet_rows(parts: Parts) -> Iterator[Row]:
    numbers: dict[str, str] = {}
    lists: dict[SplitName, str] = {"train": "trainval.txt", "test": "test.txt"}
    for split, file in lists.items():
        for image, number, _, _ in parts.rows(file, 4, part="annotations"):
            name = image.rpartition("_")[0]
            if numbers.setdefault(name, number) != number:
                raise DatasetError(
                    f"{parts['annotations'][0].path} numbers class {name} {numbers[name]} and {number}. Obtain it "
                    "again."
                )
            yield split, name, "images", f"{image}.jpg"


def _inaturalist_rows(parts: Parts) -> Iterator[Row]:
    lists: dict[SplitName, str] = {"train": "train2017.json", "test": "val2017.json"}
    for split, file in lists.items():
        try:
            # Everything but the images' names is dropped while the list is read.
            held = json.loads(parts.text(file), object_hook=_slim)
            paths = [str(name) for name in held["images"] if name is not None]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            tree, place = parts.place(file)
            raise DatasetError(f"{tree.path / place} is not a list of images ({error}). Obtain it again.") from error
        for path in paths:
            # .../Aves/Accipiter badius/0b2e.jpg; species are told apart within their super-category only.
            inner = "/".join(path.split("/")[-3:])
            yield split, inner.rpartition("/")[0], "images", inner


def _slim(entry: dict[str, Any]) -> Any:
    return entry.get("file_name") if "images" not in entry else {"images": entry["images"]}


_CATEGORIES, _TRAIN, _VALIDATION = "categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"


def _places_rows(parts: Parts) -> Iterator[Row]:
    categories = {number: path.strip("/") for path, number in parts.rows(_CATEGORIES, 2)}
    names = {folder: "-".join(folder.split("/")[1:]) for folder in categories.values()}
    for path, number in parts.rows(_TRAIN, 2):
        folder = path.strip("/").rpartition("/")[0]
        if categories.get(number) != folder:
            raise _unknown_category(path, number)
        yield "train", names[folder], "train", path.strip("/")
    for file, number in parts.rows(_VALIDATION, 2):
        if number not in categories:
            raise _unknown_category(file, number)
        yield "test", names[categories[number]], "val", file


def _unknown_category(path: str, number: str) -> DatasetError:
    return DatasetError(f"{_CATEGORIES} has no class {number} for image {path}. Obtain the lists again.")


def _places365(size: str) -> ListedLayout:
    lists = {
        file: PartSpec(("", "filelist_places365-standard"), ("filelist_places365-standard.tar",), file)
        for file in (_CATEGORIES, _TRAIN, _VALIDATION)
    }
    train_folders = (f"data_{size}_standard", f"data_{size}")
    images = {
        "train": PartSpec(train_folders, (f"train_{size}_places365standard.tar",), missing=f"data_{size}"),
        "val": PartSpec((f"val_{size}",), (f"val_{size}.tar",), missing=f"val_{size}"),
    }
    return ListedLayout(
        f"Places365-standard ({size})",
        lists | images,
        lambda found: bool(found.keys() & lists.keys()),
        {"places365": _places_rows},
    )


_IN_LIST_ARCHIVE = (("", "train_val2017", "annotations"), ("train_val2017.zip",))

LISTED_LAYOUTS = (
    ListedLayout(
        "CUB_200_2011",
        _files_at_top(_CUB_LISTS) | {"images": PartSpec(("images",))},
        lambda found: {"images.txt", "image_class_labels.txt"} <= found.keys(),
        {"cub-200-2011": _cub_rows, "cub": _cub_rows_by_class},
    ),
    ListedLayout(
        "Oxford 102 Flowers",
        _files_at_top(LIST_MD5)
        | {"jpg": PartSpec(("jpg",), ("102flowers.tgz", "102flowers.tar"), missing="jpg or 102flowers.tgz")},
        lambda found: len(found) >= 2,
        {"flowers-102": _flowers_rows},
    ),
    ListedLayout(
        "Oxford-IIIT Pet",
        {
            "annotations": PartSpec(("annotations",), ("annotations.tar.gz", "annotations.tar"), "trainval.txt"),
            "images": PartSpec(("images",), ("images.tar.gz", "images.tar"), missing="images or images.tar.gz"),
        },
        lambda found: "annotations" in found,
        {"oxford-iiit-pet": _pet_rows},
    ),
    ListedLayout(
        "iNaturalist 2017",
        {
            "images": PartSpec(
                ("train_val_images", "2017"),
                ("train_val_images.tar.gz", "train_val_images.tar", "2017.tgz"),
                missing="train_val_images",
            )
        }
        | {
            file: PartSpec(*_IN_LIST_ARCHIVE, file, f"{file} (in train_val2017.zip)")
            for file in ("train2017.json", "val2017.json")
        },
        # A folder that happens to be called 2017 is not enough.
        lambda found: len(found) > 1 or bool(found and next(iter(found.values())).folders[0] != "2017"),
        {"inaturalist-2017": _inaturalist_rows},
    ),
)


def find_places365(tree: FileTree) -> Found | None:
    """Places365; a complete copy before an incomplete one, images of 256 pixels before larger ones."""
    found = [layout for size in ("256", "large") if (layout := _places365(size).find(tree)) is not None]
    return min(found, key=lambda layout: bool(layout.missing), default=None)


# Layouts whose folders say everything

_CALTECH = "256_ObjectCategories of Caltech-256"
_CALTECH_CLASS = re.compile(r"(\d{3})\.[\w.+-]+")
_CALTECH_IMAGE = re.compile(r"(\d{3})_(\d{4})\.jpg")


def find_caltech_256(tree: FileTree) -> Found | None:
    """The folder of the class folders, told from others with numbered classes by the names of the images."""
    numbers = {match[1]: name for name in tree.folders() if (match := _CALTECH_CLASS.fullmatch(name))}
    if not numbers or not _caltech_images(tree, next(iter(numbers.values()))):
        return None
    expected = [f"{number:03d}" for number in range(1, OFFICIAL["caltech-256"].classes + 1)]
    missing = tuple(f"{number}.*" for number in expected if number not in numbers)
    read = partial(_read_caltech_256, tree, sorted(numbers.values()))
    return Found(_CALTECH, tree.path, ("caltech-256",), read, missing)


def _caltech_images(tree: FileTree, folder: str) -> list[str]:
    """Images by number; the official archive also holds a few other files, e.g. RENAME2."""
    return [name for name in tree.files(folder) if (match := _CALTECH_IMAGE.fullmatch(name)) and match[1] == folder[:3]]


def _read_caltech_256(tree: FileTree, names: Sequence[str], request: ImportRequest) -> Imported:
    trained = OFFICIAL["caltech-256"].class_sizes["train"]
    assert isinstance(trained, int), "every class trains on equally many images"
    train: dict[str, ClassImages] = {}
    test: dict[str, ClassImages] = {}
    for name in names:
        files = _caltech_images(tree, name)
        absent = next((f for n, f in enumerate(files, 1) if f != f"{name[:3]}_{n:04d}.jpg"), None)
        if absent is not None:
            raise DatasetError(
                f"the images of class {name} are numbered without a gap; the source lacks one before {absent}. "
                "Obtain the whole dataset."
            )
        train[name] = ClassImages(tree, name, files[:trained])
        test[name] = ClassImages(tree, name, files[trained:])
    return _imported(request, _CALTECH, {"train": train, "test": test})


_IMAGENET_1K = "ILSVRC-2012 training and validation images"
_SORTED = "val/<WordNet id> (the validation images sorted into class folders)"


def find_imagenet_1k(tree: FileTree) -> Found | None:
    """The folder with train and val."""
    official = OFFICIAL["imagenet-1k"].class_sizes["train"]
    assert not isinstance(official, int), "the classes differ in size"
    names = set(official)
    validation = next((dict(class_files_in(tree, f)) for f in ("val", "validation") if tree.has_folder(f)), {})
    missing = [f"val/{name}" for name in sorted(names - set(validation))] if validation else [_SORTED]
    train: Part | Mapping[str, ClassFiles]
    part = PartSpec(("train",), ("ILSVRC2012_img_train.tar",)).find(tree)
    if part is not None and part.archive:
        train, missing = part, [] if validation else [_SORTED]
    else:
        is_beside = published_split(tree.path.name) is None  # the classes of train/ alone are found one folder above
        train = dict(class_files_in(tree, "train" if part else "")) if part or is_beside else {}
        if len(names & set(train)) <= len(names) / 2:
            return None
        missing = [f"class {name}" for name in sorted(names - set(train))] + missing
    read = partial(_read_imagenet_1k, train, validation)
    return Found(_IMAGENET_1K, tree.path, ("imagenet-1k",), read, tuple(missing))


def _read_imagenet_1k(
    train: Part | Mapping[str, ClassFiles], validation: Mapping[str, ClassFiles], request: ImportRequest
) -> Imported:
    if isinstance(train, Part):
        train = dict(class_files_in(*train.opened(request.stack)))
    places: dict[SplitName, Mapping[str, ClassFiles]] = {"train": train, "test": validation}
    splits: dict[SplitName, Classes] = {}
    for split, classes in places.items():
        images = {}
        for label, place in classes.items():
            tree, folder, files = place.images(request.stack)
            # Copies that were converted to another format keep the official stem.
            named = sorted((f"{PurePosixPath(file).stem}.JPEG", file) for file in files)
            images[label] = ClassImages(tree, folder, [file for _, file in named], [name for name, _ in named])
        splits[split] = images
    return _imported(request, _IMAGENET_1K, splits, are_named=_have_official_names(request.dataset, splits))


def _have_official_names(dataset: str, splits: Mapping[SplitName, Classes]) -> bool:
    return all(are_official_names(dataset, images.files) for classes in splits.values() for images in classes.values())


_CLASS_FOLDERS = "class folders per split"
_NEARLY = 0.1


def find_class_folders(tree: FileTree) -> Found | None:
    """Split folders with as many class folders as a dataset has, the same in every split.

    What is missing is named by the import. Where the files do not have their official names, images are known by rank.
    """
    folders = {split: name for name in tree.folders() if (split := published_split(name)) is not None}
    classes = {split: tree.folders(name) for split, name in folders.items()}
    fitting = tuple(
        name
        for name, official in OFFICIAL.items()
        if (places := _places(official, folders)) is not None
        and {len(classes[place]) for place in places.values()} == {official.classes}
        and len({tuple(classes[place]) for place in places.values()}) == 1
        and not all(is_synset(label) for label in classes[places["train"]])
        and _has_nearly_as_many(tree, official, {split: folders[place] for split, place in places.items()})
    )
    read = partial(_read_class_folders, tree, folders)
    return Found(_CLASS_FOLDERS, tree.path, fitting, read) if fitting else None


def _places(official: Official, folders: Mapping[SplitName, str]) -> dict[SplitName, SplitName] | None:
    """For each split of a dataset, which of the folders it is."""
    places: dict[SplitName, SplitName] = {"train": "base", "validation": "validation", "test": "novel"}
    if official.is_tested_on_validation and "validation" in folders:
        places["test"] = "validation"
    chosen = {split: places[split] for split in official.images}
    is_whole = official.is_tested_on_validation or set(chosen.values()) == set(folders)
    return chosen if is_whole and set(chosen.values()) <= set(folders) else None


def _has_nearly_as_many(tree: FileTree, official: Official, folders: Mapping[SplitName, str]) -> bool:
    for split, expected in official.images.items():
        present = sum(len(tree.files(f"{folders[split]}/{name}")) for name in tree.folders(folders[split]))
        if abs(present - expected) > _NEARLY * expected:
            return False
    return True


def _read_class_folders(tree: FileTree, folders: Mapping[SplitName, str], request: ImportRequest) -> Imported:
    splits: dict[SplitName, Classes] = {}
    for split, place in (_places(OFFICIAL[request.dataset], folders) or {}).items():
        top = folders[place]
        splits[split] = {
            label: ClassImages(tree, f"{top}/{label}", image_files(tree, f"{top}/{label}"))
            for label in tree.folders(top)
        }
    if request.dataset == "cifar-100":  # its images are known by their pixels
        decoded = {
            split: decoded_classes(ListedSplit(classes, _load), f"reading the {split} split", request)
            for split, classes in splits.items()
        }
        return imported_cifar_100(request, decoded, _CLASS_FOLDERS)
    return _imported(request, _CLASS_FOLDERS, splits, are_named=_have_official_names(request.dataset, splits))


CLASSIFICATION_LAYOUTS: tuple[Callable[[FileTree], Found | None], ...] = (
    *(layout.find for layout in LISTED_LAYOUTS),
    find_caltech_256,
    find_places365,
    find_imagenet_1k,
    find_class_folders,
)

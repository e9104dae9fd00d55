"""What the classification datasets share: parts that may still be packed, lists in text files, images by class.

Caltech-256 (Griffin et al., 2007): <number>.<class>/<number>_<image>.jpg, as in 256_ObjectCategories.tar.

torchvision's Caltech256 opens nothing but a folder called caltech256/256_ObjectCategories, and makes the first where it
is not there; reading the names here serves other folders and archives as well. A test holds both to the same images
and labels.

Any of the classification datasets as {train,val,test}/<class>/<image>, as many tools pass them on.

Nothing in such a tree says which dataset it is: it is taken for one if it has its number of classes, the same ones in
every split, and nearly its number of images. What then is missing is named by the import. Where the files are not
called as the dataset's authors called them, images are known by their rank.

CUB-200-2011 (Wah et al., 2011): images/<class>/<image>.jpg with four lists, as in CUB_200_2011.tgz.

torchvision has no class for it.

Oxford 102 Flowers (Nilsback and Zisserman, 2008): jpg/image_<number>.jpg, imagelabels.mat, setid.mat.

The images may still be in 102flowers.tgz. torchvision's Flowers102 opens nothing but a folder called flowers-102;
reading it here serves other folders and archives as well. A test holds both to the same images and labels. The .mat
files are read, as torchvision does, by `scipy.io.loadmat`, and only if they are the published ones: damage in such a
file can end the whole process within SciPy. A class is called by its official number: the files hold no names.

ImageNet-1k, that is ILSVRC-2012 (Russakovsky et al., 2015): train/<WordNet id>/<image>, val/<WordNet id>/<image>.

Instead of train/ its official archive, ILSVRC2012_img_train.tar, may lie there; or one tar per class in train/. The
validation images must have been sorted into class folders, as torchvision and most scripts do. torchvision's ImageNet
unpickles meta.bin, so the folders are read here.

iNaturalist 2017 (Van Horn et al., 2018): train_val_images/<super-category>/<species>/<image>.jpg.

Which images are for training stands in train2017.json and val2017.json, which torchvision's INaturalist does not read:
it takes all images of a folder called 2017 together. That folder's name is known here, too. The images may still be in
train_val_images.tar.gz, the lists in train_val2017.zip.

The layouts of the classification datasets, the telling ones first.

Oxford-IIIT Pet (Parkhi et al., 2012): images/<class>_<number>.jpg, annotations/{trainval,test}.txt.

Both folders may still be in images.tar.gz and annotations.tar.gz. torchvision's OxfordIIITPet opens nothing but a
folder called oxford-iiit-pet; reading its two lists here serves other folders and archives as well. A test holds both
to the same images and labels. A class is called as in the files' names, e.g. "Abyssinian" or "american_bulldog".

Places365-standard (Zhou et al., 2017): data_256/<letter>/<class>/<image>.jpg, val_256/, and three lists.

The same with `large` for `256`, and torchvision's data_256_standard; images still in train_256_places365standard.tar
and val_256.tar, lists in filelist_places365-standard.tar. torchvision's Places365 insists on the md5 of the lists, so
they are read here; a test holds both to the same images and labels. A class is called by its path without the letter:
"airfield" for /a/airfield, "apartment_building-outdoor" for /a/apartment_building/outdoor.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.images import DecodedSplit, ListedSplit, PixelRecipe
from fewshot_bench.datasets.layouts.cifar import CifarClasses, imported_cifar_100
from fewshot_bench.datasets.layouts.imagenet_images import IMAGE_FILE, ClassFiles, class_files_in, is_synset, natural
from fewshot_bench.datasets.layouts.layout import (
    OFFICIAL,
    Found,
    Imported,
    ImportRequest,
    Official,
    are_official_names,
    check_counts,
)
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.sources import FileTree, open_tree
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.errors import DatasetError

_SIZE = 224
_LARGEST_LIST = 1 << 30  # the largest, of iNaturalist 2017, has a tenth of it


@dataclass(frozen=True)
class Part:
    """A folder of a distribution: unpacked, or in the archive in which it is passed on.

    An archive is known by its official name: opening it to see what is inside can mean unpacking 186 GB.
    """

    tree: FileTree
    folders: tuple[str, ...]
    archive: str = ""

    def opened(self, stack: ExitStack) -> tuple[FileTree, str]:
        """The tree that holds the part, and its folder in it."""
        if not self.archive:
            return self.tree, self.folders[0]
        inner = stack.enter_context(open_tree(self.tree.path / self.archive))
        return inner, next((folder for folder in self.folders if inner.has_folder(folder)), "")


def find_part(
    tree: FileTree, folders: Sequence[str], archives: Sequence[str] = (), *, holding: str = ""
) -> Part | None:
    """The first of some folders that is there, else the first of some archives that lie beside.

    Args:
        tree: where to look.
        folders: names that the folder goes by; "" is the tree itself.
        archives: official names of archives that hold it.
        holding: a file by which the folder is known.
    """
    for folder in folders:
        if tree.has_folder(folder) and (not holding or tree.has_file(f"{folder}/{holding}".lstrip("/"))):
            return Part(tree, (folder,))
    if tree.description == "folder":  # an archive inside another archive has no path to open it by
        for archive in archives:
            if tree.has_file(archive):
                return Part(tree, tuple(folders), archive)
    return None


def read_text(tree: FileTree, file: str) -> str:
    """A list that belongs to a dataset.

    Raises:
        DatasetError: it is missing, no text, or far too large.
    """
    if not tree.has_file(file):
        raise DatasetError(f"{tree.path / file} is missing. Obtain the whole of the dataset.")
    try:
        return tree.read(file, limit=_LARGEST_LIST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{tree.path / file} is no text ({error.reason}). Obtain it again.") from error


def rows(tree: FileTree, file: str, columns: int) -> Iterator[list[str]]:
    """The lines of a list, divided at white space.

    Raises:
        DatasetError: a line has another number of words.
    """
    for number, line in enumerate(io.StringIO(read_text(tree, file)), 1):
        words = line.split()
        if words and len(words) != columns:
            raise DatasetError(
                f"line {number} of {tree.path / file} has {len(words)} words, not {columns}: it is not the official "
                "list. Obtain it again."
            )
        if words:
            yield words


class ClassImages(Sequence[Any]):
    """Name and place of each image of a class, all in one folder.

    Only the files' names are kept: a tuple and a path for each of 1.8 million images would take half a gigabyte.
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


def present_files(tree: FileTree, folder: str) -> set[str]:
    """The files of a folder; none where it, or one above it, is missing."""
    try:
        return set(tree.files(folder))
    except DatasetError:
        return set()


def listed_images(
    tree: FileTree, folder: str, label: str, files: Collection[str], present: Collection[str] | None = None
) -> ClassImages:
    """The images that a list names for a class, in the order of their names.

    Args:
        tree: where they lie.
        folder: likewise.
        label: the class.
        files: their names.
        present: what the folder holds, where that is known.

    Raises:
        DatasetError: one is not there.
    """
    held = present_files(tree, folder) if present is None else present
    absent = sorted(file for file in files if file not in held)
    if absent:
        raise DatasetError(
            f"class {label} has {len(files):,} images; the source lacks {len(absent):,} of them ({absent[0]} in "
            f"{tree.path / folder}). Obtain the whole of it."
        )
    return ClassImages(tree, folder, sorted(files))


def have_official_names(dataset: str, splits: Mapping[SplitName, Classes]) -> bool:
    """Whether all files are called as the dataset's authors called them."""
    return all(are_official_names(dataset, images.files) for classes in splits.values() for images in classes.values())


def imported(
    request: ImportRequest,
    source: str,
    splits: Mapping[SplitName, Classes],
    *,
    are_named: bool = True,
) -> Imported:
    """Check the counts, and make the splits ready to be stored.

    Args:
        request: what was asked for.
        source: the layout, for the recipe.
        splits: the images.
        are_named: whether the names are official; otherwise an image is known by its rank.

    Raises:
        DatasetError: the counts are not the official ones.
    """
    official = OFFICIAL[request.dataset]
    check_counts(
        request.dataset,
        {split: {name: len(images) for name, images in classes.items()} for split, classes in splits.items()},
    )
    recipe = PixelRecipe(request.size or _SIZE, request.fit or "crop", request.interpolation or "bicubic")
    side = recipe.size or _SIZE
    decoded: dict[SplitName, DecodedSplit] = {}
    for split in official.images:
        classes = {
            name: splits[split][name] if are_named else splits[split][name].by_rank() for name in sorted(splits[split])
        }
        listed = ListedSplit(classes, _load, are_named)
        step = request.stack.enter_context(request.progress.step(f"reading the {split} split", len(listed)))
        decoded[split] = DecodedSplit(listed, recipe, (side, side, 3), step)
    facts = {"source": source} | recipe.as_dict() | {"divided": official.division}
    if are_named:
        return Imported(decoded, facts, "names")
    warning = "the files have not their official names: images are known by their rank among their class."
    return Imported(decoded, facts, "ranks", (warning,))


def _load(place: tuple[FileTree, str]) -> bytes:
    return place[0].read(place[1])


_LAYOUT = "256_ObjectCategories of Caltech-256"
_CLASS = re.compile(r"(\d{3})\.[\w.+-]+")
_IMAGE = re.compile(r"(\d{3})_(\d{4})\.jpg")


def find_caltech_256(tree: FileTree) -> Found | None:
    """The folder of the class folders, told from others with numbered classes by the names of the images."""
    numbers = {match[1]: name for name in tree.folders() if (match := _CLASS.fullmatch(name))}
    if not numbers or not _images(tree, next(iter(numbers.values()))):
        return None
    expected = [f"{number:03d}" for number in range(1, OFFICIAL["caltech-256"].classes + 1)]
    missing = tuple(f"{number}.*" for number in expected if number not in numbers)
    return Found(_LAYOUT, tree.path, ("caltech-256",), partial(_read, tree, sorted(numbers.values())), missing)


def _images(tree: FileTree, folder: str) -> list[str]:
    """Images by number; the official archive also holds a few files that are none, e.g. RENAME2."""
    return [name for name in tree.files(folder) if (match := _IMAGE.fullmatch(name)) and match[1] == folder[:3]]


def _read(tree: FileTree, names: Sequence[str], request: ImportRequest) -> Imported:
    trained = OFFICIAL["caltech-256"].class_sizes["train"]
    assert isinstance(trained, int), "every class trains on equally many images"
    train: dict[str, ClassImages] = {}
    test: dict[str, ClassImages] = {}
    for name in names:
        files = _images(tree, name)
        absent = next((f for n, f in enumerate(files, 1) if f != f"{name[:3]}_{n:04d}.jpg"), None)
        if absent is not None:
            raise DatasetError(
                f"the images of class {name} are numbered without a gap; the source lacks one before {absent}. "
                "Obtain the whole of it."
            )
        train[name] = ClassImages(tree, name, files[:trained])
        test[name] = ClassImages(tree, name, files[trained:])
    return imported(request, _LAYOUT, {"train": train, "test": test})


_LAYOUT_CLASS_FOLDERS = "class folders per split"
_NEARLY = 0.1


def find_class_folders(tree: FileTree) -> Found | None:
    """Split folders whose class folders are as many as a dataset has."""
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
    return (
        Found(_LAYOUT_CLASS_FOLDERS, tree.path, fitting, partial(_read_class_folders, tree, folders))
        if fitting
        else None
    )


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
    places = _places(OFFICIAL[request.dataset], folders) or {}
    splits = {split: _classes(tree, folders[place]) for split, place in places.items()}
    if request.dataset == "cifar-100":
        return imported_cifar_100(
            request,
            {split: _pixels(request, split, classes) for split, classes in splits.items()},
            _LAYOUT_CLASS_FOLDERS,
        )
    return imported(request, _LAYOUT_CLASS_FOLDERS, splits, are_named=have_official_names(request.dataset, splits))


def _classes(tree: FileTree, folder: str) -> Classes:
    return {
        name: ClassImages(
            tree, f"{folder}/{name}", [f for f in tree.files(f"{folder}/{name}") if IMAGE_FILE.fullmatch(f)]
        )
        for name in tree.folders(folder)
    }


def _pixels(request: ImportRequest, split: SplitName, classes: Classes) -> CifarClasses:
    """The images of CIFAR-100 themselves, which are small, and known by their pixels."""
    listed = ListedSplit(classes, lambda place: place[0].read(place[1]))
    step = request.stack.enter_context(request.progress.step(f"reading the {split} split", len(listed)))
    decoded = DecodedSplit(listed, PixelRecipe(), (32, 32, 3), step)
    images = np.concatenate([*decoded.blocks(), np.empty((0, 32, 32, 3), np.uint8)])
    ends = np.cumsum(decoded.class_sizes)
    return dict(zip(decoded.class_names, np.split(images, ends[:-1]), strict=True))


_LISTS = ("classes.txt", "image_class_labels.txt", "images.txt", "train_test_split.txt")
_LAYOUT_CUB_200_2011 = "CUB_200_2011"


def find_cub_200_2011(tree: FileTree) -> Found | None:
    """The folder with the lists."""
    present = {*tree.files(), *tree.folders()}
    if not {"images.txt", "image_class_labels.txt"} <= present:
        return None
    missing = tuple(name for name in (*_LISTS, "images") if name not in present)
    return Found(_LAYOUT_CUB_200_2011, tree.path, ("cub-200-2011",), partial(_read_cub_200_2011, tree), missing)


def _read_cub_200_2011(tree: FileTree, request: ImportRequest) -> Imported:
    class_names = dict(rows(tree, "classes.txt", 2))
    labels = dict(rows(tree, "image_class_labels.txt", 2))
    is_train = {image: flag == "1" for image, flag in rows(tree, "train_test_split.txt", 2)}
    files: dict[SplitName, dict[str, list[str]]] = {"train": {}, "test": {}}
    for image, path in rows(tree, "images.txt", 2):
        folder, _, file = path.rpartition("/")
        if image not in is_train or class_names.get(labels.get(image, "")) != folder:
            raise DatasetError(f"the lists in {tree.path} do not agree on image {image} ({path}). Obtain them again.")
        files["train" if is_train[image] else "test"].setdefault(folder, []).append(file)
    splits = {
        split: {name: listed_images(tree, f"images/{name}", name, members) for name, members in classes.items()}
        for split, classes in files.items()
    }
    return imported(request, _LAYOUT_CUB_200_2011, splits)


_LAYOUT_FLOWERS_102 = "Oxford 102 Flowers"
_IDS: dict[SplitName, str] = {"train": "trnid", "validation": "valid", "test": "tstid"}
_LARGEST_LIST_FLOWERS_102 = 1 << 16  # the larger has 15 KB

LIST_MD5 = {"imagelabels.mat": "e0620be6f572b9609742df49c70aed4d", "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c"}
"""Of the published files, as torchvision knows them."""


def find_flowers_102(tree: FileTree) -> Found | None:
    """The folder with the .mat files."""
    part = find_part(tree, ("jpg",), ("102flowers.tgz", "102flowers.tar"))
    missing = tuple(name for name in LIST_MD5 if not tree.has_file(name)) + (() if part else ("jpg or 102flowers.tgz",))
    if len(missing) > 1:
        return None
    return Found(
        _LAYOUT_FLOWERS_102,
        tree.path,
        ("flowers-102",),
        partial(_read_flowers_102, tree, part or Part(tree, ("jpg",))),
        missing,
    )


def _read_flowers_102(tree: FileTree, part: Part, request: ImportRequest) -> Imported:
    labels = _numbers(tree, "imagelabels.mat", "labels")
    images, folder = part.opened(request.stack)
    present = present_files(images, folder)
    splits = {}
    for split, key in _IDS.items():
        classes: dict[str, list[str]] = {}
        for image in _numbers(tree, "setid.mat", key).tolist():
            classes.setdefault(f"{labels[image - 1]:03d}", []).append(f"image_{image:05d}.jpg")
        splits[split] = {
            name: listed_images(images, folder, name, files, present) for name, files in sorted(classes.items())
        }
    return imported(request, _LAYOUT_FLOWERS_102, splits)


def _numbers(tree: FileTree, file: str, name: str) -> NDArray[np.int64]:
    """One row of whole numbers of a published MATLAB file.

    Raises:
        DatasetError: it is another file.
    """
    from scipy.io import loadmat

    content = tree.read(file, limit=_LARGEST_LIST_FLOWERS_102)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != LIST_MD5[file]:
        raise DatasetError(f"{tree.path / file} is not the published file, by its md5. Obtain it again.")
    held: dict[str, Any] = loadmat(io.BytesIO(content), variable_names=[name])  # type: ignore[arg-type]  # stubs: paths
    return np.asarray(held[name]).ravel().astype(np.int64)


_LAYOUT_IMAGENET_1K = "ILSVRC-2012 training and validation images"
_TAR = "ILSVRC2012_img_train.tar"
_SORTED = "val/<WordNet id> (the validation images sorted into class folders)"


def find_imagenet_1k(tree: FileTree) -> Found | None:
    """The folder with train and val."""
    names = set(_official_classes())
    validation = next((dict(class_files_in(tree, f)) for f in ("val", "validation") if tree.has_folder(f)), {})
    part = find_part(tree, ("train",), (_TAR,))
    if part is not None and part.archive:
        return _found(tree, part, validation, () if validation else (_SORTED,))
    is_beside = published_split(tree.path.name) is None  # the classes of train/ alone are found one folder above
    train = dict(class_files_in(tree, "train" if part else "")) if part or is_beside else {}
    if len(names & set(train)) <= len(names) / 2:
        return None
    missing = [f"class {name}" for name in sorted(names - set(train))]
    missing += [f"val/{name}" for name in sorted(names - set(validation))] if validation else [_SORTED]
    return _found(tree, train, validation, tuple(missing))


def _official_classes() -> Mapping[str, int]:
    sizes = OFFICIAL["imagenet-1k"].class_sizes["train"]
    assert not isinstance(sizes, int), "the classes differ in size"
    return sizes


def _found(
    tree: FileTree,
    train: Part | Mapping[str, ClassFiles],
    validation: Mapping[str, ClassFiles],
    missing: tuple[str, ...],
) -> Found:
    return Found(
        _LAYOUT_IMAGENET_1K, tree.path, ("imagenet-1k",), partial(_read_imagenet_1k, train, validation), missing
    )


def _read_imagenet_1k(
    train: Part | Mapping[str, ClassFiles], validation: Mapping[str, ClassFiles], request: ImportRequest
) -> Imported:
    if isinstance(train, Part):
        opened, folder = train.opened(request.stack)
        train = dict(class_files_in(opened, folder))
    splits: dict[SplitName, Classes] = {
        "train": _classes_imagenet_1k(train, request),
        "test": _classes_imagenet_1k(validation, request),
    }
    return imported(request, _LAYOUT_IMAGENET_1K, splits, are_named=have_official_names(request.dataset, splits))


def _classes_imagenet_1k(files: Mapping[str, ClassFiles], request: ImportRequest) -> Classes:
    classes = {}
    for label, place in files.items():
        tree, folder = place.opened()
        if place.is_tar:
            request.stack.callback(tree.close)
        # Copies that were converted to another format keep the official stem.
        images = sorted((f"{PurePosixPath(f).stem}.JPEG", f) for f in tree.files(folder) if IMAGE_FILE.fullmatch(f))
        classes[label] = ClassImages(tree, folder, [file for _, file in images], [name for name, _ in images])
    return classes


_LAYOUT_INATURALIST_2017 = "iNaturalist 2017"
_LISTS_INATURALIST_2017: dict[SplitName, str] = {"train": "train2017.json", "test": "val2017.json"}
_IMAGES = ("train_val_images", "2017")


def find_inaturalist_2017(tree: FileTree) -> Found | None:
    """The folder that holds the images' folder."""
    images = find_part(tree, _IMAGES, ("train_val_images.tar.gz", "train_val_images.tar", "2017.tgz"))
    lists = {file: part for file in _LISTS_INATURALIST_2017.values() if (part := _list(tree, file)) is not None}
    if not lists and (images is None or images.folders[0] != _IMAGES[0]):
        return None  # nothing, or a folder that happens to be called after a year
    missing = (() if images else ("train_val_images",)) + tuple(
        f"{file} (in train_val2017.zip)" for file in _LISTS_INATURALIST_2017.values() if file not in lists
    )
    read = partial(_read_inaturalist_2017, images or Part(tree, _IMAGES), lists)
    return Found(_LAYOUT_INATURALIST_2017, tree.path, ("inaturalist-2017",), read, missing)


def _list(tree: FileTree, file: str) -> Part | None:
    return find_part(tree, ("", "train_val2017", "annotations"), ("train_val2017.zip",), holding=file)


def _read_inaturalist_2017(images: Part, lists: Mapping[str, Part], request: ImportRequest) -> Imported:
    opened, folder = images.opened(request.stack)
    splits: dict[SplitName, Classes] = {}
    for split, file in _LISTS_INATURALIST_2017.items():
        holder, place = lists[file].opened(request.stack)
        classes: dict[str, list[str]] = {}
        for path in _file_names(holder, within(place, file)):
            # .../Aves/Accipiter badius/0b2e.jpg; species are told apart within their super-category only.
            label, _, name = "/".join(path.split("/")[-3:]).rpartition("/")
            classes.setdefault(label, []).append(name)
        splits[split] = {
            label: listed_images(opened, within(folder, label), label, names) for label, names in classes.items()
        }
    return imported(request, _LAYOUT_INATURALIST_2017, splits)


def _file_names(tree: FileTree, file: str) -> list[str]:
    """The images that a list of COCO's form names; everything else is dropped while it is read."""
    try:
        held = json.loads(read_text(tree, file), object_hook=_slim)
        return [str(name) for name in held["images"] if name is not None]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{tree.path / file} is no list of images ({error}). Obtain it again.") from error


def _slim(entry: dict[str, Any]) -> Any:
    return entry.get("file_name") if "images" not in entry else {"images": entry["images"]}


_LAYOUT_OXFORD_IIIT_PET = "Oxford-IIIT Pet"
_LISTS_OXFORD_IIIT_PET: dict[SplitName, str] = {"train": "trainval.txt", "test": "test.txt"}


def find_oxford_iiit_pet(tree: FileTree) -> Found | None:
    """The folder with both parts."""
    lists = find_part(tree, ("annotations",), ("annotations.tar.gz", "annotations.tar"), holding="trainval.txt")
    if lists is None:
        return None
    images = find_part(tree, ("images",), ("images.tar.gz", "images.tar"))
    missing = () if images else ("images or images.tar.gz",)
    return Found(
        _LAYOUT_OXFORD_IIIT_PET,
        tree.path,
        ("oxford-iiit-pet",),
        partial(_read_oxford_iiit_pet, lists, images or Part(tree, ("images",))),
        missing,
    )


def _read_oxford_iiit_pet(lists: Part, images: Part, request: ImportRequest) -> Imported:
    tree, folder = images.opened(request.stack)
    present = present_files(tree, folder)
    annotations, annotations_folder = lists.opened(request.stack)
    numbers: dict[str, str] = {}
    splits = {}
    for split, file in _LISTS_OXFORD_IIIT_PET.items():
        classes: dict[str, list[str]] = {}
        for image, number, _, _ in rows(annotations, within(annotations_folder, file), 4):
            name = image.rpartition("_")[0]
            if numbers.setdefault(name, number) != number:
                raise DatasetError(f"{annotations.path} numbers class {name} {numbers[name]} and {number}.")
            classes.setdefault(name, []).append(f"{image}.jpg")
        splits[split] = {name: listed_images(tree, folder, name, files, present) for name, files in classes.items()}
    return imported(request, _LAYOUT_OXFORD_IIIT_PET, splits)


_LAYOUT_PLACES365 = "Places365-standard"
_CATEGORIES, _TRAIN, _VALIDATION = "categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"
_SIZES = ("256", "large")


def find_places365(tree: FileTree) -> Found | None:
    """The folder with the lists; images of 256 pixels are taken before larger ones."""
    lists = {
        file: find_part(tree, ("", "filelist_places365-standard"), ("filelist_places365-standard.tar",), holding=file)
        for file in (_CATEGORIES, _TRAIN, _VALIDATION)
    }
    found = [(size, _images_places365(tree, size)) for size in _SIZES]
    size, images = next(((s, parts) for s, parts in found if all(parts.values())), found[0])
    present = {name: part for name, part in (lists | images).items() if part is not None}
    if not any(lists.values()):
        return None
    missing = tuple(name for name in (*lists, *images) if name not in present)
    return Found(f"{_LAYOUT} ({size})", tree.path, ("places365",), partial(_read_places365, size, present), missing)


def _images_places365(tree: FileTree, size: str) -> dict[str, Part | None]:
    return {
        f"data_{size}": find_part(
            tree, (f"data_{size}_standard", f"data_{size}"), (f"train_{size}_places365standard.tar",)
        ),
        f"val_{size}": find_part(tree, (f"val_{size}",), (f"val_{size}.tar",)),
    }


def _read_places365(size: str, parts: Mapping[str, Part], request: ImportRequest) -> Imported:
    def lines(name: str) -> Iterator[list[str]]:
        tree, folder = parts[name].opened(request.stack)
        return rows(tree, within(folder, name), 2)

    categories = {number: path.strip("/") for path, number in lines(_CATEGORIES)}
    train: dict[str, list[str]] = {}
    for path, number in lines(_TRAIN):
        folder, _, file = path.strip("/").rpartition("/")
        if categories.get(number) != folder:
            raise _disagree(path, number)
        train.setdefault(folder, []).append(file)
    validation: dict[str, list[str]] = {}
    for file, number in lines(_VALIDATION):
        if number not in categories:
            raise _disagree(file, number)
        validation.setdefault(categories[number], []).append(file)
    train_tree, top = parts[f"data_{size}"].opened(request.stack)
    val_tree, val_folder = parts[f"val_{size}"].opened(request.stack)
    present = present_files(val_tree, val_folder)
    splits: dict[SplitName, Classes] = {
        "train": {
            _name(path): listed_images(train_tree, within(top, path), _name(path), files)
            for path, files in train.items()
        },
        "test": {
            _name(path): listed_images(val_tree, val_folder, _name(path), files, present)
            for path, files in validation.items()
        },
    }
    return imported(request, f"{_LAYOUT} ({size})", splits)


def _name(path: str) -> str:
    """The class at a/apartment_building/outdoor."""
    return "-".join(path.split("/")[1:])


def _disagree(path: str, number: str) -> DatasetError:
    return DatasetError(f"{_CATEGORIES} has no class {number} that image {path} can be of. Obtain the lists again.")


CLASSIFICATION_LAYOUTS: tuple[Callable[[FileTree], Found | None], ...] = (
    find_cub_200_2011,
    find_caltech_256,
    find_flowers_102,
    find_oxford_iiit_pet,
    find_inaturalist_2017,
    find_places365,
    find_imagenet_1k,
    find_class_folders,
)

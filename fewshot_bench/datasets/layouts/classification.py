"""What the classification datasets share: parts that may still be packed, lists in text files, images by class."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.importers.classification.official import OFFICIAL, are_official_names, check_counts
from fewshot_bench.datasets.importers.found import Imported, ImportRequest
from fewshot_bench.datasets.importers.imagenet_images import natural
from fewshot_bench.datasets.listed import DecodedSplit, ListedSplit
from fewshot_bench.datasets.pixels import PixelRecipe
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

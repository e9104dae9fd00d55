"""Folders and archives of a user's own images: which folders are classes, and which are splits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.images import SkippedImage
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.own_listing import FileClaims, OwnListing, file_identity
from fewshot_bench.datasets.sources import FileTree
from fewshot_bench.datasets.sources.tree import by_composed, within
from fewshot_bench.errors import DatasetError

Layout = Literal["auto", "classes", "splits"]
Classes = dict[str, list[tuple[str, str]]]
"""For each class the names of its images, in NFC, and their paths in the tree."""

NOT_IMAGES = re.compile(r".*\.(txt|csv|json|md|xml|html?|pdf|py|zip|tar|gz|ini|log|mat|parquet|ya?ml)", re.IGNORECASE)
"""Names of texts, tables and archives, which are passed over in folders of images."""
_MOST_NAMED = 3


def list_folders(tree: FileTree, *, class_depth: int | None = None, layout: Layout = "auto") -> OwnListing:
    """Class folders, or split folders of class folders; one folder around them does not matter.

    Args:
        tree: the folder or archive.
        class_depth: how many folders make a class; None is 1 and refuses folders of class folders.
        layout: see `OwnOptions`.

    Raises:
        DatasetError: there are no images, or their folders do not tell the classes unambiguously.
    """
    skipped: list[SkippedImage] = []
    top = _top(tree, class_depth or 1, skipped)
    folders = list(by_composed(tree.folders(top), str(tree.path / top)).values())
    if not folders:
        content = "images, but no folders that say which class each is of" if tree.files(top) else "no images"
        raise DatasetError(
            f"{tree.path} holds {content}. Make one sub-folder per class, or a table with the columns path,label."
        )
    skipped += _outside(tree, top)
    notes: list[str] = []
    found: dict[SplitName | None, Classes] = {}
    split_folders = _split_folders(tree, top, folders, layout)
    for folder in folders if split_folders else ():
        if folder not in split_folders:
            skipped.append(SkippedImage(within(top, folder), "not a split"))
    for folder, split in split_folders.items():
        if split in found:
            raise DatasetError(
                f"{tree.path} has two folders for its {split} split. Leave one, or take all folders as classes with "
                "--layout classes."
            )
        skipped += _outside(tree, within(top, folder))
        found[split] = _list_classes(tree, within(top, folder), class_depth, skipped)
        if class_depth is None:
            notes += _check_depth(tree, within(top, folder), found[split])
    if not split_folders:
        found[None] = _list_classes(tree, top, class_depth, skipped)
        if class_depth is None:
            notes += _check_depth(tree, top, found[None], is_decided=layout == "classes")
    state = _state(tree, found, skipped)
    return OwnListing(str(tree.path), found, tree.read, skipped, state, notes=notes, clutter=tree.clutter)


def _top(tree: FileTree, class_depth: int, skipped: list[SkippedImage]) -> str:
    """The folder in which the first folders of classes or splits lie; texts and tables above it are named."""
    top = ""
    while len(tree.folders(top)) == 1 and all(NOT_IMAGES.fullmatch(name) for name in tree.files(top)):
        inner = within(top, tree.folders(top)[0])
        if not _has_levels(tree, inner, class_depth):
            break
        skipped += _outside(tree, top)
        top = inner
    return top


def _has_levels(tree: FileTree, folder: str, levels: int) -> bool:
    """Whether there are so many folders below each other in a folder."""
    return levels == 0 or any(_has_levels(tree, within(folder, name), levels - 1) for name in tree.folders(folder))


def _split_folders(tree: FileTree, top: str, folders: Sequence[str], layout: Layout) -> dict[str, SplitName]:
    """The folders that are splits, if any; raises DatasetError if that is unclear, or wanted ones are absent."""
    called = {name: split for name in folders if (split := published_split(name))}
    if layout == "classes":
        return {}
    if layout == "splits":
        if not called:
            raise DatasetError(
                f"{tree.path / top} has no folder that is called like a split: train, val and test are known, it has "
                f"{_listed(folders)}. Leave --layout splits out."
            )
        return called
    nested = [
        name
        for name in called
        if any(any(_images(tree, within(within(top, name), inner))) for inner in tree.folders(within(top, name)))
    ]
    flat = [name for name in called if name not in nested]
    others = [name for name in folders if name not in called and any(_images(tree, within(top, name)))]
    if nested and (others or flat):
        beside = others or flat
        raise DatasetError(
            f"{tree.path / top}: is {nested[0]} a split of class folders, or a class beside {_listed(beside)}? "
            f"--layout classes (of run, sweep or data import) takes every folder as a class; --layout splits takes "
            f"{_listed(list(called))} as splits{' and leaves the others out' if others else ''}."
        )
    if flat and not others:
        raise DatasetError(
            f"{tree.path / top}: {_listed(flat)} {'hold' if len(flat) > 1 else 'holds'} images, but no folders that "
            "say which class each is of. Make one sub-folder per class in each, or give a table with the columns "
            "path,label,split. If they are classes, add --layout classes."
        )
    return called if nested else {}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else "")


def _list_classes(tree: FileTree, folder: str, class_depth: int | None, skipped: list[SkippedImage]) -> Classes:
    classes: Classes = {}
    for label, place in _class_folders(tree, folder, class_depth or 1, skipped):
        images = []
        for name, file in _all_files(tree, place):
            if NOT_IMAGES.fullmatch(file):
                skipped.append(SkippedImage(file, "not an image"))
            else:
                images.append((name, file))
        if images:
            classes[label] = images
    if not classes:
        deep = f" {class_depth} folders deep" if class_depth is not None and class_depth > 1 else ""
        raise DatasetError(f"{tree.path / folder} holds no images in class folders{deep}.")
    return classes


def _outside(tree: FileTree, folder: str) -> list[SkippedImage]:
    return [SkippedImage(within(folder, name), "outside of a class folder") for name in tree.files(folder)]


def _class_folders(tree: FileTree, folder: str, depth: int, skipped: list[SkippedImage]) -> Iterator[tuple[str, str]]:
    """Name and place of every folder so many levels below one; files on the way are left out."""
    for name, on_disk in by_composed(tree.folders(folder), str(tree.path / folder)).items():
        place = within(folder, on_disk)
        if depth == 1:
            yield name, place
        else:
            skipped += _outside(tree, place)
            for inner, inner_place in _class_folders(tree, place, depth - 1, skipped):
                yield f"{name}/{inner}", inner_place


def _check_depth(tree: FileTree, folder: str, classes: Classes, *, is_decided: bool = False) -> list[str]:
    """Refuse to take folders of class folders for classes, unless that is decided; name classes that might be some.

    Raises:
        DatasetError: no image lies directly in a class folder, and one of these holds several folders.
    """
    several = {}
    for label, images in classes.items():
        inner = list(dict.fromkeys(name.partition("/")[0] for name, _ in images if "/" in name))
        if len(inner) > 1:
            several[label] = inner
    if not several:
        return []
    label, inner = next(iter(several.items()))
    if not is_decided and all("/" in name for images in classes.values() for name, _ in images):
        raise DatasetError(
            f"{tree.path / folder} holds folders of folders. If {label}/{inner[0]} and {label}/{inner[1]} are two "
            "classes, add --class-depth 2 (to run, sweep or data import); if they are one class, --class-depth 1."
        )
    return [
        f"class {label} holds the images of its sub-folders {_listed(inner)}"
        + (f" (and {len(several) - 1:,} more classes do so)" if len(several) > 1 else "")
        + ". If these are classes, add --class-depth 2; if not, --class-depth 1."
    ]


def _all_files(tree: FileTree, folder: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name, in NFC, and place of every file in a folder and below, sorted within each folder."""
    for name, on_disk in by_composed(tree.files(folder), str(tree.path / folder)).items():
        yield prefix + name, within(folder, on_disk)
    for name, on_disk in by_composed(tree.folders(folder), str(tree.path / folder)).items():
        yield from _all_files(tree, within(folder, on_disk), f"{prefix}{name}/")


def _images(tree: FileTree, folder: str) -> Iterator[str]:
    """Files in a folder and below that may be images."""
    return (file for _, file in _all_files(tree, folder) if not NOT_IMAGES.fullmatch(file))


def _state(
    tree: FileTree, found: dict[SplitName | None, Classes], skipped: list[SkippedImage]
) -> list[tuple[str, tuple[int, int]]]:
    """What changes when a file does; what cannot be opened, or is another name of a file, is taken out of its class.

    Raises:
        DatasetError: one file is in two classes or splits, by way of a link.
    """
    state = []
    claims = FileClaims(str(tree.path))
    archive_time = 0 if tree.description == "folder" else tree.path.stat().st_mtime_ns
    for split, classes in found.items():
        for label, images in list(classes.items()):
            kept = []
            for name, place in images:
                if tree.description != "folder":
                    state.append((place, (tree.size(place), archive_time)))
                    kept.append((name, place))
                    continue
                path = tree.path / place
                try:
                    status = path.stat()
                except OSError:
                    skipped.append(SkippedImage(place, "it cannot be opened; a link that leads nowhere?"))
                    continue
                if first := claims.first_name(file_identity(path, status), place, split, label):
                    skipped.append(SkippedImage(place, f"the same file as {first}"))
                    continue
                state.append((place, (status.st_size, status.st_mtime_ns)))
                kept.append((name, place))
            classes[label] = kept
    return state

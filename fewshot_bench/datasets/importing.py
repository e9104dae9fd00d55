"""Build a benchmark's store from a user's files or from a download.

The layout is recognized by the contents of folders and files, never by the name of an archive.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.datasets.catalogue import BENCHMARKS, DATASETS, import_command
from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.datasets.fetch import fetch
from fewshot_bench.datasets.images import Filter, Fit
from fewshot_bench.datasets.layouts import Found, ImportRequest
from fewshot_bench.datasets.layouts.cifar import find_cifar_arrays, find_cifar_images
from fewshot_bench.datasets.layouts.classification import CLASSIFICATION_LAYOUTS
from fewshot_bench.datasets.layouts.imagenet import find_imagenet_arrays, find_imagenet_flat, find_imagenet_images
from fewshot_bench.datasets.layouts.omniglot import find_omniglot
from fewshot_bench.datasets.sources import (
    MOST_ARCHIVES,
    ArchivesInFolder,
    FileTree,
    Subtree,
    archives_in,
    open_tree,
)
from fewshot_bench.datasets.sources.tree import within
from fewshot_bench.datasets.store import store_dataset
from fewshot_bench.errors import DatasetError, UnknownNameError
from fewshot_bench.progress import SILENT, Progress

LAYOUTS: tuple[Callable[[FileTree], Found | None], ...] = (
    find_cifar_images,
    find_cifar_arrays,
    find_imagenet_arrays,
    find_imagenet_images,
    find_imagenet_flat,
    find_omniglot,
    *CLASSIFICATION_LAYOUTS,
)
_DEEPEST = 3
_MOST_FOLDERS = 40  # a folder with more sub-folders holds classes, not layouts


def recognize(tree: FileTree) -> list[Found]:
    """Every layout in a tree or up to three folders below its top, complete ones first.

    Raises:
        DatasetError: a file that belongs to a layout is damaged or hostile, and nothing else was found.
    """
    found: list[Found] = []
    damage: DatasetError | None = None
    for place in _places(tree):
        for find in LAYOUTS:
            try:
                layout = find(place)
            except DatasetError as error:
                damage = damage or error
            else:
                found += [layout] if layout is not None else []
    found.sort(key=lambda layout: bool(layout.missing))
    if damage is not None and (not found or found[0].missing):
        raise damage
    return found


def _places(tree: FileTree) -> Iterator[FileTree]:
    """The tree and the folders in it, the upper ones first."""
    level = [""]
    for _ in range(_DEEPEST + 1):
        below: list[str] = []
        for folder in level:
            yield Subtree(tree, folder) if folder else tree
            names = tree.folders(folder)
            if len(names) <= _MOST_FOLDERS:
                below += [within(folder, name) for name in names]
        level = below


@checked_arguments
def import_dataset(
    name: str,
    source: Path | str,
    *,
    size: int | None = None,
    fit: Fit | None = None,
    interpolation: Filter | None = None,
    replace: bool = False,
    progress: Progress = SILENT,
) -> Dataset:
    """Build a benchmark's canonical store from files that the user has, in any known layout.

    `preprocessing["warnings"]` of the result tells what is unusual about the copy.

    Args:
        name: a benchmark that `is_benchmark`.
        source: a folder, an archive, or one of several files that belong together.
        size: side of the stored images in pixels, where the benchmark leaves a choice.
        fit: "squash" or "crop", where the benchmark leaves a choice.
        interpolation: Pillow's filter, where the benchmark leaves a choice.
        replace: whether stored pixels that differ may be replaced.
        progress: shown one unit per image.

    Raises:
        DatasetError: the source is missing, of no known layout, damaged, hostile or incomplete.

    >>> import fewshot_bench as fb
    >>> fb.import_dataset("cifar-fs", "downloads/cifar100.zip")  # doctest: +SKIP
    <Dataset: cifar-fs, 38,400 base, 9,600 validation, 12,000 novel images>
    """
    _check_has_importer(name)
    with ExitStack() as stack:
        found = _complete_layout(name, Path(source), stack)
        imported = found.read(ImportRequest(name, size, fit, interpolation, progress, stack))
        facts = imported.preprocessing | ({"warnings": list(imported.warnings)} if imported.warnings else {})
        return store_dataset(name, imported.splits, facts, identified_by=imported.identified_by, replace=replace)


def download_dataset(
    name: str,
    *,
    accepts_terms: bool = False,
    keep_files: bool = False,
    replace: bool = False,
    progress: Progress = SILENT,
) -> Dataset:
    """Download a benchmark's files from their public link, check them, and build its canonical store.

    Args:
        name: a benchmark that `is_benchmark`.
        accepts_terms: whether the user accepts the terms of use, where there are any to accept.
        keep_files: whether the downloaded files stay after the import.
        replace: whether stored pixels that differ may be replaced.
        progress: shown one unit per byte, then one per image.

    Raises:
        DatasetError: the terms were not accepted, or a file cannot be downloaded or differs from the published one.
    """
    _check_has_importer(name)
    benchmark = BENCHMARKS[name]
    if benchmark.remote_files is None:
        raise DatasetError(
            f"{name} cannot be downloaded. {benchmark.what_to_obtain} Then: {import_command(name)}. "
            f"Terms: {benchmark.terms}"
        )
    if benchmark.must_be_accepted and not accepts_terms:
        raise DatasetError(
            f"{name} comes under {benchmark.terms} If you accept, add --accept-terms. With files that you have: "
            f"{import_command(name)}"
        )
    folder = cache_folder() / "downloads" / name
    try:
        for file in benchmark.remote_files():
            fetch(file, folder, progress=progress)
    except DatasetError as error:
        message = str(error).replace("import NAME", f"import {name}")
        if f"import {name}" not in message:
            message += f" Or, with files from elsewhere: {import_command(name)}."
        raise DatasetError(f"{message} {benchmark.what_to_obtain}") from error
    dataset = import_dataset(name, folder, replace=replace, progress=progress)
    if not keep_files:
        shutil.rmtree(folder, ignore_errors=True)
    return dataset


def _complete_layout(name: str, source: Path, stack: ExitStack) -> Found:
    """The complete layout in a place; raises DatasetError with what there is instead."""
    layouts = layouts_at(source, stack)
    found = next((layout for layout in layouts if name in layout.datasets), None)
    if found is not None and not found.missing:
        return found
    if found is not None:
        more = f" and {len(found.missing) - 4} more" if len(found.missing) > 4 else ""
        raise DatasetError(
            f"{found.place} holds the {found.layout}, but {', '.join(found.missing[:4])}{more} "
            f"{'is' if len(found.missing) == 1 else 'are'} missing. --from expects all of it in one folder."
        )
    if layouts:
        offers = " or ".join(dict.fromkeys(dataset for layout in layouts for dataset in layout.datasets))
        raise DatasetError(f"{source} holds the {layouts[0].layout}, which gives {offers}, not {name}.")
    raise DatasetError(f"{source} holds no known layout of {name}. {BENCHMARKS[name].what_to_obtain}")


def layouts_at(source: Path, stack: ExitStack) -> list[Found]:
    """Every layout that a path holds, complete ones first; for one file of several, those of its folder.

    Raises:
        DatasetError: the path does not exist, or is damaged or hostile.
    """
    source = source.expanduser()
    tree = stack.enter_context(open_tree(source))
    found = recognize(tree)
    if tree.description == "file" and (not found or found[0].missing):
        folder = source.resolve().parent
        beside = recognize(stack.enter_context(open_tree(folder)))
        found = [layout for layout in beside if not layout.missing and layout.place == folder] or found
    if not found and source.is_dir() and 0 < len(archives_in(tree)) <= MOST_ARCHIVES:
        found = recognize(stack.enter_context(ArchivesInFolder(tree)))
    return found


def is_benchmark(name: str) -> bool:
    """Whether a name belongs to a dataset with its own importer."""
    return name in BENCHMARKS


def check_is_free_for_own_images(name: str) -> None:
    """Raise UnknownNameError for a name of own images that is nearly that of a benchmark."""
    _check_is_not_built_in(name)
    if difflib.get_close_matches(name.lower(), DATASETS.names(), n=1, cutoff=0.8):
        raise UnknownNameError("benchmark", name, DATASETS.names(), "Give your own images a less similar name.")


def _check_has_importer(name: str) -> None:
    if is_benchmark(name):
        return
    _check_is_not_built_in(name)
    hint = "For your own images: fewshot_bench.import_own_images."
    raise UnknownNameError("benchmark to import", name, BENCHMARKS, hint)


def _check_is_not_built_in(name: str) -> None:
    if name in DATASETS and DATASETS[name].facts.get("is_built_in"):
        raise DatasetError(f"{name} is built in; there is nothing to import. Use: fewshot-bench run --dataset {name}")

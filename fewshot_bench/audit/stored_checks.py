"""Checks of what is stored: the cell's description, its outcomes, and its tasks, drawn again without images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import read_bytes
from fewshot_bench.audit.finding import Finding
from fewshot_bench.audit.images import LocalImages
from fewshot_bench.episodes import Episodes, Protocol, WholeEpisodes, draw
from fewshot_bench.episodes.locks import Lock, episode_digests, lock_files, read_lock
from fewshot_bench.errors import AuditError, FewshotBenchError, OutcomeError
from fewshot_bench.limits import MOST_DRAWN, task_size
from fewshot_bench.outcomes import Cell, ProtocolCard
from fewshot_bench.outcomes.cell import read_description
from fewshot_bench.outcomes.checking import even_rows, first_missing, first_wrong
from fewshot_bench.outcomes.manifest import read_text
from fewshot_bench.outcomes.packing import Positions
from fewshot_bench.outcomes.part import Identity
from fewshot_bench.outcomes.store import merged, parts_in
from fewshot_bench.outcomes.stored_table import LARGEST_PART

PARTS = "stored parts"
COUNTS = "counts"


def read_parts(cell: Cell, folder: Location) -> tuple[pd.DataFrame | None, Finding]:
    """Read every part, and find gaps between episodes and episodes that are stored in two ways.

    Returns:
        One row per episode, by run and number, if every part can be read; and the finding.
    """
    parts = parts_in(folder)
    if not parts:
        return None, Finding(PARTS, "fail", "there are no outcomes")
    try:
        contents = ((part, read_bytes(part.location, LARGEST_PART)) for part in parts)
        columns = [part.read(content, Identity.of(cell), with_predictions=True) for part, content in contents]
        frame = merged(parts, columns)
    except OutcomeError as error:
        return None, Finding(PARTS, "fail", re.split(r"\. (Delete|Move) ", str(error))[0])
    assert frame is not None
    if cell.protocol.is_claimed:  # whose runs and numbers may be any
        return frame, Finding(PARTS, "pass", f"{len(parts)} readable, {len(frame):,} episodes")
    rows = sum(len(part["run"]) for part in columns)
    return frame, _completeness(frame, rows, len(parts), is_whole=cell.protocol.is_whole)


def _completeness(frame: pd.DataFrame, rows: int, parts: int, *, is_whole: bool) -> Finding:
    runs = frame["run"].unique()
    if list(runs) != list(range(len(runs))):
        return Finding(PARTS, "fail", f"there are the runs {', '.join(map(str, runs[:9]))}; one is missing")
    for run, numbers in frame.groupby("run")["episode"]:
        missing = first_missing(numbers.to_numpy())
        if missing < len(numbers):
            return Finding(PARTS, "fail", f"run {run} has {len(numbers):,} episodes, but not episode {missing}")
    counts = sorted({len(numbers) for _, numbers in frame.groupby("run")["episode"]})
    each = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    copies = rows - len(frame)
    note = f"; {copies:,} are stored twice alike" if copies else ""
    if is_whole:
        return Finding(PARTS, "pass", f"{parts} readable, {each} images without a gap{note}")
    return Finding(PARTS, "pass", f"{parts} readable, {len(runs)} runs of {each} episodes without a gap{note}")


def check_counts(cell: Cell, frame: pd.DataFrame, groups: Sequence[Episodes] | None) -> Finding:
    """Whether the stored predictions give the stored numbers of correct answers and accuracies.

    Without the tasks, every class has equally many queries.
    """
    if groups is None and not cell.protocol.has_even_queries:
        return Finding(COUNTS, "not checked", "how many queries each class has differs by task, and is not known")
    for rows, truth, way in _with_truth(cell, frame, groups):
        wrong = first_wrong(rows, truth, way, cell.protocol.way)
        if wrong:
            return Finding(COUNTS, "fail", wrong)
    mean = 100 * float(frame["accuracy"].mean())
    unit = "test images" if cell.protocol.is_whole else "episodes"
    return Finding(
        COUNTS, "pass", f"the predictions of {len(frame):,} {unit} give the stored counts, on average {mean:.2f}%"
    )


def _with_truth(
    cell: Cell, frame: pd.DataFrame, groups: Sequence[Episodes] | None
) -> list[tuple[pd.DataFrame, Positions, int]]:
    """Rows with as many predictions each, the true classes of their queries, [E, M], and N."""
    if groups is not None:
        by_name = frame.set_index(["run", "episode"], drop=False)
        names = [pd.MultiIndex.from_product([[episodes.run], episodes.numbers]) for episodes in groups]
        return [(by_name.loc[rows], group.truth, group.way) for rows, group in zip(names, groups, strict=True)]
    return even_rows(cell, frame)


DESCRIPTION = "description"
_KEY = re.compile(r"[0-9a-f]{16}")
_SHOWN = 3


def check_description(folder: Location) -> tuple[Cell | None, Finding]:
    """Read cell.json.

    Returns:
        The cell, if its method and protocol hold values of the right types, and the finding.
    """
    try:
        description = read_description(read_text(folder / "cell.json"))
    except (OSError, OutcomeError) as error:
        return None, Finding(DESCRIPTION, "fail", f"cell.json cannot be read: {error}")
    cell, ignored = description.cell, [*description.ignored.values()]
    if _KEY.fullmatch(folder.name) is None or cell.key != folder.name:
        finding = f"it describes the cell {cell.key}, and the folder is called {folder.name}"
        return cell, Finding(DESCRIPTION, "fail", finding)
    if ignored:
        more = f" and {len(ignored) - _SHOWN} more" if len(ignored) > _SHOWN else ""
        fields = "; ".join(ignored[:_SHOWN])
        return cell, Finding(DESCRIPTION, "fail", f"cell.json, taken as not recorded: {fields}{more}")
    return cell, Finding(DESCRIPTION, "pass", "method and protocol are those that the folder is named after")


SIZES = "class sizes"
TASKS = "tasks"
DIGEST = "published tasks"
_IMAGES_AT_ONCE = 1 << 22  # of the tasks that are checked together


@dataclass(frozen=True)
class ClassSizes:
    """Images per class of the split, [C], and where they are known from; None where they are not known."""

    sizes: tuple[int, ...] | None
    source: str


def class_sizes(cell: Cell, images: LocalImages) -> tuple[ClassSizes, Finding]:
    """The class sizes that the cell records, or else those of the images here, or else of a published lock file.

    Returns:
        The sizes, and whether recorded ones are those of the images here.
    """
    split = cell.protocol.split
    own = images.dataset.split(split).class_sizes if images.dataset is not None else None  # type: ignore[arg-type]  # any text was answered in `find_images`
    if cell.class_sizes:
        known = ClassSizes(cell.class_sizes, "as recorded")
        if own is None or not images.is_same:
            return known, Finding(SIZES, "not checked", images.reason or "the images here are others")
        if own != cell.class_sizes:
            return known, Finding(
                SIZES,
                "fail",
                f"recorded: {_size(cell.class_sizes)}; the images of the same fingerprint: {_size(own)}",
            )
        return known, Finding(SIZES, "pass", f"{_size(own)}, as the images here have")
    unrecorded = Finding(SIZES, "not checked", "the outcomes do not record them")
    if own is not None and images.is_same:
        return ClassSizes(own, "of the images here"), unrecorded
    published = [lock.class_sizes for lock in published_locks() if _is_of(lock, cell.protocol)]
    if published:
        return ClassSizes(published[0], "of a published lock file"), unrecorded
    return ClassSizes(None, "they are recorded neither in the outcomes nor in a lock file"), unrecorded


def redrawn_tasks(card: ProtocolCard, sizes: Sequence[int], frame: pd.DataFrame) -> list[Episodes]:
    """The tasks of stored outcomes (one row per episode), grouped by run and shape.

    Raises:
        FewshotBenchError: the protocol does not fit these class sizes, or there are too many tasks.
    """
    protocol = Protocol.of(card)
    size = task_size(protocol.way, protocol.shot, protocol.query, protocol.sampler)
    if len(frame) * size > 2 * MOST_DRAWN:
        raise AuditError(f"{len(frame):,} episodes of {size:,} images each are too many to draw again")
    at_once = max(1, _IMAGES_AT_ONCE // size)
    groups = []
    for run in frame["run"].unique():
        numbers = frame.loc[frame["run"] == run, "episode"].to_numpy(np.int64)
        for start in range(0, len(numbers), at_once):
            chunk = numbers[start : start + at_once]
            groups += draw(protocol, sizes, int(run), chunk, dataset_fingerprint=card.dataset_fingerprint)
    return groups


def check_tasks(groups: Sequence[Episodes], known: ClassSizes) -> Finding:
    """Whether support and queries are disjoint, with exactly N * K labels of N distinct classes."""
    assert known.sizes is not None
    whole = [episodes for episodes in groups if isinstance(episodes, WholeEpisodes)]
    if whole:
        return _check_images_of(whole, known.sizes, known.source)
    count = 0
    for episodes in groups:
        problem = task_problem(episodes, known.sizes)
        if problem:
            return Finding(TASKS, "fail", problem)
        count += len(episodes)
    shapes = sorted({(episodes.way, episodes.shot) for episodes in groups})
    labels = " or ".join(f"{way} x {shot}" for way, shot in shapes[:3]) + (", ..." if len(shapes) > 3 else "")
    return Finding(
        TASKS,
        "pass",
        f"{count:,} drawn again, class sizes {known.source}: no image is in support and queries, {labels} labels each",
    )


def _check_images_of(groups: Sequence[WholeEpisodes], sizes: Sequence[int], source: str) -> Finding:
    """Whether the episodes of a whole split are its images, each once and under its own number."""
    images = np.concatenate([episodes.images.ravel() for episodes in groups])
    numbers = np.concatenate([episodes.numbers for episodes in groups])
    if _has_duplicates(images[None])[0] or (images != numbers).any() or images.max(initial=0) >= sum(sizes):
        return Finding(TASKS, "fail", "an image occurs twice, or does not belong to the split")
    part = "all" if len(images) == sum(sizes) else f"only {len(images):,} of"
    return Finding(
        TASKS, "pass", f"{part} {sum(sizes):,} images of {len(sizes):,} classes, each once; class sizes {source}"
    )


def task_problem(episodes: Episodes, sizes: Sequence[int]) -> str:
    """The first problem of episodes of one shape, in words; empty where there is none."""
    protocol = episodes.protocol
    support, images = episodes.support, episodes.images.reshape(len(episodes), -1)
    if not len(episodes):
        return ""
    if support.shape[1] > protocol.way or support.shape[2] > protocol.shot:
        return f"there are {support.shape[1]} x {support.shape[2]} labels instead of {protocol.way} x {protocol.shot}"
    if support.min() < 0 or images.max() >= sum(sizes):
        return "a task has fewer labels than N x K, or names an image that the split does not have"
    pairs = zip(support, episodes.queries, strict=True)
    shared = _first(np.array([np.isin(queries, images).any() for images, queries in pairs]))
    if shared is not None:
        return f"{_episode(episodes, shared)}: an image is both in the support set and a query"
    repeated = _first(_has_duplicates(support.reshape(len(episodes), -1)) | _has_duplicates(episodes.queries))
    if repeated is not None:
        return f"{_episode(episodes, repeated)}: an image is there twice"
    classes = np.searchsorted(np.cumsum(sizes), episodes.images, side="right").astype(np.int64)
    of_row = classes[:, :, :1]
    mixed = _first(((classes != of_row) & (episodes.images >= 0)).any(axis=(1, 2)))
    if mixed is not None:
        return f"{_episode(episodes, mixed)}: images of one class are called two"
    doubled = _first(_has_duplicates(of_row[:, :, 0]))
    return "" if doubled is None else f"{_episode(episodes, doubled)}: a class is there twice"


def check_digest(cell: Cell, known: ClassSizes) -> Finding:
    """Whether the protocol, with these class sizes, gives the episodes of the published lock file."""
    card = cell.protocol
    if card.is_whole:
        return Finding(DIGEST, "pass", "every image of a whole split is a task: nothing is drawn")
    locks = [lock for lock in published_locks() if _is_of(lock, card) and _is_protocol(lock.protocol, card)]
    if not locks:
        return Finding(DIGEST, "not checked", "there is no published lock file of this protocol")
    if known.sizes is None:
        return Finding(DIGEST, "not checked", known.source)
    try:
        drawn = _digests(known.sizes, locks[0].protocol)
    except FewshotBenchError as error:
        return Finding(DIGEST, "fail", str(error))
    name = f"{locks[0].protocol.name}.toml"
    if drawn != locks[0].sha256:
        return Finding(DIGEST, "fail", f"with these class sizes the tasks are not those of {name}")
    return Finding(DIGEST, "pass", f"digest {drawn[0][:12]} of run 0, and those of the others, are in {name}")


@cache
def published_locks() -> tuple[Lock, ...]:
    """The lock files that come with this project."""
    return tuple(read_lock(path) for path in lock_files(None))


@lru_cache(maxsize=64)
def _digests(sizes: tuple[int, ...], protocol: Protocol) -> tuple[str, ...]:
    """Digests of a whole protocol, which takes seconds to draw and is shared by many cells."""
    return episode_digests(sizes, protocol)


def _is_of(lock: Lock, card: ProtocolCard) -> bool:
    return (lock.protocol.dataset, lock.protocol.split) == (card.dataset, card.split)


def _is_protocol(protocol: Protocol, card: ProtocolCard) -> bool:
    fields = ("way", "shot", "query", "seed", "sampler_version", "sampler", "sampler_settings")
    return all(getattr(protocol, name) == getattr(card, name) for name in fields)


def _size(sizes: Sequence[int]) -> str:
    least, most = min(sizes), max(sizes)
    return f"{len(sizes)} classes of {least if least == most else f'{least} to {most}'} images"


def _has_duplicates(rows: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.bool_]:
    ordered = np.sort(rows, axis=1)
    found: NDArray[np.bool_] = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    return found


def _first(is_so: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(is_so)) if is_so.any() else None


def _episode(episodes: Episodes, position: int) -> str:
    return f"run {episodes.run}, episode {episodes.numbers[position]}"
